/**
 * A bus or link with the functions on it: who answers a configuration request, who claims a memory address, and where
 * a request that a function or port on it makes goes: to a peer beside it, or up.
 * What shares a bus decides who may be reached without the port above (PCIe 5.0, "ACS: Peer-to-Peer Control"):
 *   root          functions of one device among each other; root ports never: they meet at the SMMU
 *   link          functions of the one device on it among each other
 *   switch        the downstream ports inside a switch among each other
 *   conventional  everything; there is no ACS on a shared bus
 */
import { PCI_AER_UNCOR } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_LNKCAP_PORT_SHIFT } from '#shared/arch/pci/express.ts';
import { deviceOf, functionOf } from '#shared/ids/sbdf.ts';
import { allOnes, type Scheduler } from '../bus/transaction.ts';
import type { Saved } from '../state/saved.ts';
import { acsPeer, PEER } from './acs.ts';
import { type Decoder, DecodeTable } from './decode-table.ts';
import type { PciFunction } from './pci-function.ts';
import type { ResetKind } from './reset.ts';
import { COMPLETION, type Route } from './route.ts';

export type BusKind = 'root' | 'link' | 'switch' | 'conventional';

/** What stands above a bus: a bridge, or the host. */
export interface UpstreamPort {
  /**
   * A memory request that `from`, on the bus below, sends up: `data.length` bytes read into or written from `data`.
   * Returns bytes done; fewer = it failed at that byte, and Route.status says how.
   */
  request(
    from: PciFunction,
    rid: number,
    addressType: number,
    address: number,
    data: Uint8Array,
    write: boolean,
  ): number;
  /** Pin `pin` (1 to 4) of the device at `devfn` on the bus below rises or falls; calls alternate. */
  setPin(devfn: number, pin: number, level: boolean): void;
  /** An error message (ERROR_MESSAGE) of `rid` comes up. */
  errorMessage(kind: number, rid: number): void;
  /** Whether Request Retry Status of what is below is shown to software. */
  readonly showsRetries: boolean;
}

export class PciBus implements Saved {
  readonly kind: BusKind;
  readonly above: UpstreamPort;
  readonly route: Route;
  readonly scheduler: Scheduler;
  /** Memory ranges that something on this bus claims now. */
  readonly table = new DecodeTable();
  /** By devfn. */
  readonly #functions: (PciFunction | undefined)[] = [];
  /** Virtual functions that answer on this bus, by requester id. */
  readonly #virtual = new Map<number, PciFunction>();
  readonly #ports = new Set<PciFunction>();

  constructor(kind: BusKind, above: UpstreamPort, route: Route, scheduler: Scheduler) {
    this.kind = kind;
    this.above = above;
    this.route = route;
    this.scheduler = scheduler;
  }

  /** Puts a function on the bus and gives it power. `port`: it is a bridge. */
  add(fn: PciFunction, port = false): void {
    this.#functions[fn.devfn] = fn;
    if (port) this.#ports.add(fn);
    const sameDevice = [...this.functions()].filter((f) => deviceOf(f.devfn) === deviceOf(fn.devfn));
    if (sameDevice.length > 1) for (const f of sameDevice) if (functionOf(f.devfn) === 0) f.markMultifunction();
    fn.reset('power-on');
  }

  at(devfn: number): PciFunction | undefined {
    return this.#functions[devfn];
  }

