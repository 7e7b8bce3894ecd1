/**
 * Descriptor rings of a NIC: their registers, and the descriptors in memory. A ring stops at the first access that is
 * aborted and says so in CTRL.ERROR; enabling it again starts it anew at descriptor 0.
 */
import {
  NIC_DESCRIPTOR,
  NIC_DESCRIPTOR_FLAGS,
  NIC_DESCRIPTOR_STATUS,
  NIC_FRAME_MAX,
  NIC_RING,
  NIC_RING_CTRL,
  NIC_RING_SIZE_MAX,
} from '#shared/arch/nic.ts';
import type { DmaPort } from '../../bus/transaction.ts';

const BUFFER_MIN = 64;
const BUFFER_MAX = 16384;
/** Frames that a receive queue stores while it has no descriptors. */
export const NIC_STORE_FRAMES = 64;

/** What the device does when software touches a ring. */
export interface RingOwner {
  /** It may have work now. */
  rung(): void;
  /** An access of the ring was aborted; it has stopped. */
  stopped(ring: NicRing): void;
}

/** A descriptor as it was read. */
interface Descriptor {
  address: number;
  length: number;
  flags: number;
}

export class NicRing {
  /** Bit of the ring in CAUSE. */
  readonly cause: number;
  /** Bytes of a receive buffer. */
  bufferBytes = 2048;
  vector = 0;
  readonly #dma: DmaPort;
  readonly #owner: RingOwner;
  /** Changes with every start and stop: an access that comes back to another one has no effect. */
  #life = 0;
  readonly #bytes = new Uint8Array(NIC_DESCRIPTOR.BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #descriptor: Descriptor = { address: 0, length: 0, flags: 0 };
  #baseLo = 0;
  #baseHi = 0;
  #size = 0;
  #enabled = false;
  #error = false;
  #head = 0;
  #tail = 0;

