/**
 * What a guest kernel runs on, for tests: memory by page, registers that are stored, event channels and grants as Xen
 * answers them, and whatever a test adds. Everything is answered at once and counted.
 */

import { CpuFault, type CpuOp, CpuOpKind } from '#gen/hardware.ts';
import {
  EVTCHNOP,
  evtchn_alloc_unbound,
  evtchn_bind_interdomain,
  evtchn_port_arg,
  SHARED_INFO,
} from '#shared/abi/event-channel.ts';
import { HYPERCALL } from '#shared/abi/hypercall.ts';
import { SCHEDOP } from '#shared/abi/sched.ts';
import { type Body, type BodyCase, body, type Core, type Effect, type Payload, type Peer } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { Runtime, type Service } from '#shared/core/runtime.ts';

/** Registers at an address range. */
export interface Registers {
  readonly base: number;
  readonly sizeBytes: number;
  read(offset: number, sizeBytes: number): number;
  write(offset: number, sizeBytes: number, value: number): void;
}

export class GuestMachine {
  readonly #pages = new Map<number, Uint8Array>();
  readonly registers: Registers[] = [];
  /** Where the shared info page was mapped. */
  sharedInfo = -1;
  readonly cpuBatches: CpuOp[][] = [];
  readonly hypercalls: { number: number; cmd: number; arg: Uint8Array }[] = [];
  /** Pages that hold nothing: an access aborts. */
  readonly holes = new Set<number>();
  nextPort = 1;
  /** Runs at EVTCHNOP_send. */
  onSend: (port: number) => void = () => {};
  /** Raises the upcall interrupt. */
  onUpcall: () => void = () => {};

  read(ipa: number, sizeBytes: number): Uint8Array {
    const out = new Uint8Array(sizeBytes);
    for (let i = 0; i < sizeBytes; ) {
      const offset = (ipa + i) % 4096;
      const n = Math.min(4096 - offset, sizeBytes - i);
      out.set(this.#page(ipa + i).subarray(offset, offset + n), i);
      i += n;
    }
    return out;
  }

  write(ipa: number, data: Uint8Array): void {
    for (let i = 0; i < data.length; ) {
      const offset = (ipa + i) % 4096;
      const n = Math.min(4096 - offset, data.length - i);
      this.#page(ipa + i).set(data.subarray(i, i + n), offset);
      i += n;
    }
  }

  read32(ipa: number): number {
    return new DataView(this.read(ipa, 4).buffer).getUint32(0, true);
  }

  write32(ipa: number, value: number): void {
    this.write(ipa, Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24));
  }

  /** Marks a port pending as Xen does: the word, the selector, the upcall. */
  sendTo(port: number): void {
    const pending = this.sharedInfo + SHARED_INFO.evtchn_pending + (port >>> 5) * 4;
    this.write32(pending, this.read32(pending) | (1 << (port & 31)));
    const masked = this.read32(this.sharedInfo + SHARED_INFO.evtchn_mask + (port >>> 5) * 4) & (1 << (port & 31));
    if (masked !== 0) return;
    const word = port >>> 6;
    const selector = this.sharedInfo + SHARED_INFO.evtchn_pending_sel + (word >>> 5) * 4;
    this.write32(selector, this.read32(selector) | (1 << (word & 31)));
    const upcall = this.sharedInfo + SHARED_INFO.evtchn_upcall_pending;
    const [was] = this.read(upcall, 1);
    this.write(upcall, Uint8Array.of(1));
    if (was === 0) this.onUpcall();
  }

