/**
 * A NIC of our own: several transmit and receive rings in memory, a vector for each, address filters that steer a
 * frame to a queue, counters, a link, and a wire to the other NICs of the board (docs/reference/hardware/nic.md).
 * It works in bursts of at most 64 descriptors, the queues in turn; the frames of a burst take their time at 10 Gb/s.
 * A virtual function is the same NIC. It cannot be promiscuous, filter for another's unicast address, or send under one.
 * Not modelled: check sequences, checksum and segmentation offload, VLANs, receive side scaling, moderation of
 * interrupts, pause; a frame is sent and received as the bytes that it has. A ring or buffer at 2^53 or above, where no
 * memory is, ends as an unsupported request in the fabric; no SMMU hears of it.
 */
import {
  NIC,
  NIC_BROADCAST,
  NIC_BYTES,
  NIC_CAUSE,
  NIC_COUNTERS,
  NIC_CTRL,
  NIC_FILTER,
  NIC_FILTERS,
  NIC_FRAME_MAX,
  NIC_FRAME_MIN,
  NIC_MAGIC,
  NIC_QUEUES_MAX,
  NIC_RING_BYTES,
  NIC_SPEED_MBPS,
  NIC_STATUS,
  type NicCounter,
  nicIsMulticast,
  nicMacAt,
  nicMacHi,
  nicMacLo,
} from '#shared/arch/nic.ts';
import type { Scheduler } from '../../bus/transaction.ts';
import { loadArray, loadCounts } from '../../state/saved.ts';
import type { DeviceHost, DeviceModel } from './function.ts';
import { type NicRing, ReceiveRing, TransmitRing } from './nic-ring.ts';
import type { NicWire, WirePort } from './nic-wire.ts';
import { type SavedTimer, Timer } from './timer.ts';

const BURST_DESCRIPTORS = 64;
/** From a doorbell to the descriptor being here. */
const FETCH_NS = 600;
/** A frame on the wire: its bytes, and 24 of preamble, check sequence and gap. */
const FRAME_OVERHEAD_BYTES = 24;
const NS_PER_BYTE = 8000 / NIC_SPEED_MBPS;
const SOURCE = 6;
const CTRL_RW = NIC_CTRL.ENABLE | NIC_CTRL.PROMISC | NIC_CTRL.BROADCAST | NIC_CTRL.ALL_MULTICAST;

export interface NicSetup {
  /** The BAR that holds the registers. */
  readonly bar: number;
  readonly mac: number;
  readonly queues: number;
  /** 0 in a physical function. */
  readonly vf: number;
  readonly wire: NicWire;
}

export class Nic implements DeviceModel, WirePort {
  readonly name = 'nic';
  readonly #setup: NicSetup;
  readonly #host: DeviceHost;
  readonly #transmit: readonly TransmitRing[];
  readonly #receive: readonly ReceiveRing[];
  readonly #burst: Timer;
  readonly #counts = Object.fromEntries(NIC_COUNTERS.map((name) => [name, 0])) as Record<NicCounter, number>;
  /** HI and LO of each filter. */
  readonly #filters = new Uint32Array(2 * NIC_FILTERS);
  #ctrl = 0;
  #rxDefault = 0;
  #linkVector = 0;
  #cause = 0;
  #enabled = 0;
  #link = false;
  #latched = 0;
  #turn = 0;
  #epoch = 0;

