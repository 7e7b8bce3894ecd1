/**
 * The driver of `nic` (docs/reference/hardware/nic.md): one transmit and one receive ring, a vector for each or the line,
 * which it acknowledges in CAUSE, and frames
 * that say themselves what has to be in them, so that whoever receives one can tell whether it is whole.
 * Binds a function whose first memory BAR with room for the registers, free of MSI-X structures, reads the magic number.
 * Not modelled: a network stack; frames are looked at when a command of this guest asks for them.
 */
import { dmaProbeFill, dmaProbeMismatches } from '#shared/arch/dma-probe.ts';
import {
  NIC,
  NIC_BROADCAST,
  NIC_BYTES,
  NIC_CAUSE,
  NIC_CTRL,
  NIC_DESCRIPTOR,
  NIC_DESCRIPTOR_FLAGS,
  NIC_DESCRIPTOR_STATUS,
  NIC_MAGIC,
  NIC_RING,
  NIC_RING_BYTES,
  NIC_RING_CTRL,
  NIC_STATUS,
} from '#shared/arch/nic.ts';
import { Lock, type Op, sleep, TimedOut, withLock } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { BusAbort, write32Op, writeOp } from '#shared/kernel/cpu-bus.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';
import {
  type BoundDriver,
  type Driver,
  DriverError,
  type DriverKit,
  disableFunction,
  enableFunction,
  enableIrqs,
  type IrqKind,
  type IrqVectors,
  type PciFunction,
} from './driver.ts';

const ENTRIES = 64;
const BUFFER_BYTES = 2048;
const RING_BYTES = ENTRIES * NIC_DESCRIPTOR.BYTES;
const BUFFERS_BYTES = ENTRIES * BUFFER_BYTES;
/** Two rings in a page, and their buffers. */
const MEMORY_BYTES = 4096 + 2 * BUFFERS_BYTES;
const HEADER_BYTES = 14;
/** Seed and number of a frame, behind its header. */
const STAMP_BYTES = 8;
const ETHERTYPE = 0x88b5;
/** Of receive ring 0 and of transmit ring 0. */
const CAUSES = 1 | (1 << NIC_CAUSE.TX_SHIFT);
const POLL_NS = 100_000;
const TX_RING = NIC.RINGS;
const RX_RING = NIC.RINGS + NIC_RING_BYTES;

/** Payloads are whole words behind header and stamp. */
export const NIC_FRAME_LIMITS = { min: HEADER_BYTES + STAMP_BYTES, max: BUFFER_BYTES - 2 } as const;

export class NicDevice implements BoundDriver {
  readonly name = 'nic';
  readonly sbdf: Sbdf;
  mac = 0;
  sent = 0;
  received = 0;
  /** Received frames that were not what their stamp says. */
  wrong = 0;
  interrupts = 0;
  readonly #fn: PciFunction;
  readonly #kit: DriverKit;
  readonly #base: number;
  readonly #lock = new Lock('nic rings');
  readonly #arrived = new Changes();
  #memory = -1;
  #vectors: IrqVectors | undefined;
  /** The next descriptors: to fill for transmission, to look at for reception. */
  #txTail = 0;
  #rxHead = 0;
  #gone = false;

  constructor(fn: PciFunction, kit: DriverKit, base: number) {
    this.sbdf = fn.sbdf;
    this.#fn = fn;
    this.#kit = kit;
    this.#base = base;
  }

  get vectors(): number {
    return this.#vectors?.count ?? 0;
  }

  get irqs(): IrqKind {
    return this.#vectors?.kind ?? 'none';
  }

