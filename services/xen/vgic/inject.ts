/**
 * A pending interrupt onto a virtual CPU (xen/arch/arm/gic-vgic.c): what is pending and may be taken moves from the
 * virtual GIC to the virtual CPU's queue (domain/vcpu.ts), as it would into list registers; what may no longer be taken
 * and has not gone out moves back.
 * Not modelled: preemption by priority; whatever is active, another interrupt goes out.
 */

/** The queue of a virtual CPU: INTIDs of the next upcall. */
export interface VirtualCpu {
  readonly pending: readonly number[];
  deliver(intid: number): void;
  retract(intid: number): void;
}

/** State of a virtual CPU's interrupts in the virtual GIC. */
export interface InterruptState {
  /** Whether group, distributor and the interrupt are enabled. */
  isEnabled(intid: number): boolean;
  setPending(intid: number): void;
  clearPending(intid: number): void;
  /** Calls `each` for what is pending, enabled and not active. */
  forEachDeliverable(each: (intid: number, priority: number) => void): void;
}

/** Brings the queue of `vcpu` up to date; a lower priority value goes first, then the lower INTID. */
export function updateQueue(vcpu: VirtualCpu, state: InterruptState): void {
  for (const intid of vcpu.pending) {
    if (state.isEnabled(intid)) continue;
    vcpu.retract(intid);
    state.setPending(intid);
  }
  const found: { intid: number; priority: number }[] = [];
  state.forEachDeliverable((intid, priority) => {
    found.push({ intid, priority });
  });
  found.sort((a, b) => a.priority - b.priority || a.intid - b.intid);
  for (const { intid } of found) {
    state.clearPending(intid);
    vcpu.deliver(intid);
  }
}
