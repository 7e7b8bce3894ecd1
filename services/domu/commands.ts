/**
 * What an operator may run in a guest, as if at its console: commands of this kernel and of its device drivers.
 * Arguments and results are JSON objects. Addresses are numbers.
 * Not modelled: processes, a shell; a command runs in the kernel.
 */

import type { PciFunctionDump } from '#gen/toolstack.ts';
import { errnoName } from '#shared/abi/errno.ts';
import { DOMID_SELF } from '#shared/abi/hypercall.ts';
import { DMA_PROBE_CHECKSUM_START, dmaProbeFill, dmaProbeMismatches, dmaProbeSum } from '#shared/arch/dma-probe.ts';
import { PCI, PCI_CFG_SPACE_BYTES, PCI_CFG_SPACE_EXP_BYTES } from '#shared/arch/pci/header.ts';
import { AssertionError } from '#shared/core/assert.ts';
import { LIMITS } from '#shared/core/limits.ts';
import { Indefinite, type Op, TimedOut } from '#shared/core/op.ts';
import { type Address64, addressJson, addressPlus } from '#shared/ids/address64.ts';
import { formatSbdf, parseSbdf } from '#shared/ids/sbdf.ts';
import { le32 } from '#shared/kernel/cpu-bus.ts';
import { HypercallFailed } from '#shared/kernel/hypercalls.ts';
import { XenstoreError } from '#shared/kernel/xenstore-client.ts';
import { DmaProbe } from './drivers/dma-probe.ts';
import { type BoundDriver, irqsOf } from './drivers/driver.ts';
import { formatMac, NIC_FRAME_LIMITS, NicDevice, parseMac } from './drivers/nic.ts';
import { NvmeDevice } from './drivers/nvme.ts';
import { nvmeCheck } from './drivers/nvme-check.ts';
import type { Kernel } from './kernel/boot.ts';

/** A command that cannot be run as it was asked. The text is for the operator. */
export class CommandError extends Error {
  override name = 'CommandError';
}

type Args = Readonly<Record<string, unknown>>;
type Command = (kernel: Kernel, args: Args) => Op<unknown>;

const ROUND_NS = 5e9;
const COPY_BYTES_MAX = 1024 * 1024;

const COMMANDS: Readonly<Record<string, Command>> = {
  devices,
  memory,
  interrupts,
  hostile,
  'dma-check': dmaCheck,
  'dma-access': dmaAccess,
  setpci,
  'nic-check': nicCheck,
  'nvme-check': nvmeCheckCommand,
};

/** Runs a command; `args` is a JSON object or empty. Gives the error text, or the result as JSON. */
export function* runCommand(kernel: Kernel, name: string, args: string): Op<{ error: string; result: string }> {
  try {
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
    if (command === undefined) {
      throw new CommandError(`no command "${name}"; there are ${Object.keys(COMMANDS).sort().join(', ')}`);
    }
    return { error: '', result: JSON.stringify(yield* command(kernel, parseArgs(args))) };
  } catch (error) {
    if (error instanceof AssertionError) throw error;
    return { error: error instanceof Error ? error.message : `${error}`, result: '' };
  }
}

/** The functions of the virtual bus with 256 bytes of configuration space, as the backend shows them. */
export function* lspci(kernel: Kernel): Op<PciFunctionDump[]> {
  const dumps: PciFunctionDump[] = [];
  for (const { fn, driver } of kernel.bus.functions) {
    const config = new Uint8Array(PCI_CFG_SPACE_BYTES).fill(0xff);
    const ids = yield* kernel.requests.read(fn.sbdf, PCI.VENDOR_ID, 4);
    // A function that is not there, or a backend that is silent, is not asked 64 times.
    const sizeBytes = ids === 0xffff_ffff ? 0 : config.length;
    for (let at = 0; at < sizeBytes; at += 4) config.set(le32(yield* kernel.requests.read(fn.sbdf, at, 4)), at);
    dumps.push({ sbdf: fn.sbdf, config, driver: driver?.name ?? '' });
  }
  return dumps;
}

/** What `devices` gives, without asking the backend. */
export function describeFunctions(kernel: Kernel): unknown[] {
  return kernel.bus.functions.map(({ fn, driver }) => ({
    sbdf: formatSbdf(fn.sbdf),
    vendorId: fn.vendorId,
    deviceId: fn.deviceId,
    classCode: fn.classCode,
    bars: fn.bars,
    msixVectors: fn.msix?.vectors ?? 0,
    intx: fn.intx,
    driver: driver?.name ?? '',
    irqs: hasVectors(driver) ? driver.irqs : 'none',
    vectors: hasVectors(driver) ? driver.vectors : 0,
  }));
}

// biome-ignore lint/correctness/useYield: a command is an operation, and this one needs no step
function* devices(kernel: Kernel): Op<unknown> {
  return { functions: describeFunctions(kernel) };
}

