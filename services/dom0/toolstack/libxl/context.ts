/**
 * What the operations of the toolstack share: the guests that it built, and how an operation logs and fails
 * (Xen tools/libs/light/libxl_internal.h). Return codes are libxl's.
 */

import type { ToolstackLog } from '#gen/toolstack.ts';
import { strerror } from '#shared/abi/errno.ts';
import { Lock, type Op } from '#shared/core/op.ts';
import { busOf, deviceOf, functionOf, type Sbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { HypercallFailed } from '#shared/kernel/hypercalls.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';
import type { Kernel } from '../../kernel/boot.ts';
import type { StoreRings } from '../../kernel/store-rings.ts';
import type { Backends } from '../../pciback/backend.ts';
import type { PlacedBar } from '../../pciback/nodes.ts';
import type { Pool } from '../../pciback/pool.ts';
import { MmioHoles } from './mmio-holes.ts';

/** Error codes of libxl (Xen tools/include/libxl.h). */
export const RC = {
  FAIL: -3,
  NOMEM: -5,
  INVAL: -6,
  DOMAIN_NOTFOUND: -21,
  NOTFOUND: -23,
} as const;

/** What a wait for the other end of a device takes at most (libxl: 100 polls of 100 ms). */
export const DEVICE_WAIT_NS = 10_000 * 1e6;

/** An operation that failed; what there is to say was logged. */
export class LibxlFailed extends Error {
  override name = 'LibxlFailed';
  readonly rc: number;

  constructor(rc: number) {
    super(`rc ${rc}`);
    this.rc = rc;
  }
}

/** The lines that libxl would print, without `libxl: error: file:line:function: `. */
export class Log {
  readonly lines: ToolstackLog[] = [];

  error(text: string): void {
    this.lines.push({ level: 'error', text });
  }

  warning(text: string): void {
    this.lines.push({ level: 'warning', text });
  }

  /** With the text of the errno of a failed hypercall behind it, as LOGE does. */
  errorWith(text: string, cause: unknown): void {
    this.error(`${text}: ${reasonOf(cause)}`);
  }
}

/** strerror of a failed hypercall; the message of any other error. */
export function reasonOf(cause: unknown): string {
  if (cause instanceof HypercallFailed) return strerror(cause.errno);
  return cause instanceof Error ? cause.message : String(cause);
}

/** Runs a step; when it fails, logs `text` with the reason and throws LibxlFailed. */
export function* logged(log: Log, text: string, op: () => Op<void>): Op<void> {
  try {
    yield* op();
  } catch (error) {
    log.errorWith(text, error);
    throw new LibxlFailed(RC.FAIL);
  }
}

/** A function that a guest has. */
export interface Attached {
  readonly sbdf: Sbdf;
  /** On the guest's bus 0000:00. */
  readonly vdevfn: number;
  readonly bars: readonly PlacedBar[];
  /** The INTID of its line, which the guest has; 0 when it goes without INTx. */
  readonly intx: number;
}

/** A domain that this toolstack built. */
export class Guest {
  readonly domid: number;
  readonly name: string;
  readonly uuid: string;
  readonly onCrash: string;
  /** Held by whatever changes the domain's devices or ends it (libxl's userdata lock). */
  readonly lock: Lock;
  readonly holes = new MmioHoles();
  readonly devices = new Map<Sbdf, Attached>();
  /** SPIs that are bound to it, and the functions that need each. */
  readonly lines = new Map<number, Set<Sbdf>>();
  /** It ran once: its frontend can be expected to answer. */
  started = false;
  /** It crashed, shut down or is being destroyed: nobody answers any more. */
  dead = false;
  /** Notes whatever those who wait for this guest want to look at again. */
  readonly changes = new Changes();

  constructor(domid: number, name: string, uuid: string, onCrash: string) {
    this.domid = domid;
    this.name = name;
    this.uuid = uuid;
    this.onCrash = onCrash;
    this.lock = new Lock(`libxl d${domid}`);
  }

  died(): void {
    this.dead = true;
    this.changes.note();
  }
}

export interface Libxl {
  readonly kernel: Kernel;
  readonly storeRings: StoreRings;
  readonly pool: Pool;
  readonly backends: Backends;
  readonly guests: Map<number, Guest>;
  /** Held while a name is looked up and taken. */
  readonly nameLock: Lock;
}

/** `0:3:0.0`, as messages about attach have it. */
export function looseBdf(s: Sbdf): string {
  const hex = (n: number): string => n.toString(16);
  return `${hex(segmentOf(s))}:${hex(busOf(s))}:${hex(deviceOf(s))}.${functionOf(s)}`;
}

/** For the undo of a step that cannot be undone: it is traced, and the rest goes on. */
export function undoFailed(ctx: Libxl): (name: string, error: unknown) => void {
  return (name, error) => ctx.kernel.runtime.trace('libxl.undo_failed', { name, error: String(error) });
}

/** An undo that waits for nothing. */
export function plain(run: () => void): () => Op<void> {
  // biome-ignore lint/correctness/useYield: an undo is an operation, and this one has nothing to wait for
  return function* () {
    run();
  };
}