  *functions(): Iterable<PciFunction> {
    for (const fn of this.#functions) if (fn !== undefined) yield fn;
  }

  /** The virtual function with this requester id. */
  virtualAt(rid: number): PciFunction | undefined {
    return this.#virtual.get(rid);
  }

  /** A virtual function appears under `rid`, or the one there goes. */
  setVirtual(rid: number, fn: PciFunction | undefined): void {
    if (fn === undefined) this.#virtual.delete(rid);
    else this.#virtual.set(rid, fn);
    this.topologyChanged();
  }

  topologyChanged(): void {
    this.route.topology++;
  }

  /** A memory read that comes down: the value, or -1 with Route.status when it fails. */
  memoryRead(address: number, size: number): number {
    const d = this.table.find(address);
    if (d !== undefined) return d.owner.readAt(d, address, size);
    this.unclaimed(address, size, false);
    return -1;
  }

  memoryWrite(address: number, size: number, value: number): boolean {
    const d = this.table.find(address);
    if (d !== undefined) return d.owner.writeAt(d, address, size, value);
    this.unclaimed(address, size, true);
    return false;
  }

  /** A request of `from`, which is on this bus: see UpstreamPort.request. */
  send(from: PciFunction, rid: number, addressType: number, address: number, data: Uint8Array, write: boolean): number {
    if (this.kind === 'root' && this.#ports.has(from))
      return this.above.request(from, rid, addressType, address, data, write);
    if (this.route.wide !== undefined) return this.above.request(from, rid, addressType, address, data, write);
    const end = address + data.length;
    // It would end where a number cannot tell addresses apart to the byte. Nothing answers there.
    if (end > Number.MAX_SAFE_INTEGER) {
      this.route.status = COMPLETION.UNSUPPORTED;
      return 0;
    }
    if (this.table.unclaimed(address, end)) return this.above.request(from, rid, addressType, address, data, write);
    let done = 0;
    while (done < data.length) {
      const start = address + done;
      const bytes = this.table.edgeAfter(start, end, from) - start;
      const piece = bytes === data.length ? data : data.subarray(done, done + bytes);
      const got = this.#sendPiece(from, rid, addressType, start, piece, write);
      done += got;
      if (got < bytes) return done;
    }
    return done;
  }

  setPin(devfn: number, pin: number, level: boolean): void {
    this.above.setPin(devfn, pin, level);
  }

  reset(kind: ResetKind): void {
    for (const fn of this.functions()) fn.reset(kind);
  }

  save(): unknown {
    return [...this.functions()].map((fn) => fn.save());
  }

  load(state: unknown): void {
    const states = state as unknown[];
    let i = 0;
    for (const fn of this.functions()) fn.load(states[i++]);
  }

  /** Nobody here takes a request that came down: the device on a link reports it, its lowest function that has power. */
  unclaimed(address: number, size: number, write: boolean): void {
    this.route.status = COMPLETION.UNSUPPORTED;
    if (this.kind !== 'link') return;
    for (const fn of this.functions()) {
      const { rid, addressType } = this.route;
      fn.errors.detected(PCI_AER_UNCOR.UNSUPPORTED_REQUEST, rid, addressType, address, size, write);
      return;
    }
  }

  #sendPiece(from: PciFunction, rid: number, at: number, address: number, data: Uint8Array, write: boolean): number {
    const d = this.#peerOf(from, address);
    if (d === undefined) return this.above.request(from, rid, at, address, data, write);
    const verdict =
      this.kind === 'conventional'
        ? PEER.DIRECT
        : acsPeer(from.config, from.fields.acs, at, this.#peerNumber(d.owner.devfn));
    if (verdict === PEER.REDIRECT) return this.above.request(from, rid, at, address, data, write);
    if (verdict === PEER.VIOLATION) {
      from.errors.detected(PCI_AER_UNCOR.ACS_VIOLATION, rid, at, address, data.length, write);
      this.route.status = COMPLETION.ABORT;
      return 0;
    }
    return this.#deliver(d, rid, at, address, data, write);
  }

  /** Who beside `from` claims the address and could be reached without the port above. */
  #peerOf(from: PciFunction, address: number): Decoder | undefined {
    const d = this.table.find(address, from);
    if (d === undefined || this.kind !== 'root') return d;
    return deviceOf(d.owner.devfn) === deviceOf(from.devfn) ? d : undefined;
  }

  /** By what number an egress control vector knows a peer: a port by its port number, a function by its own. */
  #peerNumber(devfn: number): number {
    const peer = this.#functions[devfn];
    if (peer === undefined || this.kind !== 'switch') return functionOf(devfn);
    const { express } = peer.fields;
    return express < 0 ? 0 : peer.config.u32(express + PCI_EXP.LNKCAP) >>> PCI_EXP_LNKCAP_PORT_SHIFT;
  }

  /** Turned around here: aligned pieces of up to four bytes reach the registers of the peer, in rising order. */
  #deliver(d: Decoder, rid: number, at: number, address: number, data: Uint8Array, write: boolean): number {
    const { route } = this;
    if (!route.enter()) return 0;
    let done = 0;
    try {
      while (done < data.length) {
        const start = address + done;
        const size = pieceBytes(start, data.length - done);
        route.peerRequests++;
        route.rid = rid;
        route.addressType = at;
        route.address = start;
        if (write) {
          if (!d.owner.writeAt(d, start, size, valueAt(data, done, size))) return done;
        } else {
          const value = d.owner.readAt(d, start, size);
          if (value < 0) return done;
          for (let i = 0; i < size; i++) data[done + i] = value >>> (8 * i);
        }
        done += size;
      }
      return done;
    } finally {
      route.leave();
    }
  }
}

/** The widest aligned access of up to 4 bytes at `address` within `left` bytes. */
function pieceBytes(address: number, left: number): number {
  const low = address % 4;
  if (low === 0 && left >= 4) return 4;
  return low % 2 === 0 && left >= 2 ? 2 : 1;
}

function valueAt(data: Uint8Array, offset: number, size: number): number {
  let value = 0;
  for (let i = 0; i < size; i++) value |= data[offset + i]! << (8 * i);
  return (value & (size === 4 ? -1 : allOnes(size))) >>> 0;
}
