/**
 * A write of a guest to a system register that EL2 traps (xen/arch/arm/arm64/vsysreg.c). The virtual CPU interface is an
 * upcall (docs/decisions/0004), so of its registers the guest needs one: ICC_EOIR1_EL1, which ends an SPI (0019).
 * Not modelled: every other system register; the guest gets an undefined instruction exception.
 */
import type { SysregTrapReply, SysregTrapRequest } from '#gen/xen.ts';
import type { Op } from '#shared/core/op.ts';
import type { Counts } from '../counts.ts';
import type { Domain } from '../domain/domain.ts';

/** INTIDs have 24 bits at most. */
const INTID_MASK = 0xff_ffff;

/** Waits while the domain is paused; one that stopped is Refused. */
export function* sysregTrap(domain: Domain, request: SysregTrapRequest, counts: Counts): Op<SysregTrapReply> {
  yield* domain.running();
  const known = request.name === 'ICC_EOIR1_EL1' && domain.vgic !== undefined;
  counts.add('traps', known ? request.name : 'undefined system register');
  if (!known) return { undefined: true };
  yield* domain.vgic!.endOfInterrupt(request.vcpu, request.value & INTID_MASK);
  return { undefined: false };
}
