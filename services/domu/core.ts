/**
 * A guest: its kernel, from the first upcall on. Reaches its CPU bus, its hypercalls and its store connection, nothing
 * else (services/domu/kernel/boot.ts brings it up).
 * A kernel that cannot boot panics: it asks Xen for SCHEDOP_shutdown with the reason crash.
 */
import { SHUTDOWN } from '#shared/abi/sched.ts';
import { AssertionError } from '#shared/core/assert.ts';
import { type Body, body, type Core, type Payload, type Peer } from '#shared/core/core.ts';
import { inspectReply } from '#shared/core/inspect.ts';
import { type Op, Refused } from '#shared/core/op.ts';
import { type Answer, Runtime, type RuntimeOptions, type Service } from '#shared/core/runtime.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { describeFunctions, lspci, runCommand } from './commands.ts';
import { DmaProbe } from './drivers/dma-probe.ts';
import { boot, type Kernel, type KernelBase, kernelBase, requireBooted } from './kernel/boot.ts';

export class DomuService implements Service {
  readonly #domid: number;
  readonly #runtime: Runtime;
  readonly #base: KernelBase;
  #kernel: Kernel | undefined;
  #state: 'off' | 'booting' | 'booted' | 'panicked' = 'off';

  constructor(runtime: Runtime, domid: number) {
    this.#runtime = runtime;
    this.#domid = domid;
    this.#base = kernelBase(runtime);
  }

  onRequest(from: Peer, message: Body): Answer {
    if (message.$case === 'upcallRequest' && from === 'xen') return this.#onUpcall(message.value);
    if (message.$case === 'xenstoreWatchEvent' && from === 'xenstored') {
      this.#base.store.onWatchEvent(message.value.packet);
      return body('xenstoreWatchEventReply', {});
    }
    if (message.$case === 'xenstoreRestarted' && from === 'xenstored') return this.#base.store.onRestarted();
    if (from === 'operator') {
      switch (message.$case) {
        case 'guestCommandRequest':
          return this.#command(message.value.command, message.value.args);
        case 'lspciRequest':
          return this.#lspci();
        case 'inspectRequest':
          return inspectReply(`d${this.#domid}`, this.#runtime.inspect(), message.value.path);
      }
    }
    throw new Refused(`domain ${this.#domid} takes no ${message.$case} of ${from}`);
  }

  /** The upcall is acknowledged at once; what it starts runs as a task of its own. */
  #onUpcall({ what }: Payload<'upcallRequest'>): Body {
    if (what?.$case === 'interrupts') this.#base.interrupts.deliver(what.value.intids);
    if (what?.$case === 'vcpuStart' && this.#state === 'off') {
      this.#state = 'booting';
      const done = (kernel: Kernel): void => {
        this.#kernel = kernel;
        this.#state = 'booted';
      };
      this.#runtime.spawn('boot', boot(this.#base, what.value.x0), done, (error) => this.#panic(error));
    }
    return body('upcallReply', {});
  }

  #panic(error: unknown): void {
    this.#state = 'panicked';
    this.#runtime.trace('kernel-panic', { error: `${error}` });
    const failed = (second: unknown): void => this.#runtime.trace('shutdown-failed', { error: `${second}` });
    this.#runtime.spawn('panic', this.#base.hypercalls.sched_shutdown(SHUTDOWN.crash), undefined, failed);
  }

  *#command(name: string, args: string): Op<Body> {
    return body('guestCommandReply', yield* runCommand(requireBooted(this.#kernel), name, args));
  }

  *#lspci(): Op<Body> {
    try {
      return body('lspciReply', { functions: yield* lspci(requireBooted(this.#kernel)), error: '' });
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      return body('lspciReply', { functions: [], error: error instanceof Error ? error.message : `${error}` });
    }
  }

  inspect(): unknown {
    const { interrupts } = this.#base;
    const kernel = this.#kernel;
    return {
      domid: this.#domid,
      state: this.#state,
      ready: this.#state === 'booted',
      booted: this.#state === 'booted',
      interrupts: interrupts.counts(),
      spuriousInterrupts: interrupts.spurious,
      devices: kernel === undefined ? [] : describeFunctions(kernel),
      vectors: kernel === undefined ? {} : vectorCounts(kernel),
      ...(kernel === undefined
        ? {}
        : {
            frontend: kernel.frontend.inspect(),
            pciif: kernel.requests.counts,
            eventChannels: kernel.events.counts,
            grants: kernel.grants.granted,
            ...(kernel.storeRing === undefined ? {} : { storeRing: kernel.storeRing.inspect() }),
            lpis: kernel.irqDomain?.lpisTaken ?? 0,
            lines: kernel.lines.inspect(),
            itsCommands: kernel.its?.submitted ?? 0,
            freeBytes: kernel.pages.freeBytes,
          }),
    };
  }
}

export function createDomuCore(options: RuntimeOptions & { readonly domid: number }): Core {
  const runtime = new Runtime({ ...options, announceTo: ['xen'] });
  runtime.attach(new DomuService(runtime, options.domid));
  return runtime;
}

/** Interrupts counted at each vector's handler, by function. */
function vectorCounts(kernel: Kernel): Record<string, readonly number[]> {
  const probes = kernel.bus.functions.map((f) => f.driver).filter((d) => d instanceof DmaProbe);
  return Object.fromEntries(probes.map((p) => [formatSbdf(p.sbdf), [...p.delivered]]));
}
