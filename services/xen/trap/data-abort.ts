/**
 * A stage-2 fault of a guest (do_trap_stage2_abort_guest): an access that the tables allow by now is done again, one to
 * an emulated register is done by the vGIC, any other aborts the guest.
 * Not modelled: decoding the instruction of an access without a valid syndrome (ISV=0); the guest takes the abort.
 */

import { TrapOutcome, type TrapReply, type TrapRequest } from '#gen/hardware.ts';
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { decodeDataAbort } from '#shared/arch/vmsa.ts';
import type { Op } from '#shared/core/op.ts';
import type { Counts } from '../counts.ts';
import type { Domain } from '../domain/domain.ts';
import { isWritable } from '../mm/p2m.ts';

const NO_DATA = new Uint8Array(0);

export function* dataAbort(domain: Domain | undefined, trap: TrapRequest, counts: Counts): Op<TrapReply> {
  const abort = decodeDataAbort(trap.esrEl2);
  if (domain === undefined || domain.shutdownCode !== undefined || abort === undefined) {
    counts.add('traps', 'abort');
    return { outcome: TrapOutcome.TRAP_OUTCOME_ABORT, data: NO_DATA };
  }
  // A fault between the two halves of a break-before-make: whoever changes the tables holds the lock until they are whole.
  const entry = yield* domain.p2m.settled(Math.floor(trap.ipa / XEN_PAGE_SIZE));
  if (entry !== undefined && (!abort.isWrite || isWritable(entry.type))) {
    counts.add('traps', 'retry');
    return { outcome: TrapOutcome.TRAP_OUTCOME_RETRY, data: NO_DATA };
  }
  const { sizeBytes, isWrite } = abort;
  if (sizeBytes !== 0 && domain.vgic !== undefined) {
    const value = trap.data.subarray(0, sizeBytes);
    const data = yield* domain.vgic.mmio({ vcpu: trap.vcpu, ipa: trap.ipa, sizeBytes, isWrite, value });
    if (data !== undefined) {
      counts.add('traps', isWrite ? 'write' : 'read');
      return { outcome: TrapOutcome.TRAP_OUTCOME_EMULATED, data };
    }
  }
  counts.add('traps', 'abort');
  return { outcome: TrapOutcome.TRAP_OUTCOME_ABORT, data: NO_DATA };
}
