/**
 * The lease of a running kernel: a Xen watchdog of 30 s that is started again every 5 s (SCHEDOP_watchdog). A guest
 * whose process hangs, or is cut off from Xen for longer, is shut down by Xen when it runs out.
 */
import { type Op, sleep } from '#shared/core/op.ts';
import type { Hypercalls } from '#shared/kernel/hypercalls.ts';

export const WATCHDOG_SECONDS = 30;
const REARM_NS = 5e9;

/** Asks for the watchdog; gives its id. */
export function startWatchdog(hypercalls: Hypercalls): Op<number> {
  return hypercalls.sched_watchdog(0, WATCHDOG_SECONDS);
}

/** Keeps it alive for ever. One that could not be started again is tried at the next turn. */
export function* keepWatchdog(hypercalls: Hypercalls, id: number, onFailure: (error: unknown) => void): Op<void> {
  for (;;) {
    yield* sleep(REARM_NS);
    try {
      yield* hypercalls.sched_watchdog(id, WATCHDOG_SECONDS);
    } catch (error) {
      onFailure(error);
    }
  }
}
