/**
 * The page and the event channel that a frontend offers, from dom0's side (Linux drivers/xen/xen-pciback/xenbus.c,
 * pciback_ops.c): mapped and bound at connect, served at every event, given back at disconnect.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { Lock, type Op, withLock } from '#shared/core/op.ts';
import { mapGrant, unmapGrant } from '#shared/kernel/grants.ts';
import type { Kernel } from '../kernel/boot.ts';
import { type FindExported, serveOperation } from './requests.ts';

export class SharedPage {
  readonly #kernel: Kernel;
  readonly #domid: number;
  readonly #find: FindExported;
  /** Held while the page is used, and while what it reaches changes (pciback's dev_lock). */
  readonly lock: Lock;
  #page: { gfn: number; handle: number; port: number } | undefined;
  #serving = false;
  #eventPending = false;
  readonly counts = { operations: 0, spurious: 0 };

  constructor(kernel: Kernel, domid: number, find: FindExported) {
    this.#kernel = kernel;
    this.#domid = domid;
    this.#find = find;
    this.lock = new Lock(`pciback dev_lock d${domid}`);
  }

  get connected(): boolean {
    return this.#page !== undefined;
  }

  /** Maps what the guest granted and binds the port that it offers. Throws, with nothing mapped, when it cannot. */
  *connect(ref: number, remotePort: number): Op<void> {
    if (this.#page !== undefined) return;
    const { events, hypercalls, region } = this.#kernel;
    const gfn = region.take();
    try {
      const handle = yield* mapGrant(hypercalls, this.#domid, ref, gfn * XEN_PAGE_SIZE);
      try {
        const port = yield* events.bindInterdomain(this.#domid, remotePort);
        this.#page = { gfn, handle, port };
        events.bind(port, () => this.#onEvent());
      } catch (error) {
        yield* unmapGrant(hypercalls, gfn * XEN_PAGE_SIZE, handle);
        throw error;
      }
    } catch (error) {
      region.give(gfn);
      throw error;
    }
  }

  *disconnect(): Op<void> {
    const { events, hypercalls, region } = this.#kernel;
    const self = this;
    yield* withLock(this.lock, function* () {
      const page = self.#page;
      if (page === undefined) return;
      self.#page = undefined;
      yield* self.#quietly(events.close(page.port));
      yield* self.#quietly(unmapGrant(hypercalls, page.gfn * XEN_PAGE_SIZE, page.handle));
      region.give(page.gfn);
    });
  }

  /** The guest may be gone already. */
  *#quietly(op: Op<void>): Op<void> {
    try {
      yield* op;
    } catch (error) {
      this.#kernel.runtime.trace('pciback.disconnect', { domid: this.#domid, error: String(error) });
    }
  }

  /** The guest's event: one handler at a time, and no event lost. */
  #onEvent(): void {
    this.#eventPending = true;
    if (this.#serving) return;
    this.#serving = true;
    this.#kernel.runtime.spawn(`pciback op d${this.#domid}`, this.#serve());
  }

  *#serve(): Op<void> {
    const self = this;
    try {
      while (this.#eventPending) {
        this.#eventPending = false;
        yield* withLock(this.lock, function* () {
          if (self.#page === undefined) return;
          const { gfn, port } = self.#page;
          if (yield* serveOperation(self.#kernel.cpu, gfn * XEN_PAGE_SIZE, self.#find)) {
            self.counts.operations++;
            yield* self.#kernel.events.notify(port);
          } else self.counts.spurious++;
        });
      }
    } catch (error) {
      this.#kernel.runtime.trace('pciback.op', { domid: this.#domid, error: String(error) });
    } finally {
      this.#serving = false;
    }
  }
}
