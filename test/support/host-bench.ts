/** Machine and hypervisor as they are, and domains whose kernel is the test: it makes hypercalls and CPU accesses. */
import { GUEST_RAM0_BASE } from '#shared/abi/arch-arm.ts';
import { XEN_DOMCTL_CDF } from '#shared/abi/domctl.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { type Body, body, type Payload, type Peer, peerOf } from '#shared/core/core.ts';
import { Mailbox, type Op } from '#shared/core/op.ts';
import { type Answer, Runtime, type Service } from '#shared/core/runtime.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { World } from '#shared/sim/world.ts';
import { createHardwareCore } from '../../services/hardware/core.ts';
import { createXenCore } from '../../services/xen/core.ts';

const SECOND_NS = 1e9;

/** A domain's kernel: what it is told goes into `upcalls`, what it does is what a test runs in it. */
export class Kernel implements Service {
  readonly runtime: Runtime;
  readonly cpu = new CpuBus();
  readonly hypercalls = new Hypercalls();
  readonly upcalls = new Mailbox<Payload<'upcallRequest'>>();

  /** What a test has it do next; a message from the operator sets it off. */
  job: (() => void) | undefined;

  constructor(idBase: number) {
    this.runtime = new Runtime({ idBase });
    this.runtime.attach(this);
  }

  onRequest(_from: Peer, message: Body): Answer {
    if (message.$case === 'inspectRequest') this.job?.();
    if (message.$case !== 'upcallRequest') return undefined;
    this.upcalls.put(message.value);
    return body('upcallReply', {});
  }

  inspect(): unknown {
    return {};
  }
}

// biome-ignore lint/suspicious/noExplicitAny: a tree of any shape, which a test reads where it knows it
type Tree = any;

export class HostBench {
  readonly world: World;
  readonly #kernels = new Map<number, Kernel>();
  #id = 0;

  constructor(seed = 1, board = 'examples/boards/qemu-virt.yaml') {
    this.world = new World({ seed, codec: true });
    this.world.add('hardware', createHardwareCore(readBoard(board), { idBase: 0 }));
    this.world.add('xen', createXenCore({ idBase: 0 }));
    this.#start(0, 0);
    this.world.run(() => this.domain(0)?.vcpus[0] === 'up', 10 * SECOND_NS);
  }

  #start(domid: number, idBase: number): Kernel {
    const kernel = new Kernel(idBase);
    this.#kernels.set(domid, kernel);
    this.world.add(peerOf(domid), kernel.runtime);
    return kernel;
  }

  /** The process of a domain comes up. */
  start(domid: number, idBase = 0): Kernel {
    return this.#start(domid, idBase);
  }

  kernel(domid: number): Kernel {
    return this.#kernels.get(domid)!;
  }

  /** Runs an operation in a domain's kernel to its end, and gives its value or throws its error. */
  run<T>(domid: number, op: (kernel: Kernel) => Op<T>): T {
    const kernel = this.kernel(domid);
    let outcome: { value: T } | { error: unknown } | undefined;
    kernel.job = () =>
      kernel.runtime.spawn(
        'test',
        op(kernel),
        (value) => {
          outcome = { value };
        },
        (error) => {
          outcome = { error };
        },
      );
    this.poke(domid);
    this.world.run(() => outcome !== undefined, 60 * SECOND_NS);
    if (outcome !== undefined && 'error' in outcome) throw outcome.error;
    return (outcome as { value: T }).value;
  }

  /** A guest with memory at GUEST_RAM0_BASE, its process up and its virtual CPU started. Gives its domid. */
  guest(options: { readonly memoryMib?: number; readonly maxEventPorts?: number } = {}): number {
    const mib = options.memoryMib ?? 4;
    const domid = this.run(0, function* ({ hypercalls }) {
      const { domid: created } = yield* hypercalls.createdomain({
        flags: XEN_DOMCTL_CDF.hvm | XEN_DOMCTL_CDF.hap | XEN_DOMCTL_CDF.iommu,
        max_vcpus: 1,
        max_evtchn_port: options.maxEventPorts ?? 0,
      });
      yield* hypercalls.max_vcpus(created, 1);
      yield* hypercalls.max_mem(created, mib * 1024);
      const gfns = Array.from({ length: mib / 2 }, (_, i) => GUEST_RAM0_BASE / 4096 + 512 * i);
      const done = yield* hypercalls.populate_physmap(created, gfns, 9);
      if (done !== gfns.length) throw new Error(`${done} of ${gfns.length} extents`);
      yield* hypercalls.setvcpucontext(created, 0, GUEST_RAM0_BASE, GUEST_RAM0_BASE);
      return created;
    });
    const kernel = this.start(domid);
    this.run(0, ({ hypercalls }) => hypercalls.unpausedomain(domid));
    this.world.run(() => kernel.upcalls.length > 0, 10 * SECOND_NS);
    this.run(domid, (k) => k.upcalls.take(0));
    return domid;
  }

  destroy(domid: number): void {
    this.run(0, ({ hypercalls }) => hypercalls.destroydomain(domid));
    this.world.remove(peerOf(domid));
  }

  /** Runs the world until `done`, or throws Stuck. */
  until(done: () => boolean, withinNs = 120 * SECOND_NS): void {
    this.world.run(done, withinNs);
  }

  /** Sets off what the kernel of a domain is to do next. */
  poke(domid: number): void {
    this.#post('operator', peerOf(domid), body('inspectRequest', { path: '' }));
  }

  /** What the broker tells Xen of a domain's connection. */
  connection(domid: number, connected: boolean): void {
    this.#post('broker', 'xen', body('domainConnection', { domid, connected }));
  }

  #post(from: Peer, to: Peer, message: Body): void {
    const id = ++this.#id;
    this.world.post(from, to, { id, inReplyTo: 0, oldestPending: id, refused: '', body: message });
  }

  xen(): Tree {
    return this.world.core('xen').inspect();
  }

  domain(domid: number): Tree {
    return this.xen().domains.find((d: Tree) => d.domid === domid);
  }
}
