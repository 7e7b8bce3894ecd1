/**
 * The end of domains, as `xl` in the background watches for it (xl_vmcontrol.c, handle_domain_death): VIRQ_DOM_EXC says that
 * some domain changed, getdomaininfo says which. One that crashed or shut down is destroyed, and its functions are
 * assignable again.
 * Not modelled: on_crash and on_reboot other than destroy and preserve: restart and the coredump actions destroy.
 */

import { XEN_DOMINF, XEN_DOMINF_shutdownshift } from '#shared/abi/domctl.ts';
import { VIRQ_DOM_EXC } from '#shared/abi/hypercall.ts';
import { SHUTDOWN } from '#shared/abi/sched.ts';
import type { Op } from '#shared/core/op.ts';
import { type DomainInfo, failedWith } from '#shared/kernel/hypercalls.ts';
import { type Guest, type Libxl, Log } from './context.ts';
import { domainDestroy } from './domain-destroy.ts';

export class DomainEvents {
  readonly #ctx: Libxl;
  #running = false;
  #pending = false;

  constructor(ctx: Libxl) {
    this.#ctx = ctx;
  }

  *start(): Op<void> {
    const { events } = this.#ctx.kernel;
    const port = yield* events.bindVirq(VIRQ_DOM_EXC);
    events.bind(port, () => this.#onEvent());
  }

  #onEvent(): void {
    this.#pending = true;
    if (this.#running) return;
    this.#running = true;
    this.#ctx.kernel.runtime.spawn('domain events', this.#look());
  }

  *#look(): Op<void> {
    try {
      while (this.#pending) {
        this.#pending = false;
        for (const guest of [...this.#ctx.guests.values()]) yield* this.#lookAt(guest);
      }
    } catch (error) {
      this.#ctx.kernel.runtime.trace('libxl.domain_events', { error: String(error) });
    } finally {
      this.#running = false;
    }
  }

  *#lookAt(guest: Guest): Op<void> {
    if (guest.dead) return;
    let info: DomainInfo | undefined;
    try {
      info = yield* this.#ctx.kernel.hypercalls.getdomaininfo(guest.domid);
    } catch (error) {
      if (!failedWith(error, 'ESRCH')) throw error;
    }
    if (info !== undefined && (info.flags & (XEN_DOMINF.shutdown | XEN_DOMINF.dying)) === 0) return;
    const reason = info === undefined ? SHUTDOWN.crash : (info.flags >>> XEN_DOMINF_shutdownshift) & 0xff;
    guest.died();
    const { runtime } = this.#ctx.kernel;
    runtime.trace('libxl.domain_died', { domid: guest.domid, reason });
    const crashed = reason === SHUTDOWN.crash || reason === SHUTDOWN.watchdog;
    if (info !== undefined && crashed && guest.onCrash === 'preserve') return;
    // On its own: an operation that holds the guest's lock must not hold up the others.
    runtime.spawn(`destroy d${guest.domid}`, domainDestroy(this.#ctx, new Log(), guest.domid), undefined, (error) =>
      runtime.trace('libxl.destroy_failed', { domid: guest.domid, error: String(error) }),
    );
  }
}