  *start(): Op<void> {
    const { cpu, pages } = this.#kit;
    yield* this.#write(NIC.CTRL, NIC_CTRL.RESET);
    const [hi, lo] = [yield* this.#read(NIC.PERM_MAC_HI), yield* this.#read(NIC.PERM_MAC_LO)];
    this.mac = hi * 0x1_0000 + lo;
    this.#memory = yield* pages.allocate(MEMORY_BYTES);
    this.#vectors = yield* enableIrqs(this.#fn, 2, this.#kit, {
      onVector: () => this.#count(),
      onLine: () => this.#onLine(),
    });
    const count = this.vectors;
    const descriptors = Array.from({ length: ENTRIES }, (_, i) =>
      writeOp(this.#descriptorAt(true, i), descriptorOf(this.#bufferAt(true, i), 0, 0)),
    );
    yield* cpu.batch([
      ...descriptors,
      ...this.#ringOps(TX_RING, this.#memory, Math.max(0, count - 1)),
      ...this.#ringOps(RX_RING, this.#memory + RING_BYTES, 0),
      write32Op(this.#base + RX_RING + NIC_RING.TAIL, ENTRIES - 1),
      write32Op(this.#base + NIC.ENABLE_SET, CAUSES),
      write32Op(this.#base + NIC.CTRL, NIC_CTRL.ENABLE | NIC_CTRL.BROADCAST),
    ]);
  }

  *remove(): Op<void> {
    this.#gone = true;
    this.#arrived.note();
    try {
      yield* this.#write(NIC.CTRL, NIC_CTRL.RESET);
    } catch (error) {
      if (!(error instanceof BusAbort)) throw error;
      this.#kit.trace('nic-gone', { sbdf: formatSbdf(this.sbdf), ipa: error.ipa });
    }
    const vectors = this.#vectors;
    this.#vectors = undefined;
    if (vectors !== undefined) yield* vectors.disable();
    yield* disableFunction(this.#kit.config, this.sbdf);
    if (this.#memory >= 0) this.#kit.pages.free(this.#memory, MEMORY_BYTES);
    this.#memory = -1;
  }

  inspect(): unknown {
    const { mac, vectors, irqs, sent, received, wrong, interrupts } = this;
    return { mac, vectors, irqs, sent, received, wrong, interrupts };
  }

  #count(): void {
    this.interrupts++;
    this.#arrived.note();
  }

  *#onLine(): Op<boolean> {
    try {
      const cause = (yield* this.#read(NIC.CAUSE)) & CAUSES;
      if (cause === 0 || this.#gone) return false;
      yield* this.#write(NIC.CAUSE, cause);
    } catch (error) {
      if (error instanceof BusAbort) return false;
      throw error;
    }
    this.#count();
    return true;
  }

  *link(): Op<boolean> {
    return ((yield* this.#read(NIC.STATUS)) & NIC_STATUS.LINK) !== 0;
  }

  /** Sends `count` stamped frames of `bytes` to a MAC address, and waits until the device is done with them. */
  send(to: number, count: number, bytes: number, seed: number, ns: number): Op<void> {
    const self = this;
    return withLock(this.#lock, function* () {
      for (let done = 0; done < count; ) {
        const part = Math.min(ENTRIES - 1, count - done);
        yield* self.#sendSome(to, done, part, bytes, seed, ns);
        done += part;
      }
    });
  }

  /** Looks at received frames until there were `count` in all since the driver started. False when they do not come. */
  expect(count: number, ns: number): Op<boolean> {
    const self = this;
    return withLock(this.#lock, function* () {
      for (let waitedNs = 0; ; ) {
        const seen = self.#arrived.count;
        yield* self.#drain();
        if (self.received >= count) return true;
        if (self.#gone || waitedNs >= ns) return false;
        waitedNs += yield* self.#pause(seen, ns - waitedNs);
      }
    });
  }

  *#sendSome(to: number, first: number, count: number, bytes: number, seed: number, ns: number): Op<void> {
    const last = (this.#txTail + count - 1) % ENTRIES;
    const ops = [];
    for (let i = 0; i < count; i++) {
      const at = this.#txTail;
      const frame = stampedFrame(to, this.mac, bytes, seed, first + i);
      const flags = NIC_DESCRIPTOR_FLAGS.EOP | (at === last ? NIC_DESCRIPTOR_FLAGS.IRQ : 0);
      ops.push(writeOp(this.#bufferAt(false, at), frame));
      ops.push(writeOp(this.#descriptorAt(false, at), descriptorOf(this.#bufferAt(false, at), bytes, flags)));
      this.#txTail = (at + 1) % ENTRIES;
    }
    yield* this.#kit.cpu.batch([...ops, write32Op(this.#base + TX_RING + NIC_RING.TAIL, this.#txTail)]);
    for (let waitedNs = 0; ; ) {
      const seen = this.#arrived.count;
      const status = yield* this.#kit.cpu.read16(this.#descriptorAt(false, last) + NIC_DESCRIPTOR.STATUS);
      if ((status & NIC_DESCRIPTOR_STATUS.ERROR) !== 0)
        throw new DriverError(`${formatSbdf(this.sbdf)} does not send a frame of ${bytes} bytes`);
      if ((status & NIC_DESCRIPTOR_STATUS.DONE) !== 0) break;
      if (this.#gone) throw new DriverError(`${formatSbdf(this.sbdf)} is gone`);
      if (waitedNs >= ns) throw new TimedOut(`${formatSbdf(this.sbdf)} does not send`);
      waitedNs += yield* this.#pause(seen, ns - waitedNs);
    }
    this.sent += count;
  }

  /** Takes what was received and gives the descriptors back. */
  *#drain(): Op<void> {
    const ring = yield* this.#kit.cpu.read(this.#memory + RING_BYTES, RING_BYTES);
    const view = new DataView(ring.buffer, ring.byteOffset);
    const ops = [];
    // One descriptor stays with the driver, so that a full ring and an empty one differ.
    for (let i = 0; i < ENTRIES - 1; i++) {
      const at = this.#rxHead * NIC_DESCRIPTOR.BYTES;
      if ((view.getUint16(at + NIC_DESCRIPTOR.STATUS, true) & NIC_DESCRIPTOR_STATUS.DONE) === 0) break;
      const buffer = this.#bufferAt(true, this.#rxHead);
      const frame = yield* this.#kit.cpu.read(buffer, view.getUint16(at + NIC_DESCRIPTOR.LENGTH, true));
      this.received++;
      if (!isWhole(frame)) this.wrong++;
      ops.push(writeOp(this.#descriptorAt(true, this.#rxHead), descriptorOf(buffer, 0, 0)));
      this.#rxHead = (this.#rxHead + 1) % ENTRIES;
    }
    if (ops.length === 0) return;
    const tail = (this.#rxHead + ENTRIES - 1) % ENTRIES;
    yield* this.#kit.cpu.batch([...ops, write32Op(this.#base + RX_RING + NIC_RING.TAIL, tail)]);
  }

  /** Waits for an interrupt, or a moment when there are none. Gives what of the patience is used up. */
  *#pause(seen: number, patienceNs: number): Op<number> {
    if (this.#vectors === undefined) {
      yield* sleep(POLL_NS);
      return POLL_NS;
    }
    try {
      yield* this.#arrived.since(seen, patienceNs);
      return 0;
    } catch (error) {
      if (error instanceof TimedOut) return patienceNs;
      throw error;
    }
  }

  #ringOps(ring: number, memory: number, vector: number) {
    const at = this.#base + ring;
    return [
      write32Op(at + NIC_RING.BASE_LO, memory >>> 0),
      write32Op(at + NIC_RING.BASE_HI, Math.floor(memory / 2 ** 32)),
      write32Op(at + NIC_RING.SIZE, ENTRIES),
      write32Op(at + NIC_RING.BUFFER, BUFFER_BYTES),
      write32Op(at + NIC_RING.VECTOR, vector),
      write32Op(at + NIC_RING.CTRL, NIC_RING_CTRL.ENABLE),
    ];
  }

  #descriptorAt(receive: boolean, index: number): number {
    return this.#memory + (receive ? RING_BYTES : 0) + index * NIC_DESCRIPTOR.BYTES;
  }

  #bufferAt(receive: boolean, index: number): number {
    return this.#memory + 4096 + (receive ? BUFFERS_BYTES : 0) + index * BUFFER_BYTES;
  }

  #read(offset: number): Op<number> {
    return this.#kit.cpu.read32(this.#base + offset);
  }

  #write(offset: number, value: number): Op<void> {
    return this.#kit.cpu.write32(this.#base + offset, value);
  }
}

export const nicDriver: Driver = {
  name: 'nic',
  *probe(fn, kit) {
    const { msix } = fn;
    const bar = fn.bars.find(
      (b) =>
        b.kind !== 'io' &&
        b.sizeBytes >= NIC_BYTES &&
        !(msix?.tableBar === b.index && msix.tableOffset < NIC_BYTES) &&
        !(msix?.pbaBar === b.index && msix.pbaOffset < NIC_BYTES),
    );
    if (bar === undefined) return undefined;
    yield* enableFunction(kit.config, fn.sbdf);
    if ((yield* kit.cpu.read32(bar.address + NIC.ID)) !== NIC_MAGIC) {
      yield* disableFunction(kit.config, fn.sbdf);
      return undefined;
    }
    const device = new NicDevice(fn, kit, bar.address);
    try {
      yield* device.start();
    } catch (error) {
      yield* device.remove();
      throw error;
    }
    return device;
  },
};

/** "52:54:00:00:00:01" as a number, or undefined. The text "broadcast" is one too. */
export function parseMac(text: string): number | undefined {
  if (text === 'broadcast') return NIC_BROADCAST;
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text) ? Number.parseInt(text.replaceAll(':', ''), 16) : undefined;
}

export function formatMac(mac: number): string {
  return mac
    .toString(16)
    .padStart(12, '0')
    .replace(/(..)(?=.)/g, '$1:');
}

function descriptorOf(address: number, length: number, flags: number): Uint8Array {
  const bytes = new Uint8Array(NIC_DESCRIPTOR.BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, address >>> 0, true);
  view.setUint32(4, Math.floor(address / 2 ** 32), true);
  view.setUint16(NIC_DESCRIPTOR.LENGTH, length, true);
  view.setUint16(NIC_DESCRIPTOR.FLAGS, flags, true);
  return bytes;
}

/** Header, seed, number, and words that follow from both. */
function stampedFrame(to: number, from: number, bytes: number, seed: number, number: number): Uint8Array {
  const frame = new Uint8Array(bytes);
  const view = new DataView(frame.buffer);
  view.setUint32(0, Math.floor(to / 0x1_0000));
  view.setUint16(4, to % 0x1_0000);
  view.setUint32(6, Math.floor(from / 0x1_0000));
  view.setUint16(10, from % 0x1_0000);
  view.setUint16(12, ETHERTYPE);
  view.setUint32(HEADER_BYTES, seed, true);
  view.setUint32(HEADER_BYTES + 4, number, true);
  const words = new Int32Array((bytes - HEADER_BYTES - STAMP_BYTES) >>> 2);
  dmaProbeFill(words, seed, number);
  frame.set(new Uint8Array(words.buffer), HEADER_BYTES + STAMP_BYTES);
  return frame;
}

function isWhole(frame: Uint8Array): boolean {
  if (frame.length < NIC_FRAME_LIMITS.min) return false;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (view.getUint16(12) !== ETHERTYPE) return false;
  const words = (frame.length - HEADER_BYTES - STAMP_BYTES) >>> 2;
  // A copy of its own, aligned; a slice of what the bus gives may be a view.
  const payload = new Uint8Array(frame.subarray(HEADER_BYTES + STAMP_BYTES, HEADER_BYTES + STAMP_BYTES + words * 4));
  const seed = view.getUint32(HEADER_BYTES, true);
  return dmaProbeMismatches(new Int32Array(payload.buffer), seed, view.getUint32(HEADER_BYTES + 4, true)) === 0;
}