// biome-ignore lint/correctness/useYield: as above
function* memory({ pages }: Kernel): Op<unknown> {
  const { base, sizeBytes } = pages.banks[0]!;
  return { base, sizeBytes, banks: pages.banks, freeBytes: pages.freeBytes };
}

/**
 * {bdf?, bytes, seed?}: the device writes its pattern over a range, the CPU compares every word; then the CPU writes
 * another pattern into the first chunk, the device copies that to the last one and sums the whole range up.
 */
function* dmaCheck(kernel: Kernel, args: Args): Op<unknown> {
  const probe = findProbe(kernel, args);
  const bytes = whole(args, 'bytes', undefined);
  const seed = whole(args, 'seed', 1) >>> 0;
  if (bytes < 8 || bytes % 8 !== 0) throw new CommandError('"bytes" is a multiple of 8');
  const ipa = kernel.pages.take(bytes);
  let busy = false;
  try {
    return yield* dmaCheckRange(kernel, probe, ipa, bytes, seed);
  } catch (error) {
    busy = error instanceof TimedOut || error instanceof Indefinite;
    throw error;
  } finally {
    // A device that is still at it may write there at any time: then the memory stays taken.
    if (!busy) kernel.pages.free(ipa, bytes);
  }
}

function* dmaCheckRange(kernel: Kernel, probe: DmaProbe, ipa: number, bytes: number, seed: number): Op<unknown> {
  const chunk = Math.min(COPY_BYTES_MAX, bytes / 2);
  const cpuSeed = ~seed >>> 0;
  succeed('write', yield* probe.write(ipa, bytes, seed));
  const fresh = new Int32Array(chunk / 4);
  dmaProbeFill(fresh, cpuSeed, 0);
  // What READ should sum up below: the CPU's words in the first chunk and, copied, in the last; the device's between.
  let sum = dmaProbeSum(fresh, DMA_PROBE_CHECKSUM_START);
  let mismatches = 0;
  for (let at = 0; at < bytes; at += LIMITS.bulkAccessBytes) {
    const words = int32s(yield* kernel.cpu.read(ipa + at, Math.min(LIMITS.bulkAccessBytes, bytes - at)));
    mismatches += dmaProbeMismatches(words, seed, at / 4);
    const first = Math.max(0, (chunk - at) / 4);
    const end = Math.min(words.length, (bytes - chunk - at) / 4);
    if (first < end) sum = dmaProbeSum(words.subarray(first, end), sum);
  }
  sum = dmaProbeSum(fresh, sum);
  yield* kernel.cpu.write(ipa, new Uint8Array(fresh.buffer));
  succeed('copy', yield* probe.copy(ipa, ipa + bytes - chunk, chunk));
  const { checksum } = succeed('read', yield* probe.read(ipa, bytes));
  if (checksum !== sum) mismatches++;
  return {
    sbdf: formatSbdf(probe.sbdf),
    ipa,
    bytesWritten: bytes + chunk,
    bytesRead: bytes + chunk,
    mismatches,
    checksum,
    checksumExpected: sum,
  };
}

/** The bytes as words, in place where they are aligned. */
function int32s(bytes: Uint8Array): Int32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  return new Int32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength >>> 2);
}

/**
 * {bdf?, count, vectors?, intx?}: raises vectors in rounds until `count` interrupts were counted; a round that loses one is
 * the last. With `intx` the driver is bound anew if it has to be, to use INTx or not to.
 */
function* interrupts(kernel: Kernel, args: Args): Op<unknown> {
  const probe = yield* withIrqs(kernel, findProbe(kernel, args), args);
  const count = whole(args, 'count', undefined);
  const width = whole(args, 'vectors', 1);
  if (width < 1 || width > probe.vectors)
    throw new CommandError(`${formatSbdf(probe.sbdf)} has ${probe.vectors} vectors`);
  const start = [...probe.delivered];
  let raised = 0;
  let complete = true;
  while (raised < count && complete) {
    const before = [...probe.delivered];
    const round = Math.min(width, count - raised);
    yield* probe.raise(round);
    raised += round;
    const arrived = (): boolean => before.slice(0, round).every((n, v) => probe.delivered[v]! > n);
    complete = yield* probe.waitForInterrupts(arrived, ROUND_NS, kernel.runtime);
  }
  const perVector = probe.delivered.slice(0, width).map((n, v) => n - start[v]!);
  const delivered = perVector.reduce((sum, n) => sum + n, 0);
  const lost = Math.max(0, raised - delivered);
  return { sbdf: formatSbdf(probe.sbdf), irqs: probe.irqs, delivered, perVector, lost, raised };
}