  answer(message: Body): Body | undefined {
    if (message.$case === 'cpuAccessRequest') return this.#access(message.value.ops);
    if (message.$case === 'hypercallRequest') return body('hypercallReply', this.#hypercall(message.value));
    return undefined;
  }

  #access(ops: readonly CpuOp[]): Body {
    this.cpuBatches.push([...ops]);
    const results: Payload<'cpuAccessReply'>['results'] = [];
    for (const op of ops) {
      if (this.holes.has(Math.floor(op.ipa / 4096))) {
        results.push({ fault: CpuFault.CPU_FAULT_EXTERNAL_ABORT, data: new Uint8Array(0) });
        break;
      }
      results.push({ fault: CpuFault.CPU_FAULT_UNSPECIFIED, data: this.#one(op) });
    }
    return body('cpuAccessReply', { results });
  }

  #one(op: CpuOp): Uint8Array {
    const block = this.registers.find((r) => op.ipa >= r.base && op.ipa < r.base + r.sizeBytes);
    if (block !== undefined) return registerAccess(block, op);
    if (op.kind === CpuOpKind.CPU_OP_KIND_READ) return this.read(op.ipa, op.sizeBytes);
    const before = this.read(op.ipa, op.data.length);
    const after = op.data.map((b, i) => {
      if (op.kind === CpuOpKind.CPU_OP_KIND_SET_BITS) return before[i]! | b;
      if (op.kind === CpuOpKind.CPU_OP_KIND_CLEAR_BITS) return before[i]! & ~b;
      return b;
    });
    this.write(op.ipa, after);
    return op.kind === CpuOpKind.CPU_OP_KIND_WRITE ? new Uint8Array(0) : before;
  }

  #hypercall({ number, cmd, arg }: Payload<'hypercallRequest'>): Payload<'hypercallReply'> {
    this.hypercalls.push({ number, cmd, arg });
    if (number === HYPERCALL.memory_op) {
      const view = new DataView(arg.buffer, arg.byteOffset);
      if (view.getUint32(4, true) === 0) this.sharedInfo = view.getUint32(16, true) * 4096;
      return { result: 0, arg };
    }
    if (number === HYPERCALL.sched_op) return { result: cmd === SCHEDOP.watchdog ? 1 : 0, arg };
    if (number !== HYPERCALL.event_channel_op) return { result: -38, arg };
    if (cmd === EVTCHNOP.alloc_unbound) {
      return { result: 0, arg: evtchn_alloc_unbound.encode({ port: this.nextPort++ }) };
    }
    if (cmd === EVTCHNOP.bind_interdomain) {
      return { result: 0, arg: evtchn_bind_interdomain.encode({ local_port: this.nextPort++ }) };
    }
    const { port } = evtchn_port_arg.decode(arg);
    if (cmd === EVTCHNOP.send) this.onSend(port);
    if (cmd === EVTCHNOP.unmask) {
      const word = this.sharedInfo + SHARED_INFO.evtchn_mask + (port >>> 5) * 4;
      this.write32(word, this.read32(word) & ~(1 << (port & 31)));
      const pending = this.read32(this.sharedInfo + SHARED_INFO.evtchn_pending + (port >>> 5) * 4);
      if ((pending & (1 << (port & 31))) !== 0) this.sendTo(port);
    }
    return { result: 0, arg };
  }

  #page(ipa: number): Uint8Array {
    const n = Math.floor(ipa / 4096);
    let page = this.#pages.get(n);
    if (page === undefined) {
      page = new Uint8Array(4096);
      this.#pages.set(n, page);
    }
    return page;
  }
}

function registerAccess(block: Registers, op: CpuOp): Uint8Array {
  const offset = op.ipa - block.base;
  const isRead = op.kind === CpuOpKind.CPU_OP_KIND_READ;
  const size = isRead ? op.sizeBytes : op.data.length;
  const out = new Uint8Array(isRead ? size : 0);
  const from = new DataView(op.data.buffer, op.data.byteOffset, op.data.length);
  const to = new DataView(out.buffer);
  for (let at = 0; at < size; at += 4) {
    if (isRead) to.setUint32(at, block.read(offset + at, 4), true);
    else block.write(offset + at, 4, from.getUint32(at, true));
  }
  return out;
}

/** A block of storage: what was written reads back, except where `fixed` says. */
export function storage(base: number, sizeBytes: number, fixed: Readonly<Record<number, number>> = {}): Registers {
  const words = new Map<number, number>();
  return {
    base,
    sizeBytes,
    read: (offset) => fixed[offset] ?? words.get(offset) ?? 0,
    write: (offset, _size, value) => {
      words.set(offset, value >>> 0);
    },
  };
}

/** Cores and scripted peers on one queue and one clock that jumps. */
export class MiniWorld {
  now = 0;
  readonly #cores = new Map<Peer, Core>();
  readonly #scripts = new Map<Peer, (from: Peer, message: Body) => Body | undefined>();
  readonly #queue: { from: Peer; to: Peer; envelope: Extract<Effect, { do: 'send' }>['envelope'] }[] = [];
  readonly #wakes: { at: number; peer: Peer }[] = [];
  readonly traces: { event: string; detail: unknown }[] = [];
  #nextId = 1_000_000;
  readonly #answers = new Map<number, Body | undefined>();

  addCore(peer: Peer, core: Core): void {
    this.#cores.set(peer, core);
    this.#carryOut(peer, core.start(this.now));
  }

