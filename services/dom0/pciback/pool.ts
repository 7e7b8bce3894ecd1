/**
 * The functions that pciback holds for guests (Linux drivers/xen/xen-pciback/pci_stub.c): seized from dom0, lent to one
 * guest at a time, cleaned when they are seized and when they come back.
 * Deviates: bridges are refused; Linux takes them. So is a physical function whose virtual functions exist, which the
 * reset would take away. PHYSDEVOP_prepare_msix is x86 only.
 */
import { assert } from '#shared/core/assert.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { Changes } from '#shared/kernel/xenstore-client.ts';
import type { Kernel } from '../kernel/boot.ts';
import type { Driver } from '../kernel/drivers.ts';
import { type PciFunction, virtualFunctionsOf } from '../kernel/function.ts';
import { type ConfigSnapshot, cleanFunction, type ResetKind, saveConfig } from './reset.ts';

export interface Stub {
  readonly fn: PciFunction;
  readonly pristine: ConfigSnapshot;
  /** The guest that it is exported to, or -1. */
  holder: number;
  /** It answered after its last reset. */
  ready: boolean;
}

export class Pool implements Driver {
  readonly name = 'pciback';
  readonly #kernel: Kernel;
  readonly #stubs = new Map<Sbdf, Stub>();
  readonly #changes = new Changes();

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /** Seizes a function: keeps its pristine state and cleans it. Throws for what is no endpoint. */
  *probe(sbdf: Sbdf): Op<void> {
    const fn = this.#kernel.functions.get(sbdf);
    if (fn === undefined) throw new Error(`no function ${formatSbdf(sbdf)}`);
    if (fn.headerType !== 0) throw new Error(`${formatSbdf(sbdf)} is a bridge`);
    const vfs = virtualFunctionsOf(this.#kernel.functions.values(), sbdf);
    if (vfs.length > 0) throw new Error(`${formatSbdf(sbdf)} has ${vfs.length} virtual functions`);
    const pristine = yield* saveConfig(this.#kernel.access, fn);
    const { ready } = yield* cleanFunction(this.#kernel, fn, pristine);
    this.#stubs.set(sbdf, { fn, pristine, holder: -1, ready });
  }

  /** Gives a function back to dom0. It must not be exported. */
  *remove(sbdf: Sbdf): Op<void> {
    const stub = this.#stubs.get(sbdf);
    if (stub === undefined) return;
    if (stub.holder >= 0) throw new Error(`${formatSbdf(sbdf)} is exported to domain ${stub.holder}`);
    yield* this.#clean(stub);
    this.#stubs.delete(sbdf);
  }

  /** Lends a function to a guest; undefined when pciback does not hold it or it is lent already. */
  take(sbdf: Sbdf, domid: number): Stub | undefined {
    const stub = this.#stubs.get(sbdf);
    if (stub === undefined || stub.holder >= 0) return undefined;
    stub.holder = domid;
    return stub;
  }

  /** Takes a function back from its guest and cleans it. Only then may another have it. */
  *put(stub: Stub): Op<void> {
    assert(stub.holder >= 0, () => `${formatSbdf(stub.fn.sbdf)} is not lent`);
    yield* this.#clean(stub);
    stub.holder = -1;
    this.#changes.note();
  }

  /** What writing the BDF to `do_flr` does. */
  *reset(sbdf: Sbdf): Op<ResetKind> {
    const stub = this.#stubs.get(sbdf);
    if (stub === undefined) throw new Error(`${formatSbdf(sbdf)} is not held by pciback`);
    return yield* this.#clean(stub);
  }

  /** Whether a function that pciback holds came out of its last reset. */
  isReady(sbdf: Sbdf): boolean {
    return this.#stubs.get(sbdf)?.ready ?? false;
  }

  *#clean(stub: Stub): Op<ResetKind> {
    const { kind, ready } = yield* cleanFunction(this.#kernel, stub.fn, stub.pristine, stub.ready);
    stub.ready = ready;
    return kind;
  }

  holderOf(sbdf: Sbdf): number {
    return this.#stubs.get(sbdf)?.holder ?? -1;
  }

  /** Waits until a function is lent to nobody. Throws TimedOut after `ns`. */
  *waitReleased(sbdf: Sbdf, ns: number): Op<void> {
    const deadline = this.#kernel.runtime.now + ns;
    for (;;) {
      const seen = this.#changes.count;
      if (this.holderOf(sbdf) < 0) return;
      yield* this.#changes.since(seen, deadline - this.#kernel.runtime.now);
    }
  }
}
