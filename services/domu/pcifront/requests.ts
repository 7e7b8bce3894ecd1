/**
 * XEN_PCI_OP from the asking side: configuration space over the shared page (xen/include/public/io/pciif.h;
 * Linux drivers/pci/xen-pcifront.c, do_pci_op). One request at a time: it is written into the page with
 * XEN_PCIF_active, announced by an event, and answered in place.
 * Not modelled: the MSI requests (the guest's ITS does that, T9) and AER requests of the backend.
 */
import { XEN_PCI_ERR, XEN_PCI_OP, XEN_PCI_SHAREDINFO, XEN_PCIF_active, xen_pci_op_head } from '#shared/abi/pciif.ts';
import { Lock, type Op, TimedOut, withLock } from '#shared/core/op.ts';
import { busOf, devfnOf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { type CpuBus, le32, readOp, setBitsOp, word, writeOp } from '#shared/kernel/cpu-bus.ts';
import type { EventChannels } from '#shared/kernel/event-channels.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';

/** How long an answer may take. */
const ANSWER_NS = 2e9;

/** What the backend answered: `err` is one of XEN_PCI_ERR. */
export interface PciAnswer {
  readonly err: number;
  readonly value: number;
}

/** The page and port of one connection to the backend. */
export interface PciifRing {
  readonly pageIpa: number;
  readonly port: number;
}

export class PciifRequests implements ConfigAccess {
  readonly #cpu: CpuBus;
  readonly #events: EventChannels;
  readonly #clock: { readonly now: number };
  readonly #lock = new Lock('pcifront sh_info_lock');
  readonly #onTrouble: (text: string) => void;
  #ring: PciifRing | undefined;
  #answered = new Changes();
  #requests = 0;
  #timeouts = 0;
  readonly #errors = new Map<number, number>();

  constructor(cpu: CpuBus, events: EventChannels, clock: { readonly now: number }, onTrouble: (text: string) => void) {
    this.#cpu = cpu;
    this.#events = events;
    this.#clock = clock;
    this.#onTrouble = onTrouble;
  }

  /** Uses this page and port from now on. */
  connect(ring: PciifRing): void {
    this.#ring = ring;
    this.#events.bind(ring.port, () => this.#answered.note());
  }

  /** Every request from now on finds no device; gives the ring that was used. */
  disconnect(): PciifRing | undefined {
    const ring = this.#ring;
    this.#ring = undefined;
    if (ring !== undefined) this.#events.unbind(ring.port);
    // Whoever waits looks at the page once more and gives up.
    this.#answered.note();
    return ring;
  }

  get counts(): { requests: number; timeouts: number; errors: Record<string, number> } {
    return { requests: this.#requests, timeouts: this.#timeouts, errors: Object.fromEntries(this.#errors) };
  }

  /** What the backend refuses reads as all ones, as the PCI core of Linux makes it. */
  *read(sbdf: Sbdf, offset: number, size: number): Op<number> {
    const { err, value } = yield* this.request(XEN_PCI_OP.conf_read, sbdf, offset, size, 0);
    const ones = 0xffff_ffff >>> (32 - size * 8);
    return err === XEN_PCI_ERR.success ? (value & ones) >>> 0 : ones;
  }

  /** A write that the backend refuses is dropped, and counted. */
  *write(sbdf: Sbdf, offset: number, size: number, value: number): Op<void> {
    yield* this.request(XEN_PCI_OP.conf_write, sbdf, offset, size, value);
  }

  /** One request. A backend that does not answer within 2 s, or none, is `dev_not_found`. */
  request(cmd: number, sbdf: Sbdf, offset: number, size: number, value: number): Op<PciAnswer> {
    const head = { cmd, err: 0, domain: segmentOf(sbdf), bus: busOf(sbdf), devfn: devfnOf(sbdf), offset, size, value };
    return withLock(this.#lock, () => this.#ask(xen_pci_op_head.encode(head)));
  }

  *#ask(head: Uint8Array): Op<PciAnswer> {
    const ring = this.#ring;
    this.#requests++;
    if (ring === undefined) return this.#failed(XEN_PCI_ERR.dev_not_found);
    const { pageIpa } = ring;
    let seen = this.#answered.count;
    yield* this.#cpu.batch([
      writeOp(pageIpa + XEN_PCI_SHAREDINFO.op, head),
      setBitsOp(pageIpa + XEN_PCI_SHAREDINFO.flags, le32(XEN_PCIF_active)),
    ]);
    yield* this.#events.notify(ring.port);
    const deadline = this.#clock.now + ANSWER_NS;
    for (;;) {
      try {
        yield* this.#answered.since(seen, deadline - this.#clock.now);
      } catch (error) {
        if (!(error instanceof TimedOut)) throw error;
        return yield* this.#notResponding(pageIpa);
      }
      seen = this.#answered.count;
      if (this.#ring !== ring) return this.#failed(XEN_PCI_ERR.dev_not_found);
      const [bytes] = yield* this.#cpu.batch([readOp(pageIpa, XEN_PCI_SHAREDINFO.op + xen_pci_op_head.size)]);
      if ((word(bytes!) & XEN_PCIF_active) !== 0) continue;
      const answer = xen_pci_op_head.decode(bytes!, XEN_PCI_SHAREDINFO.op);
      // A backend that was given up on may still write its answer over a later request.
      if (!isAnswerTo(head, bytes!.subarray(XEN_PCI_SHAREDINFO.op))) return this.#failed(XEN_PCI_ERR.op_failed);
      if (answer.err !== XEN_PCI_ERR.success) return this.#failed(answer.err);
      return { err: answer.err, value: answer.value };
    }
  }

  *#notResponding(pageIpa: number): Op<PciAnswer> {
    this.#timeouts++;
    this.#onTrouble('pciback not responding!!!');
    yield* this.#cpu.clearBits32(pageIpa + XEN_PCI_SHAREDINFO.flags, XEN_PCIF_active);
    return this.#failed(XEN_PCI_ERR.dev_not_found);
  }

  #failed(err: number): PciAnswer {
    this.#errors.set(err, (this.#errors.get(err) ?? 0) + 1);
    return { err, value: 0 };
  }
}

/** True when everything but err, value and info is as it was asked. */
function isAnswerTo(asked: Uint8Array, answered: Uint8Array): boolean {
  const { err, value } = xen_pci_op_head.offsets;
  for (let at = 0; at < value; at += 4) if (at !== err && word(asked, at) !== word(answered, at)) return false;
  return true;
}