  addScript(peer: Peer, script: (from: Peer, message: Body) => Body | undefined): void {
    this.#scripts.set(peer, script);
  }

  /** A request of `from`; its answer comes with `answerTo` once the world ran. */
  send(from: Peer, to: Peer, message: Body): number {
    const id = this.#nextId++;
    this.#queue.push({ from, to, envelope: { id, inReplyTo: 0, oldestPending: 0, refused: '', body: message } });
    return id;
  }

  answerTo<C extends BodyCase>(id: number, expect: C): Payload<C> {
    const answer = this.#answers.get(id);
    if (answer?.$case !== expect) throw new Error(`request ${id} was answered with ${answer?.$case}`);
    return answer.value as Payload<C>;
  }

  /** Sends a request and runs until it is answered. */
  ask<C extends BodyCase>(from: Peer, to: Peer, message: Body, expect: C): Payload<C> {
    const id = this.send(from, to, message);
    this.runUntil(() => this.#answers.has(id));
    return this.answerTo(id, expect);
  }

  /** Runs until `done` holds. Throws when 120 s pass first. */
  runUntil(done: () => boolean): void {
    const end = this.now + 120e9;
    while (!done()) {
      if (this.now > end || !this.#step()) throw new Error('nothing more happens, or 120 s passed');
    }
  }

  /** Runs everything that happens within `ns`. */
  pass(ns: number): void {
    const end = this.now + ns;
    while (this.#queue.length > 0 || (this.#wakes[0]?.at ?? Infinity) <= end) this.#step();
    this.now = end;
  }

  #step(): boolean {
    const next = this.#queue.shift();
    this.now += 1000;
    if (next !== undefined) {
      this.#deliver(next.from, next.to, next.envelope);
      return true;
    }
    const wake = this.#wakes.shift();
    if (wake === undefined) return false;
    this.now = Math.max(this.now, wake.at);
    this.#carryOut(wake.peer, this.#cores.get(wake.peer)!.wake(this.now));
    return true;
  }

  #deliver(from: Peer, to: Peer, envelope: Extract<Effect, { do: 'send' }>['envelope']): void {
    const core = this.#cores.get(to);
    if (envelope.inReplyTo >= 1_000_000) {
      this.#answers.set(envelope.inReplyTo, envelope.body);
      return;
    }
    if (core !== undefined) {
      this.#carryOut(to, core.receive(this.now, from, envelope));
      return;
    }
    const answer = envelope.body === undefined ? undefined : this.#scripts.get(to)?.(from, envelope.body);
    if (answer === undefined) return;
    const reply = { id: this.#nextId++, inReplyTo: envelope.id, oldestPending: 0, refused: '', body: answer };
    this.#queue.push({ from: to, to: from, envelope: reply });
  }

  #carryOut(peer: Peer, effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.do === 'send') this.#queue.push({ from: peer, to: effect.to, envelope: effect.envelope });
      else if (effect.do === 'trace') this.traces.push({ event: effect.event, detail: effect.detail });
      else {
        this.#wakes.push({ at: effect.at, peer });
        this.#wakes.sort((a, b) => a.at - b.at);
      }
    }
  }
}

/** A kernel without services: runs operations of a test on a machine. */
export class BareKernel implements Service {
  readonly world = new MiniWorld();
  readonly runtime = new Runtime({ idBase: 0 });

  constructor(machine: GuestMachine) {
    this.runtime.attach(this);
    this.world.addScript('hardware', (_from, message) => machine.answer(message));
    this.world.addScript('xen', (_from, message) => machine.answer(message));
    this.world.addCore('d1', this.runtime);
  }

  onRequest(): undefined {
    return undefined;
  }

  inspect(): unknown {
    return {};
  }

  /** Runs an operation to its end and gives its value, or throws its error. */
  run<T>(op: Op<T>): T {
    let done: { value: T } | undefined;
    let failed: { error: unknown } | undefined;
    const start = (): void =>
      this.runtime.spawn(
        'test',
        op,
        (value) => {
          done = { value };
        },
        (error) => {
          failed = { error };
        },
      );
    this.runtime.at(this.world.now, start);
    // An empty notice makes the runtime flush what the test asked of it.
    this.world.send('operator', 'd1', body('consoleLine', { text: '' }));
    this.world.pass(0);
    this.world.runUntil(() => done !== undefined || failed !== undefined);
    if (failed !== undefined) throw failed.error;
    return done!.value;
  }
}
