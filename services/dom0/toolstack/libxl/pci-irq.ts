/**
 * The line of a function (T12): the SPI that its pin leads to, which sysfs shows as `irq`. On ARM there is no map_pirq
 * (ENOSYS): irq_permission gives the right, and bind_pt_irq with PT_IRQ_TYPE_SPI leads the SPI to the guest, as libxl does
 * for `irqs=` (libxl_arm.c, libxl__arch_domain_map_irq).
 * An SPI is one domain's. Functions of one guest share it: the first binds it, the last lets go. One that is another
 * domain's is not fatal: the function goes without INTx (docs/decisions/0019).
 */

import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import { PCI_PIN } from '#shared/arch/pci/intx.ts';
import type { Op, Undo } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { failedWith } from '#shared/kernel/hypercalls.ts';
import { findCapability } from '#shared/kernel/pci-core.ts';
import { hasMessages } from '../../kernel/host-bridge.ts';
import { type Guest, type Libxl, type Log, logged, looseBdf } from './context.ts';

/**
 * Leads the line of `s` to the guest, or lets `s` share what the guest has. Gives the INTID; 0 when the function has no
 * line or it is another domain's. Logs and throws LibxlFailed when Xen refuses it for another reason.
 */
export function* bindIntx(ctx: Libxl, log: Log, guest: Guest, s: Sbdf, undo: Undo): Op<number> {
  const { domid } = guest;
  const { hypercalls, sysfs } = ctx.kernel;
  const irq = sysfs.irq(s);
  if (irq === 0) return yield* goWithout(ctx, log, guest, s, 'its pin leads nowhere');
  const sharers = guest.lines.get(irq);
  if (sharers === undefined) {
    const deny = (): Op<void> => hypercalls.irq_permission(domid, irq, false);
    yield* logged(log, `Domain ${domid}:xc_domain_irq_permission irq=${irq} (error=-1)`, () =>
      hypercalls.irq_permission(domid, irq, true),
    );
    undo.push('irq_permission', deny);
    let taken = false;
    yield* logged(log, `Domain ${domid}:xc_domain_bind_pt_spi_irq irq=${irq} (error=-1)`, function* () {
      try {
        yield* hypercalls.bind_pt_irq(domid, irq);
      } catch (error) {
        if (!failedWith(error, 'EBUSY')) throw error;
        taken = true;
        yield* deny();
      }
    });
    if (taken) return yield* goWithout(ctx, log, guest, s, `irq ${irq} is another domain's`);
    guest.lines.set(irq, new Set([s]));
  } else sharers.add(s);
  undo.push('irq', () => releaseIntx(ctx, guest, s));
  return irq;
}

/** `s` needs its line no more; with the last function the guest loses it. All is tried; throws what a hypercall threw. */
export function* releaseIntx(ctx: Libxl, guest: Guest, s: Sbdf): Op<void> {
  const { hypercalls } = ctx.kernel;
  for (const [irq, sharers] of [...guest.lines]) {
    if (!sharers.delete(s) || sharers.size > 0) continue;
    guest.lines.delete(irq);
    try {
      yield* hypercalls.unbind_pt_irq(guest.domid, irq);
    } finally {
      yield* hypercalls.irq_permission(guest.domid, irq, false);
    }
  }
}

/** That matters to the operator when the function has a pin or messages, and none of them reaches the guest. */
function* goWithout(ctx: Libxl, log: Log, guest: Guest, s: Sbdf, why: string): Op<number> {
  const { access, bridges, runtime } = ctx.kernel;
  runtime.trace('libxl.no_intx', { domid: guest.domid, sbdf: formatSbdf(s), why });
  const capable =
    (yield* findCapability(access, s, PCI_CAP_ID.MSIX)) !== 0 ||
    (yield* findCapability(access, s, PCI_CAP_ID.MSI)) !== 0;
  const wired = (yield* access.read(s, PCI.INTERRUPT_PIN, 1)) !== PCI_PIN.NONE;
  if ((wired || capable) && !(capable && hasMessages(bridges, s))) {
    log.warning(`Domain ${guest.domid}:PCI device ${looseBdf(s)} has no interrupt: ${why}, and no MSI reaches a guest`);
  }
  return 0;
}
