/**
 * `xl create` (libxl_create.c, libxl_dom.c, libxl_arm.c; libxc xg_dom_arm.c, xg_dom_boot.c): builds a domain step by step,
 * hands it to a guest process that was waiting, and lets it run. The undo of each step stands beside it.
 * Not modelled: a kernel image, which is the guest process itself; the console's page exists, is named and
 * granted, but no ring is in it. Soft reset, migration, device models.
 * Deviates from libxl: `passthrough` defaults to enabled, also without devices in the configuration, so that any guest can
 * get one later (T11).
 */

import type { DomainConfig } from '#gen/toolstack.ts';
import { GUEST_MAGIC_BASE, XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { XEN_DOMCTL_CDF, XEN_DOMCTL_CONFIG_GIC_NATIVE, XEN_DOMCTL_CONFIG_GIC_V2 } from '#shared/abi/domctl.ts';
import { HVM_PARAM } from '#shared/abi/hvm.ts';
import { SPI_FIRST } from '#shared/arch/gic/distributor.ts';
import { body } from '#shared/core/core.ts';
import { call, type Op, Undo, withLock } from '#shared/core/op.ts';
import { Prng } from '#shared/core/prng.ts';
import {
  DEVICE_WAIT_NS,
  Guest,
  type Libxl,
  LibxlFailed,
  type Log,
  plain,
  RC,
  reasonOf,
  undoFailed,
} from './context.ts';
import { devicetreeIpa, guestDevicetree, ramBanks } from './guest-devicetree.ts';
import { initStorePage, seedGrantTable, writeGuest } from './guest-memory.ts';
import { pciAdd } from './pci-add.ts';
import { pciRemoveAll } from './pci-remove.ts';
import { domainNodes, removeDomainNodes, writeNodes } from './xenstore-layout.ts';

const MIB = 1024 * 1024;
const CONSOLE_GFN = GUEST_MAGIC_BASE / XEN_PAGE_SIZE;
const STORE_GFN = CONSOLE_GFN + 1;
/** What libxl gives a domain beyond its memory (LIBXL_MAXMEM_CONSTANT). */
const SLACK_KIB = 1024;
/** Orders of the extents that memory is asked for in: 1 GiB, 2 MiB, 4 KiB. */
const EXTENT_ORDERS = [18, 9, 0] as const;
const EXTENTS_PER_CALL = 512;
const DEFAULT_EVENT_CHANNELS = 1023;
const DEFAULT_GRANT_FRAMES = 64;
const DEFAULT_MAPTRACK_FRAMES = 1024;
/** How long to look for a process that takes the domain. */
const TAKE_NS = 30_000 * 1e6;

/** Creates a domain and gives its id. Logs and throws LibxlFailed, with nothing left behind, when it cannot. */
export function* domainCreate(ctx: Libxl, log: Log, config: DomainConfig, paused: boolean): Op<number> {
  checkConfig(log, config);
  const undo = new Undo();
  try {
    return yield* build(ctx, log, config, paused, undo);
  } catch (error) {
    if (!(error instanceof LibxlFailed)) log.error(`cannot (re-)build domain: ${reasonOf(error)}`);
    yield* undo.run(undoFailed(ctx));
    throw error instanceof LibxlFailed ? error : new LibxlFailed(RC.FAIL);
  }
}

function checkConfig(log: Log, config: DomainConfig): void {
  const wrong = (text: string): never => {
    log.error(text);
    throw new LibxlFailed(RC.INVAL);
  };
  if (config.passthrough === 'disabled' && config.pci.length > 0)
    wrong('passthrough disabled but devices are specified');
  if (config.passthrough === 'sync_pt') wrong('passthrough mode sync_pt is not supported on this platform');
  if (config.memoryMib < 4) wrong(`memory of ${config.memoryMib} MiB is too small`);
  if (config.vcpus < 1 || config.vcpus > 128) wrong(`${config.vcpus} vcpus are not between 1 and 128`);
}

function* build(ctx: Libxl, log: Log, config: DomainConfig, paused: boolean, undo: Undo): Op<number> {
  const { hypercalls } = ctx.kernel;
  const { guest, gicVersion } = yield* makeDomain(ctx, log, config, undo);
  const { domid } = guest;
  const memoryBytes = config.memoryMib * MIB;
  yield* hypercalls.max_vcpus(domid, config.vcpus);
  yield* hypercalls.max_mem(domid, config.memoryMib * 1024 + SLACK_KIB);
  for (const bank of ramBanks(memoryBytes)) {
    yield* populate(ctx, log, domid, bank.address / XEN_PAGE_SIZE, bank.sizeBytes / XEN_PAGE_SIZE);
  }
  yield* populate(ctx, log, domid, CONSOLE_GFN, 2);
  const storePort = yield* hypercalls.evtchn_alloc_unbound(domid, 0);
  const consolePort = yield* hypercalls.evtchn_alloc_unbound(domid, 0);
  yield* hypercalls.hvm_set_param(domid, HVM_PARAM.CONSOLE_PFN, CONSOLE_GFN);
  yield* hypercalls.hvm_set_param(domid, HVM_PARAM.CONSOLE_EVTCHN, consolePort);
  yield* hypercalls.hvm_set_param(domid, HVM_PARAM.STORE_PFN, STORE_GFN);
  yield* hypercalls.hvm_set_param(domid, HVM_PARAM.STORE_EVTCHN, storePort);
  yield* seedGrantTable(ctx, domid, { consoleGfn: CONSOLE_GFN, storeGfn: STORE_GFN });
  yield* initStorePage(ctx, domid, STORE_GFN);

  const tree = guestDevicetree({ memoryBytes, vcpus: config.vcpus, cmdline: config.cmdline, gicVersion });
  const treeIpa = devicetreeIpa(memoryBytes, tree.length);
  yield* writeGuest(ctx, domid, treeIpa, tree);
  yield* hypercalls.setvcpucontext(domid, 0, ramBanks(memoryBytes)[0]!.address, treeIpa);

  yield* introduce(ctx, guest, config, storePort, consolePort, undo);
  if (config.pci.length > 0) undo.push('pci devices', () => pciRemoveAll(ctx, guest));
  for (const spec of config.pci) yield* pciAdd(ctx, log, guest, spec);
  yield* findProcess(ctx, log, domid, undo);
  if (!paused) {
    yield* hypercalls.unpausedomain(domid);
    guest.started = true;
  }
  return domid;
}

/** The domain itself, under a name that nobody else has, and the version of the GIC that Xen gave it. */
function* makeDomain(
  ctx: Libxl,
  log: Log,
  config: DomainConfig,
  undo: Undo,
): Op<{ readonly guest: Guest; readonly gicVersion: 2 | 3 }> {
  const { hypercalls } = ctx.kernel;
  return yield* withLock(ctx.nameLock, function* () {
    if (config.name === 'Domain-0' || [...ctx.guests.values()].some((g) => g.name === config.name)) {
      log.error(`Domain with name "${config.name}" already exists.`);
      throw new LibxlFailed(RC.INVAL);
    }
    const iommu = config.passthrough === 'disabled' ? 0 : XEN_DOMCTL_CDF.iommu;
    const handle = uuidBytes(config.uuid, ctx.kernel.runtime.now);
    const created = yield* hypercalls.createdomain({
      handle,
      flags: XEN_DOMCTL_CDF.hvm | XEN_DOMCTL_CDF.hap | iommu,
      max_vcpus: config.vcpus,
      max_evtchn_port: config.maxEventChannels || DEFAULT_EVENT_CHANNELS,
      max_grant_frames: config.maxGrantFrames || DEFAULT_GRANT_FRAMES,
      max_maptrack_frames: DEFAULT_MAPTRACK_FRAMES,
      gic_version: XEN_DOMCTL_CONFIG_GIC_NATIVE,
      // Any function may be attached later, and its line has the machine's number.
      nr_spis: Math.max(0, ctx.kernel.sysfs.highestIrq + 1 - SPI_FIRST),
    });
    const { domid } = created;
    undo.push('createdomain', () => hypercalls.destroydomain(domid));
    const uuid = formatUuid(handle);
    const guest = new Guest(domid, config.name, uuid, config.onCrash || 'destroy');
    ctx.guests.set(domid, guest);
    const forget = (): void => {
      guest.died();
      ctx.guests.delete(domid);
    };
    undo.push('guest', plain(forget));
    return { guest, gicVersion: created.config.gic_version === XEN_DOMCTL_CONFIG_GIC_V2 ? 2 : 3 };
  });
}

/** Gives a domain `frames` pages from `gfn`, in extents as large as alignment and Xen's free memory allow. */
function* populate(ctx: Libxl, log: Log, domid: number, gfn: number, frames: number): Op<void> {
  const end = gfn + frames;
  /** Orders that Xen can still serve, largest first. */
  let orders: readonly number[] = EXTENT_ORDERS;
  for (let at = gfn; at < end; ) {
    const order = orders.find((o) => at % 2 ** o === 0 && at + 2 ** o <= end) ?? 0;
    const extents = extentsFrom(at, end, order, orders);
    const done = yield* ctx.kernel.hypercalls.populate_physmap(domid, extents, order);
    at += done * 2 ** order;
    if (done === extents.length) continue;
    if (order === 0) {
      log.error(`Domain ${domid}:xc_dom_boot_mem_init: can't allocate low memory for domain`);
      throw new LibxlFailed(RC.NOMEM);
    }
    orders = orders.filter((o) => o < order);
  }
}

/** As many extents of `order` from `at` as one call takes, up to where a larger one fits. */
function extentsFrom(at: number, end: number, order: number, orders: readonly number[]): number[] {
  const larger = orders.filter((o) => o > order).at(-1);
  const boundary = larger === undefined ? end : Math.ceil(at / 2 ** larger) * 2 ** larger;
  const largerFits = larger !== undefined && boundary + 2 ** larger <= end;
  const upTo = largerFits ? boundary : end;
  const count = Math.min(EXTENTS_PER_CALL, Math.floor((upTo - at) / 2 ** order));
  return Array.from({ length: count }, (_, i) => at + i * 2 ** order);
}

function* introduce(
  ctx: Libxl,
  guest: Guest,
  config: DomainConfig,
  storePort: number,
  consolePort: number,
  undo: Undo,
): Op<void> {
  const { store, runtime } = ctx.kernel;
  const { domid, name, uuid } = guest;
  undo.push('store nodes', () => store.transaction((tx) => removeDomainNodes(tx, domid, uuid)));
  const nodes = domainNodes({
    domid,
    name,
    uuid,
    memoryKib: config.memoryMib * 1024,
    vcpus: config.vcpus,
    storePort,
    storeGfn: STORE_GFN,
    consolePort,
    consoleGfn: CONSOLE_GFN,
    startTime: runtime.now / 1e9,
  });
  yield* store.transaction((tx) => writeNodes(tx, nodes));
  yield* store.introduce(domid, STORE_GFN, storePort);
  undo.push('introduce', function* () {
    yield* store.release(domid);
    yield* ctx.storeRings.waitGone(domid, DEVICE_WAIT_NS);
  });
}

/** A process for the domain: it makes a key pair, the key keeper signs what that domain may do, the process gets it. */
function* findProcess(ctx: Libxl, log: Log, domid: number, undo: Undo): Op<void> {
  const failed = (what: string, why: string): never => {
    log.error(`Domain ${domid}:${what}: ${why}`);
    throw new LibxlFailed(RC.FAIL);
  };
  const what = 'no guest process took the domain';
  try {
    const take = body('takeDomainRequest', { domid });
    const taken = yield* call('vacant', take, 'takeDomainReply', { deadlineNs: TAKE_NS });
    if (taken.error !== '') failed(what, taken.error);
    const { publicKey } = taken;
    undo.push('credential', () => revokeCredential(ctx, domid));
    const minted = yield* call('keys', body('mintCredentialRequest', { domid, publicKey }), 'mintCredentialReply');
    if (minted.error !== '') failed('no credential could be made', minted.error);
    const grant = body('grantCredentialRequest', { domid, publicKey, jwt: minted.jwt });
    const granted = yield* call(`t${publicKey}`, grant, 'grantCredentialReply', { replyFrom: 'vacant' });
    if (granted.error !== '') failed(what, granted.error);
  } catch (error) {
    if (error instanceof LibxlFailed) throw error;
    failed(what, reasonOf(error));
  }
}

/** Ends what the domain's process may do. A failure is traced: the domain's subjects die with the domain. */
export function* revokeCredential(ctx: Libxl, domid: number): Op<void> {
  const reply = yield* call('keys', body('revokeCredentialRequest', { domid }), 'revokeCredentialReply');
  if (reply.error !== '') ctx.kernel.runtime.trace('libxl.revoke_failed', { domid, error: reply.error });
}

/** The 16 bytes of a UUID; one made from `seed` when there is none. */
function uuidBytes(uuid: string, seed: number): Uint8Array {
  const hex = uuid.replaceAll('-', '');
  const given = /^[0-9a-f]{32}$/i.test(hex);
  const random = new Prng(seed);
  return Uint8Array.from({ length: 16 }, (_, i) =>
    given ? Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16) : random.next() & 0xff,
  );
}

export function formatUuid(bytes: Uint8Array): string {
  const hex = [...bytes].map((b) => b.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