  constructor(cause: number, dma: DmaPort, owner: RingOwner) {
    this.cause = cause;
    this.#dma = dma;
    this.#owner = owner;
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Descriptors that are the device's. */
  get available(): number {
    return this.#enabled ? (this.#tail - this.#head + this.#size) % this.#size : 0;
  }

  reset(): void {
    this.#life++;
    this.bufferBytes = 2048;
    this.vector = 0;
    this.#baseLo = this.#baseHi = this.#size = this.#head = this.#tail = 0;
    this.#enabled = this.#error = false;
  }

  read(offset: number): number {
    switch (offset) {
      case NIC_RING.BASE_LO:
        return this.#baseLo;
      case NIC_RING.BASE_HI:
        return this.#baseHi;
      case NIC_RING.SIZE:
        return this.#size;
      case NIC_RING.CTRL:
        return (this.#enabled ? NIC_RING_CTRL.ENABLE : 0) | (this.#error ? NIC_RING_CTRL.ERROR : 0);
      case NIC_RING.HEAD:
        return this.#head;
      case NIC_RING.TAIL:
        return this.#tail;
      case NIC_RING.VECTOR:
        return this.vector;
      case NIC_RING.BUFFER:
        return this.bufferBytes;
      default:
        return 0;
    }
  }

  write(offset: number, value: number): void {
    switch (offset) {
      case NIC_RING.BASE_LO:
        if (!this.#enabled) this.#baseLo = (value & ~(NIC_DESCRIPTOR.BYTES - 1)) >>> 0;
        break;
      case NIC_RING.BASE_HI:
        if (!this.#enabled) this.#baseHi = value;
        break;
      case NIC_RING.SIZE:
        if (!this.#enabled && value <= NIC_RING_SIZE_MAX) this.#size = value;
        break;
      case NIC_RING.CTRL:
        this.#control((value & NIC_RING_CTRL.ENABLE) !== 0);
        break;
      case NIC_RING.TAIL:
        if (this.#enabled && value < this.#size) {
          this.#tail = value;
          this.#owner.rung();
        }
        break;
      case NIC_RING.VECTOR:
        this.vector = value & 0xffff;
        break;
      case NIC_RING.BUFFER:
        if (!this.#enabled) this.bufferBytes = Math.min(BUFFER_MAX, Math.max(BUFFER_MIN, value));
        break;
    }
  }

  /** The next descriptor of the device, which has to have one. Undefined when it cannot be read. Reused. */
  next(): Readonly<Descriptor> | undefined {
    if (!this.#whole(this.#dma.read, this.#address, this.#bytes)) return undefined;
    const descriptor = this.#descriptor;
    descriptor.address = this.#view.getUint32(4, true) * 2 ** 32 + this.#view.getUint32(0, true);
    descriptor.length = this.#view.getUint16(NIC_DESCRIPTOR.LENGTH, true);
    descriptor.flags = this.#view.getUint16(NIC_DESCRIPTOR.FLAGS, true);
    return descriptor;
  }

  /** Writes the second half of the descriptor back and goes on to the next. False when the write is aborted. */
  giveBack(length: number, flags: number, status: number): boolean {
    this.#view.setUint16(NIC_DESCRIPTOR.LENGTH, length, true);
    this.#view.setUint16(NIC_DESCRIPTOR.FLAGS, flags, true);
    this.#view.setUint16(NIC_DESCRIPTOR.FLAGS + 2, 0, true);
    this.#view.setUint16(NIC_DESCRIPTOR.STATUS, status, true);
    const half = this.#bytes.subarray(NIC_DESCRIPTOR.LENGTH);
    if (!this.#whole(this.#dma.write, this.#address + NIC_DESCRIPTOR.LENGTH, half)) return false;
    this.#head = (this.#head + 1) % this.#size;
    return true;
  }

  /** Reads or writes a buffer. False when the ring stopped at it, or was stopped meanwhile. */
  move(read: boolean, iova: number, data: Uint8Array): boolean {
    return this.#whole(read ? this.#dma.read : this.#dma.write, iova, data);
  }

  /** Stops the ring for an aborted access. */
  protected fail(): void {
    this.#life++;
    this.#enabled = false;
    this.#error = true;
    this.#owner.stopped(this);
  }

  save(): unknown {
    return {
      words: [this.#baseLo, this.#baseHi, this.#size, this.#head, this.#tail, this.vector, this.bufferBytes],
      enabled: this.#enabled,
      error: this.#error,
    };
  }

  load(state: unknown): void {
    const { words, enabled, error } = state as { words: number[]; enabled: boolean; error: boolean };
    const [baseLo, baseHi, size, head, tail, vector, buffer] = words as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    this.#baseLo = baseLo;
    this.#baseHi = baseHi;
    this.#size = size;
    this.#head = head;
    this.#tail = tail;
    this.vector = vector;
    this.bufferBytes = buffer;
    this.#enabled = enabled;
    this.#error = error;
  }

  inspect(): unknown {
    return { enabled: this.#enabled, error: this.#error, size: this.#size, head: this.#head, tail: this.#tail };
  }

  get #address(): number {
    return this.#baseHi * 2 ** 32 + this.#baseLo + this.#head * NIC_DESCRIPTOR.BYTES;
  }

  #whole(access: DmaPort['read'], iova: number, data: Uint8Array): boolean {
    const life = this.#life;
    const done = access(iova, data);
    if (life !== this.#life) return false;
    if (done < data.length) this.fail();
    return done >= data.length;
  }

  #control(enable: boolean): void {
    if (enable === this.#enabled) return;
    if (enable && this.#size < 2) return;
    this.#life++;
    this.#enabled = enable;
    this.#error = false;
    this.#head = 0;
    this.#tail = 0;
    this.#owner.rung();
  }
}

/** A transmit ring, and the frame that its descriptors have begun. */
export class TransmitRing extends NicRing {
  readonly #frame = new Uint8Array(NIC_FRAME_MAX);
  #bytes = 0;
  /** The frame is longer than one may be. */
  #tooLong = false;
  /** A descriptor of the frame asked for an interrupt. */
  interrupt = false;

  override reset(): void {
    super.reset();
    this.dropFrame();
  }

  override write(offset: number, value: number): void {
    super.write(offset, value);
    if (offset === NIC_RING.CTRL && !this.enabled) this.dropFrame();
  }

  protected override fail(): void {
    this.dropFrame();
    super.fail();
  }

  dropFrame(): void {
    this.#bytes = 0;
    this.#tooLong = false;
    this.interrupt = false;
  }

  /**
   * Takes one descriptor. `check` says whether a whole frame may be sent. Gives the frame when it was the last of one (it holds until the next call), 'error' for the
   * last of a frame that cannot be sent, and undefined in between and when the ring stopped.
   */
  takeOne(check: (frame: Uint8Array, tooLong: boolean) => boolean): Uint8Array | 'error' | undefined {
    const descriptor = this.next();
    if (descriptor === undefined) return undefined;
    const { address, length, flags } = descriptor;
    if (this.#bytes + length > NIC_FRAME_MAX) this.#tooLong = true;
    else {
      const into = this.#frame.subarray(this.#bytes, this.#bytes + length);
      if (!this.move(true, address, into)) return undefined;
      this.#bytes += length;
    }
    if ((flags & NIC_DESCRIPTOR_FLAGS.IRQ) !== 0) this.interrupt = true;
    if ((flags & NIC_DESCRIPTOR_FLAGS.EOP) === 0) {
      this.giveBack(length, flags, NIC_DESCRIPTOR_STATUS.DONE);
      return undefined;
    }
    const frame = this.#frame.subarray(0, this.#bytes);
    const good = check(frame, this.#tooLong);
    this.#bytes = 0;
    this.#tooLong = false;
    const status = NIC_DESCRIPTOR_STATUS.DONE | (good ? 0 : NIC_DESCRIPTOR_STATUS.ERROR);
    if (!this.giveBack(length, flags, status)) return undefined;
    return good ? frame : 'error';
  }

  override save(): unknown {
    const frame = this.#frame.slice(0, this.#bytes);
    return { ring: super.save(), frame, tooLong: this.#tooLong, interrupt: this.interrupt };
  }

  override load(state: unknown): void {
    const saved = state as { ring: unknown; frame: Uint8Array; tooLong: boolean; interrupt: boolean };
    super.load(saved.ring);
    this.#frame.set(saved.frame);
    this.#bytes = saved.frame.length;
    this.#tooLong = saved.tooLong;
    this.interrupt = saved.interrupt;
  }
}

/** A receive ring, and the frames that wait for its descriptors. */
export class ReceiveRing extends NicRing {
  #store: Uint8Array[] = [];

  get stored(): number {
    return this.#store.length;
  }

  /** The first stored frame has the descriptors that it takes. */
  get ready(): boolean {
    const frame = this.#store[0];
    return frame !== undefined && this.available >= Math.ceil(frame.length / this.bufferBytes);
  }

  override reset(): void {
    super.reset();
    this.#store = [];
  }

  override write(offset: number, value: number): void {
    super.write(offset, value);
    if (offset === NIC_RING.CTRL && !this.enabled) this.#store = [];
  }

  protected override fail(): void {
    this.#store = [];
    super.fail();
  }

  /** Keeps a copy of a frame; false when the store is full. */
  keep(frame: Uint8Array): boolean {
    if (this.#store.length >= NIC_STORE_FRAMES) return false;
    this.#store.push(frame.slice());
    return true;
  }

  /** Writes the first stored frame to its buffers, which are there. Gives its bytes, or -1 when the ring stopped. */
  deliver(): number {
    const frame = this.#store.shift()!;
    for (let at = 0; at < frame.length; at += this.bufferBytes) {
      const descriptor = this.next();
      if (descriptor === undefined) return -1;
      const piece = frame.subarray(at, at + this.bufferBytes);
      if (!this.move(false, descriptor.address, piece)) return -1;
      const last = at + piece.length === frame.length;
      const flags = last ? NIC_DESCRIPTOR_FLAGS.EOP : 0;
      if (!this.giveBack(piece.length, flags, NIC_DESCRIPTOR_STATUS.DONE)) return -1;
    }
    return frame.length;
  }

  override save(): unknown {
    return { ring: super.save(), store: this.#store.map((frame) => frame.slice()) };
  }

  override load(state: unknown): void {
    const saved = state as { ring: unknown; store: Uint8Array[] };
    super.load(saved.ring);
    this.#store = saved.store.map((frame) => new Uint8Array(frame));
  }

  override inspect(): unknown {
    return { ...(super.inspect() as object), stored: this.#store.length };
  }
}