/** The driver as `intx` of the arguments wants it, if it says anything. */
function* withIrqs(kernel: Kernel, probe: DmaProbe, { intx }: Args): Op<DmaProbe> {
  if (intx === undefined) return probe;
  if (typeof intx !== 'boolean') throw new CommandError('"intx" is true or false');
  const known = kernel.bus.functions.find(({ fn }) => fn.sbdf === probe.sbdf);
  if (known === undefined || irqsOf(known.fn.msix, known.fn.intx, !intx) !== (intx ? 'intx' : 'msix')) {
    throw new CommandError(`${formatSbdf(probe.sbdf)} has no ${intx ? 'INTx' : 'MSI-X'} here`);
  }
  const driver = yield* kernel.bus.rebind(probe.sbdf, !intx);
  if (!(driver instanceof DmaProbe)) throw new CommandError(`${formatSbdf(probe.sbdf)} lost its driver`);
  return driver;
}

/** {bdf, offset, bytes?, value?}: reads configuration space, or writes `value` there and reads it back, as the backend lets it. */
function* setpci(kernel: Kernel, args: Args): Op<unknown> {
  const sbdf = typeof args['bdf'] === 'string' ? parseSbdf(args['bdf']) : undefined;
  if (sbdf === undefined || !kernel.bus.functions.some(({ fn }) => fn.sbdf === sbdf)) {
    throw new CommandError(`no function at ${JSON.stringify(args['bdf'])}`);
  }
  const offset = whole(args, 'offset', undefined);
  const bytes = whole(args, 'bytes', 2);
  if (![1, 2, 4].includes(bytes) || offset % bytes !== 0 || offset + bytes > PCI_CFG_SPACE_EXP_BYTES) {
    throw new CommandError('"bytes" is 1, 2 or 4, and "offset" is aligned to it, below 4096');
  }
  if (args['value'] !== undefined) {
    yield* kernel.requests.write(sbdf, offset, bytes, whole(args, 'value', undefined) % 2 ** (8 * bytes));
  }
  return { sbdf: formatSbdf(sbdf), offset, value: yield* kernel.requests.read(sbdf, offset, bytes) };
}

/** {bdf?, op, address, bytes, seed?}: one DMA to any bus address. */
function* dmaAccess(kernel: Kernel, args: Args): Op<unknown> {
  const probe = findProbe(kernel, args);
  const address = addressIn(args);
  const bytes = whole(args, 'bytes', 4);
  if (bytes < 4 || bytes % 4 !== 0) throw new CommandError('"bytes" is a multiple of 4');
  const { op } = args;
  if (op !== 'read' && op !== 'write') throw new CommandError('"op" is "read" or "write"');
  const done =
    op === 'read'
      ? yield* probe.read(address, bytes)
      : yield* probe.write(address, bytes, whole(args, 'seed', 1) >>> 0);
  return {
    aborted: done.aborted,
    errorAddress: addressJson(done.errorAddress),
    status: done.status,
    ...(op === 'read' ? { checksum: done.checksum } : {}),
  };
}

/**
 * {bdf?, bytes, lba?, seed?, only?}: a pattern goes to the blocks of namespace 1 and comes back, and the CPU compares; with
 * `only` "write" or "read" it does one of the two.
 */
function* nvmeCheckCommand(kernel: Kernel, args: Args): Op<unknown> {
  const device = findDriver(kernel, args, NvmeDevice, 'nvme');
  const bytes = whole(args, 'bytes', undefined);
  const lba = whole(args, 'lba', 0);
  if (bytes === 0 || bytes % device.blockBytes !== 0)
    throw new CommandError(`"bytes" is a multiple of ${device.blockBytes}`);
  if (lba + bytes / device.blockBytes > device.blocks) throw new CommandError(`there are ${device.blocks} blocks`);
  const only = args['only'];
  if (only !== undefined && only !== 'write' && only !== 'read') throw new CommandError('"only" is "write" or "read"');
  const seed = whole(args, 'seed', 1) >>> 0;
  return yield* nvmeCheck(device, kernel.cpu, kernel.pages, { lba, bytes, seed, only });
}

/**
 * {bdf?, to?, count?, bytes?, seed?, expect?}: sends `count` frames (none when absent) to a MAC address (all when absent),
 * then waits until `expect` frames were received in all. Frames say what has to be in them; "wrong" counts those that lie.
 */
