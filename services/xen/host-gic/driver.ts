/**
 * What Xen's driver of one version of the machine's interrupt controller does (struct gic_hw_operations), and what it is
 * made of. The rest is the same for all versions: gic.ts.
 */
import type { El2Op, El2Result } from '#gen/hardware.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import type { Runtime } from '#shared/core/runtime.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import type { Counts } from '../counts.ts';
import type { El2 } from '../el2.ts';
import type { Frames } from '../mm/frames.ts';
import type { HostIts } from './its.ts';
import type { HostLpis } from './lpi.ts';

/** The GIC of the machine is missing or does not do what the architecture says: Xen cannot start. */
export class GicError extends Error {
  override name = 'GicError';
}

export interface HostGicParts {
  readonly el2: El2;
  readonly frames: Frames;
  readonly runtime: Pick<Runtime, 'spawn' | 'trace'>;
  readonly counts: Counts;
}

export interface GicDriver {
  readonly version: 2 | 3;
  /** The distributor: the registers of SPIs are at the same offsets in every version. */
  readonly gicdPa: number;
  /** None where there are no LPIs. */
  readonly itses: readonly HostIts[];
  readonly lpis: HostLpis | undefined;
  /** Brings up the distributor and every CPU; all SPIs go to CPU 0 and are disabled. INTIDs of SPIs are below the answer. */
  init(): Op<number>;
  /**
   * Two operations that acknowledge an interrupt of a CPU and drop its priority, for the places `at` and `at + 1` of a
   * batch. An SPI is active then.
   */
  acknowledgeOps(pcpu: number, at: number): readonly [El2Op, El2Op];
  /** Ends an SPI that the CPU has taken (EOImode is 1). */
  deactivateOp(pcpu: number, intid: number): El2Op;
  /** The INTID that the first of these two brought; 1020 to 1023 when there is none. */
  intidOf(result: El2Result): number;
}

const POLL_NS = 1_000_000;
const POLLS_MAX = 1000;

/** Reads a register until `done`. Throws GicError with `what` when it never is. */
export function* poll(el2: El2, pa: number, done: (value: number) => boolean, what: string): Op<void> {
  for (let polls = 0; !done(yield* el2.read32(pa)); polls++) {
    if (polls >= POLLS_MAX) throw new GicError(what);
    yield* sleep(POLL_NS);
  }
}

/** CPUs of the device tree. Throws GicError when there is none. */
export function cpusOf(tree: FdtNode): number {
  const cpus = tree.find('/cpus')?.children.filter((c) => c.string('device_type') === 'cpu').length ?? 0;
  if (cpus === 0) throw new GicError('the device tree has no CPU');
  return cpus;
}