  constructor(host: DeviceHost, scheduler: Scheduler, setup: NicSetup) {
    this.#setup = setup;
    this.#host = host;
    const owner = { rung: () => this.#kick(), stopped: (ring: NicRing) => this.#stopped(ring) };
    const numbers = Array.from({ length: setup.queues }, (_, n) => n);
    this.#transmit = numbers.map((n) => new TransmitRing(2 ** (NIC_CAUSE.TX_SHIFT + n), host.dma, owner));
    this.#receive = numbers.map((n) => new ReceiveRing(2 ** n, host.dma, owner));
    this.#burst = new Timer(scheduler, () => this.#run());
    setup.wire.join(this);
    this.#clear();
  }

  get enabled(): boolean {
    return (this.#ctrl & NIC_CTRL.ENABLE) !== 0;
  }

  readBar(bar: number, offset: number, size: number): number {
    if (bar !== this.#setup.bar || size !== 4 || offset >= NIC_BYTES) return 0;
    if (offset >= NIC.RINGS) return this.#ringAt(offset)?.read(offset % NIC_RING_BYTES) ?? 0;
    if (offset >= NIC.COUNTERS) return this.#readCounter(offset - NIC.COUNTERS);
    if (offset >= NIC.FILTERS) return this.#filters[(offset - NIC.FILTERS) >>> 2]!;
    const { mac, queues, vf } = this.#setup;
    switch (offset) {
      case NIC.ID:
        return NIC_MAGIC;
      case NIC.VERSION:
        return 1;
      case NIC.CTRL:
        return this.#ctrl;
      case NIC.STATUS:
        return (this.#link ? NIC_STATUS.LINK : 0) | (NIC_SPEED_MBPS << NIC_STATUS.SPEED_SHIFT);
      case NIC.QUEUES:
        return queues | (queues << 8);
      case NIC.FRAME_MAX:
        return NIC_FRAME_MAX;
      case NIC.PERM_MAC_HI:
        return nicMacHi(mac);
      case NIC.PERM_MAC_LO:
        return nicMacLo(mac);
      case NIC.VF:
        return vf;
      case NIC.RX_DEFAULT:
        return this.#rxDefault;
      case NIC.LINK_VECTOR:
        return this.#linkVector;
      case NIC.CAUSE:
        return this.#cause;
      case NIC.ENABLE_SET:
      case NIC.ENABLE_CLEAR:
        return this.#enabled;
      default:
        return 0;
    }
  }

  writeBar(bar: number, offset: number, size: number, value: number): void {
    if (bar !== this.#setup.bar || size !== 4 || offset >= NIC_BYTES) return;
    if (offset >= NIC.RINGS) {
      this.#ringAt(offset)?.write(offset % NIC_RING_BYTES, value);
      return;
    }
    if (offset >= NIC.COUNTERS) return;
    if (offset >= NIC.FILTERS) {
      this.#writeFilter((offset - NIC.FILTERS) >>> 2, value);
      return;
    }
    switch (offset) {
      case NIC.CTRL:
        this.#control(value);
        break;
      case NIC.RX_DEFAULT:
        this.#rxDefault = value & (NIC_QUEUES_MAX - 1);
        break;
      case NIC.LINK_VECTOR:
        this.#linkVector = value & 0xffff;
        break;
      case NIC.CAUSE:
        this.#cause = (this.#cause & ~value) >>> 0;
        this.#updatePin();
        break;
      case NIC.ENABLE_SET:
        this.#enable(value);
        break;
      case NIC.ENABLE_CLEAR:
        this.#enabled = (this.#enabled & ~value) >>> 0;
        this.#updatePin();
        break;
    }
  }

  reset(): void {
    const was = this.enabled;
    this.#clear();
    this.#host.setTransactionsPending(false);
    this.#host.setIntx(false);
    if (was) this.#setup.wire.changed(this);
  }

  offer(frame: Uint8Array): void {
    const queue = this.#steer(nicMacAt(frame, 0));
    if (queue < 0) {
      this.#counts.rxFiltered++;
      return;
    }
    const ring = this.#receive[queue];
    if (ring === undefined || !ring.enabled) this.#counts.rxNoQueue++;
    else if (ring.keep(frame)) this.#kick();
    else this.#counts.rxMissed++;
  }

  carrierChanged(): void {
    const link = this.enabled && this.#setup.wire.carrierFor(this);
    if (link === this.#link) return;
    this.#link = link;
    if (this.enabled) this.#interrupt(NIC_CAUSE.LINK, this.#linkVector);
  }

  save(): unknown {
    return {
      transmit: this.#transmit.map((ring) => ring.save()),
      receive: this.#receive.map((ring) => ring.save()),
      burst: this.#burst.save(),
      counts: { ...this.#counts },
      filters: this.#filters.slice(),
      words: [this.#ctrl, this.#rxDefault, this.#linkVector, this.#cause, this.#enabled, this.#latched, this.#turn],
      link: this.#link,
    };
  }

  load(state: unknown): void {
    const saved = state as {
      transmit: unknown[];
      receive: unknown[];
      burst: SavedTimer;
      counts: Record<string, number>;
      filters: Uint32Array;
      words: [number, number, number, number, number, number, number];
      link: boolean;
    };
    this.#epoch++;
    for (const [n, ring] of this.#transmit.entries()) ring.load(saved.transmit[n]);
    for (const [n, ring] of this.#receive.entries()) ring.load(saved.receive[n]);
    loadCounts(this.#counts, saved.counts);
    loadArray(this.#filters, saved.filters, 'nic filters');
    [this.#ctrl, this.#rxDefault, this.#linkVector, this.#cause, this.#enabled, this.#latched, this.#turn] =
      saved.words;
    this.#link = saved.link;
    this.#burst.load(saved.burst);
  }

  inspect(): unknown {
    return {
      mac: this.#setup.mac,
      vf: this.#setup.vf,
      enabled: this.enabled,
      link: this.#link,
      transmit: this.#transmit.map((ring) => ring.inspect()),
      receive: this.#receive.map((ring) => ring.inspect()),
      counts: { ...this.#counts },
    };
  }

  #clear(): void {
    this.#epoch++;
    this.#burst.cancel();
    for (const ring of this.#transmit) ring.reset();
    for (const ring of this.#receive) ring.reset();
    for (const name of NIC_COUNTERS) this.#counts[name] = 0;
    this.#filters.fill(0);
    this.#filters[0] = nicMacHi(this.#setup.mac);
    this.#filters[1] = nicMacLo(this.#setup.mac) | NIC_FILTER.VALID;
    this.#ctrl = this.#rxDefault = this.#linkVector = 0;
    this.#cause = this.#enabled = this.#latched = this.#turn = 0;
    this.#link = false;
  }

  #control(value: number): void {
    if ((value & NIC_CTRL.RESET) !== 0) {
      this.reset();
      return;
    }
    const was = this.enabled;
    this.#ctrl = value & CTRL_RW & (this.#setup.vf > 0 ? ~NIC_CTRL.PROMISC : ~0);
    if (this.enabled === was) return;
    if (!this.enabled) {
      this.#epoch++;
      this.#burst.cancel();
      this.#host.setTransactionsPending(false);
      this.#link = false;
    } else {
      this.carrierChanged();
      this.#kick();
    }
    this.#setup.wire.changed(this);
  }

  #writeFilter(index: number, value: number): void {
    const { mac, vf } = this.#setup;
    if ((index & 1) === 0) {
      this.#filters[index] = value;
      // A filter is in force when LO is written behind HI.
      this.#filters[index + 1]! &= ~NIC_FILTER.VALID;
      return;
    }
    const defined = 0xffff | (NIC_FILTER.QUEUE_MASK << NIC_FILTER.QUEUE_SHIFT) | NIC_FILTER.VALID;
    const wanted = this.#filters[index - 1]! * 0x1_0000 + (value & 0xffff);
    const allowed = vf === 0 || wanted === mac || nicIsMulticast(wanted);
    this.#filters[index] = value & (allowed ? defined : defined & ~NIC_FILTER.VALID);
  }

  /** The receive queue of a frame to `target`, or -1 when it is not for this function. */
  #steer(target: number): number {
    const high = nicMacHi(target);
    const low = nicMacLo(target);
    for (let i = 0; i < this.#filters.length; i += 2) {
      const word = this.#filters[i + 1]!;
      if ((word & NIC_FILTER.VALID) !== 0 && this.#filters[i] === high && (word & 0xffff) === low)
        return (word >>> NIC_FILTER.QUEUE_SHIFT) & NIC_FILTER.QUEUE_MASK;
    }
    const ctrl = this.#ctrl;
    const open =
      (ctrl & NIC_CTRL.PROMISC) !== 0 ||
      (target === NIC_BROADCAST && (ctrl & NIC_CTRL.BROADCAST) !== 0) ||
      (target !== NIC_BROADCAST && nicIsMulticast(target) && (ctrl & NIC_CTRL.ALL_MULTICAST) !== 0);
    return open ? this.#rxDefault : -1;
  }

  #ringAt(offset: number): NicRing | undefined {
    const index = Math.floor((offset - NIC.RINGS) / NIC_RING_BYTES);
    return ((index & 1) === 0 ? this.#transmit : this.#receive)[index >>> 1];
  }

  #readCounter(offset: number): number {
    const name = NIC_COUNTERS[offset >>> 3];
    if (name === undefined) return 0;
    if ((offset & 4) !== 0) return this.#latched;
    const count = this.#counts[name];
    this.#latched = Math.floor(count / 0x1_0000_0000);
    return count >>> 0;
  }

  #kick(): void {
    if (this.#burst.armed || !this.enabled || !this.#hasWork()) return;
    this.#host.setTransactionsPending(true);
    this.#burst.arm(FETCH_NS);
  }

  #hasWork(): boolean {
    return this.#transmit.some((ring) => ring.available > 0) || this.#receive.some((ring) => ring.ready);
  }

  /** One burst: what was received first, then what is to be sent, queue by queue. */
  #run(): void {
    const epoch = this.#epoch;
    let bytes = 0;
    const { queues } = this.#setup;
    for (let i = 0; i < queues; i++) {
      this.#deliver(this.#receive[i]!, epoch);
      if (epoch !== this.#epoch) return;
    }
    const share = Math.max(1, Math.floor(BURST_DESCRIPTORS / queues));
    for (let i = 0; i < queues; i++) {
      bytes += this.#send(this.#transmit[(this.#turn + i) % queues]!, share, epoch);
      if (epoch !== this.#epoch) return;
    }
    this.#turn = (this.#turn + 1) % queues;
    if (this.#hasWork()) this.#burst.arm(FETCH_NS + bytes * NS_PER_BYTE);
    else this.#host.setTransactionsPending(false);
  }

  #deliver(ring: ReceiveRing, epoch: number): void {
    let frames = 0;
    while (ring.ready) {
      const bytes = ring.deliver();
      if (epoch !== this.#epoch || bytes < 0) return;
      this.#counts.rxFrames++;
      this.#counts.rxBytes += bytes;
      frames++;
    }
    if (frames > 0) this.#interrupt(ring.cause, ring.vector);
  }

  /** Takes up to `share` descriptors of a ring. Gives the bytes that went over the wire. */
  #send(ring: TransmitRing, share: number, epoch: number): number {
    let bytes = 0;
    for (let i = 0; i < share && ring.available > 0; i++) {
      const frame = ring.takeOne(this.#maySend);
      if (epoch !== this.#epoch) return bytes;
      if (frame === undefined) continue;
      if (frame !== 'error') {
        this.#counts.txFrames++;
        this.#counts.txBytes += frame.length;
        bytes += frame.length + FRAME_OVERHEAD_BYTES;
        this.#setup.wire.send(this, frame);
        if (epoch !== this.#epoch) return bytes;
      }
    }
    if (ring.interrupt) {
      ring.interrupt = false;
      this.#interrupt(ring.cause, ring.vector);
    }
    return bytes;
  }

  /** Counts what may not be sent. */
  readonly #maySend = (frame: Uint8Array, tooLong: boolean): boolean => {
    if (tooLong || frame.length < NIC_FRAME_MIN) {
      this.#counts.txErrors++;
      return false;
    }
    const { vf, mac } = this.#setup;
    if (vf === 0 || nicMacAt(frame, SOURCE) === mac) return true;
    this.#counts.txSpoofed++;
    return false;
  };

  #stopped(ring: NicRing): void {
    this.#counts.dmaErrors++;
    this.#interrupt(ring.cause, ring.vector);
  }

  /** A cause: kept, and told when it is enabled. */
  #interrupt(cause: number, vector: number): void {
    this.#cause = (this.#cause | cause) >>> 0;
    if ((this.#enabled & cause) === 0) return;
    this.#host.raise(vector);
    this.#updatePin();
  }

  /** Causes that were kept while they were disabled are told now. */
  #enable(causes: number): void {
    const due = this.#cause & causes & ~this.#enabled;
    this.#enabled = (this.#enabled | causes) >>> 0;
    for (const ring of [...this.#receive, ...this.#transmit])
      if ((due & ring.cause) !== 0) this.#host.raise(ring.vector);
    if ((due & NIC_CAUSE.LINK) !== 0) this.#host.raise(this.#linkVector);
    this.#updatePin();
  }

  #updatePin(): void {
    this.#host.setIntx((this.#cause & this.#enabled) !== 0);
  }
}
