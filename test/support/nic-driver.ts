/** A driver of `nic` for tests, written from its data sheet. Time passes when the test says so. */
import {
  NIC,
  NIC_COUNTERS,
  NIC_CTRL,
  NIC_DESCRIPTOR,
  NIC_DESCRIPTOR_FLAGS,
  NIC_DESCRIPTOR_STATUS,
  NIC_FILTER,
  NIC_RING,
  NIC_RING_BYTES,
  NIC_RING_CTRL,
  NIC_STATUS,
  type NicCounter,
  nicMacHi,
  nicMacLo,
} from '#shared/arch/nic.ts';

export interface NicPort {
  read(offset: number): number;
  write(offset: number, value: number): void;
  /** Memory at bus address 0. */
  readonly memory: Uint8Array;
}

export interface RingMemory {
  readonly base: number;
  readonly entries: number;
  readonly buffers: number;
  readonly bufferBytes: number;
}

const EOP_IRQ = NIC_DESCRIPTOR_FLAGS.EOP | NIC_DESCRIPTOR_FLAGS.IRQ;

/** One ring of a queue: its registers, its descriptors, and a buffer for each of them. */
export class RingDriver {
  readonly memory: RingMemory;
  readonly #port: NicPort;
  readonly #registers: number;
  readonly #view: DataView;
  tail = 0;
  clean = 0;

  constructor(port: NicPort, queue: number, receive: boolean, memory: RingMemory) {
    this.#port = port;
    this.memory = memory;
    this.#registers = NIC.RINGS + queue * 2 * NIC_RING_BYTES + (receive ? NIC_RING_BYTES : 0);
    this.#view = new DataView(port.memory.buffer);
  }

  register(offset: number): number {
    return this.#port.read(this.#registers + offset);
  }

  set(offset: number, value: number): void {
    this.#port.write(this.#registers + offset, value);
  }

  start(vector = 0): void {
    const { base, entries, bufferBytes } = this.memory;
    this.tail = 0;
    this.clean = 0;
    this.#port.memory.fill(0, base, base + entries * NIC_DESCRIPTOR.BYTES);
    this.set(NIC_RING.CTRL, 0);
    this.set(NIC_RING.BASE_LO, base);
    this.set(NIC_RING.BASE_HI, 0);
    this.set(NIC_RING.SIZE, entries);
    this.set(NIC_RING.BUFFER, bufferBytes);
    this.set(NIC_RING.VECTOR, vector);
    this.set(NIC_RING.CTRL, NIC_RING_CTRL.ENABLE);
  }

  /** Fills the next descriptor; `ring` tells the device. */
  add(length: number, flags: number, data?: Uint8Array): void {
    const at = this.#at(this.tail);
    const buffer = this.memory.buffers + this.tail * this.memory.bufferBytes;
    if (data !== undefined) this.#port.memory.set(data, buffer);
    this.#view.setUint32(at, buffer, true);
    this.#view.setUint32(at + 4, 0, true);
    this.#view.setUint16(at + NIC_DESCRIPTOR.LENGTH, length, true);
    this.#view.setUint16(at + NIC_DESCRIPTOR.FLAGS, flags, true);
    this.#view.setUint16(at + NIC_DESCRIPTOR.STATUS, 0, true);
    this.tail = (this.tail + 1) % this.memory.entries;
  }

  ring(): void {
    this.set(NIC_RING.TAIL, this.tail);
  }

  /** Puts a frame into as many descriptors as pieces of `pieceBytes`. */
  send(frame: Uint8Array, pieceBytes = frame.length): void {
    for (let at = 0; at < frame.length; at += pieceBytes) {
      const piece = frame.subarray(at, at + pieceBytes);
      this.add(piece.length, at + piece.length === frame.length ? EOP_IRQ : 0, piece);
    }
    this.ring();
  }

  /** Gives `count` empty buffers to the device. */
  offer(count: number): void {
    for (let i = 0; i < count; i++) this.add(0, 0);
    this.ring();
  }

  /** Statuses of the descriptors that came back. */
  reap(): number[] {
    const statuses: number[] = [];
    while (this.clean !== this.tail) {
      const status = this.#view.getUint16(this.#at(this.clean) + NIC_DESCRIPTOR.STATUS, true);
      if ((status & NIC_DESCRIPTOR_STATUS.DONE) === 0) break;
      statuses.push(status);
      this.clean = (this.clean + 1) % this.memory.entries;
    }
    return statuses;
  }

  /** Whole frames that came in. */
  receive(): Uint8Array[] {
    const frames: Uint8Array[] = [];
    let parts: number[] = [];
    while (this.clean !== this.tail) {
      const at = this.#at(this.clean);
      if ((this.#view.getUint16(at + NIC_DESCRIPTOR.STATUS, true) & NIC_DESCRIPTOR_STATUS.DONE) === 0) break;
      const buffer = this.memory.buffers + this.clean * this.memory.bufferBytes;
      parts.push(
        ...this.#port.memory.subarray(buffer, buffer + this.#view.getUint16(at + NIC_DESCRIPTOR.LENGTH, true)),
      );
      this.clean = (this.clean + 1) % this.memory.entries;
      if ((this.#view.getUint16(at + NIC_DESCRIPTOR.FLAGS, true) & NIC_DESCRIPTOR_FLAGS.EOP) === 0) continue;
      frames.push(Uint8Array.from(parts));
      parts = [];
    }
    return frames;
  }

  #at(index: number): number {
    return this.memory.base + index * NIC_DESCRIPTOR.BYTES;
  }
}

export class NicDriver {
  readonly port: NicPort;

  constructor(port: NicPort) {
    this.port = port;
  }

  get mac(): number {
    return this.port.read(NIC.PERM_MAC_HI) * 0x1_0000 + this.port.read(NIC.PERM_MAC_LO);
  }

  get link(): boolean {
    return (this.port.read(NIC.STATUS) & NIC_STATUS.LINK) !== 0;
  }

  enable(more = 0): void {
    this.port.write(NIC.CTRL, NIC_CTRL.ENABLE | more);
  }

  filter(index: number, mac: number, queue: number): void {
    this.port.write(NIC.FILTERS + 8 * index, nicMacHi(mac));
    const valid = NIC_FILTER.VALID | (queue << NIC_FILTER.QUEUE_SHIFT);
    this.port.write(NIC.FILTERS + 8 * index + 4, (nicMacLo(mac) | valid) >>> 0);
  }

  count(name: NicCounter): number {
    const at = NIC.COUNTERS + 8 * NIC_COUNTERS.indexOf(name);
    return this.port.read(at) + this.port.read(at + 4) * 2 ** 32;
  }
}

/** A frame with these addresses and a payload. */
export function frameOf(target: number, source: number, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(14 + payload.length);
  for (let i = 0; i < 6; i++) {
    frame[i] = Math.floor(target / 2 ** (8 * (5 - i)));
    frame[6 + i] = Math.floor(source / 2 ** (8 * (5 - i)));
  }
  frame[12] = 0x88;
  frame[13] = 0xb5;
  frame.set(payload, 14);
  return frame;
}