function* nicCheck(kernel: Kernel, args: Args): Op<unknown> {
  const device = findDriver(kernel, args, NicDevice, 'nic');
  const count = whole(args, 'count', 0);
  const bytes = whole(args, 'bytes', 1514);
  const { min, max } = NIC_FRAME_LIMITS;
  if (bytes < min || bytes > max) throw new CommandError(`"bytes" is from ${min} to ${max}`);
  const to = parseMac(`${args['to'] ?? 'broadcast'}`);
  if (to === undefined) throw new CommandError('"to" is an address such as 52:54:00:00:00:01');
  yield* device.send(to, count, bytes, whole(args, 'seed', 1) >>> 0, ROUND_NS);
  const complete = yield* device.expect(whole(args, 'expect', 0), ROUND_NS);
  const { sbdf, mac, sent, received, wrong, interrupts: taken } = device;
  const link = yield* device.link();
  return { sbdf: formatSbdf(sbdf), mac: formatMac(mac), link, sent, received, wrong, complete, interrupts: taken };
}

/** {attack, ...}: something that a guest may not do, tried for real. Gives the errno that stopped it, or "OK". */
function* hostile(kernel: Kernel, args: Args): Op<unknown> {
  const { hypercalls, store, events } = kernel;
  const domid = whole(args, 'domid', 0);
  const attempts: Record<string, () => Op<unknown>> = {
    memory_mapping: () =>
      hypercalls.memory_mapping(DOMID_SELF, 0x5_0000, whole(args, 'mfn', 0x4_0000), whole(args, 'frames', 1), true),
    iomem_permission: () =>
      hypercalls.iomem_permission(DOMID_SELF, whole(args, 'mfn', 0x4_0000), whole(args, 'frames', 1), true),
    bind_foreign_port: () => events.bindInterdomain(domid, whole(args, 'port', 1)),
    write_foreign_node: () => store.write(`${args['path'] ?? `/local/domain/${domid}/name`}`, 'intruder'),
    map_foreign_gmfn: () => hypercalls.map_foreign(domid, [whole(args, 'gfn', 0x4_0000)], [0x3_8100]),
  };
  const attack = `${args['attack']}`;
  const attempt = Object.hasOwn(attempts, attack) ? attempts[attack] : undefined;
  if (attempt === undefined) {
    throw new CommandError(`no attack "${attack}"; there are ${Object.keys(attempts).join(', ')}`);
  }
  try {
    yield* attempt();
    return { attack, errno: 'OK' };
  } catch (error) {
    if (error instanceof HypercallFailed) return { attack, errno: errnoName(error.errno) };
    if (error instanceof XenstoreError) return { attack, errno: error.code };
    throw error;
  }
}

function hasVectors(driver: BoundDriver | undefined): driver is DmaProbe | NicDevice | NvmeDevice {
  return driver instanceof DmaProbe || driver instanceof NicDevice || driver instanceof NvmeDevice;
}

function succeed<T extends { aborted: boolean; errorAddress: Address64 }>(what: string, outcome: T): T {
  if (outcome.aborted) {
    throw new CommandError(`the device's ${what} was aborted at 0x${outcome.errorAddress.toString(16)}`);
  }
  return outcome;
}

/** The function that `bdf` names (as this guest sees it), or the first one that a dma-probe driver has. */
function findProbe(kernel: Kernel, args: Args): DmaProbe {
  return findDriver(kernel, args, DmaProbe, 'dma-probe');
}

function findDriver<T extends BoundDriver & { readonly sbdf: number }>(
  kernel: Kernel,
  { bdf }: Args,
  kind: abstract new (...args: never[]) => T,
  name: string,
): T {
  const bound = kernel.bus.functions.map((f) => f.driver).filter((d): d is T => d instanceof kind);
  if (bdf === undefined) {
    if (bound[0] === undefined) throw new CommandError(`this guest has no ${name}`);
    return bound[0];
  }
  const sbdf = typeof bdf === 'string' ? parseSbdf(bdf) : undefined;
  const found = bound.find((d) => d.sbdf === sbdf);
  if (found === undefined) throw new CommandError(`no ${name} at ${JSON.stringify(bdf)}`);
  return found;
}

function parseArgs(text: string): Args {
  if (text === '') return {};
  let args: unknown;
  try {
    args = JSON.parse(text);
  } catch {
    throw new CommandError('the arguments are no JSON');
  }
  if (typeof args !== 'object' || args === null || Array.isArray(args)) {
    throw new CommandError('the arguments are no JSON object');
  }
  return args as Args;
}

/** A whole number from 0 to 2^53; `absent` when it is not given (undefined: it has to be). */
/** The "address" of a command: a number, or hexadecimal text for one of up to 64 bits. */
function addressIn(args: Args): Address64 {
  const { address } = args;
  if (typeof address === 'string' && /^0x[0-9a-f]{1,16}$/i.test(address)) return addressPlus(BigInt(address), 0);
  if (typeof address === 'number') return whole(args, 'address', undefined);
  throw new CommandError('"address" is a whole number, or text such as "0xffff800012345678"');
}

function whole(args: Args, name: string, absent: number | undefined): number {
  const value = args[name] ?? absent;
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new CommandError(`"${name}" is a whole number`);
  }
  return value;
}
