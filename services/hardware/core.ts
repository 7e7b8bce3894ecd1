/**
 * The machine as a service. A domain's CPU port asks for accesses, EL2 (`xen`) for its own; the machine tells EL2 about
 * stage-2 faults and pending interrupts. Everything else happens inside the machine, in the call that caused it.
 * The batches of one peer run one after another, those of different peers beside each other. xenstored, a process of
 * dom0, runs on dom0's port.
 * What disks keep goes to the peer `media`, in the same process (media-files.ts).
 * Not modelled: the time that an access takes.
 */
import { CpuFault, type CpuOp, type CpuResult, TrapOutcome } from '#gen/hardware.ts';
import { decodeDataAbort, formatDfsc } from '#shared/arch/vmsa.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import { type Body, body, type Core, domidOf, type Payload, type Peer } from '#shared/core/core.ts';
import { inspectReply } from '#shared/core/inspect.ts';
import { LIMITS } from '#shared/core/limits.ts';
import { call, Indefinite, Lock, type Op, Refused, withLock } from '#shared/core/op.ts';
import { type Answer, Runtime, type RuntimeOptions, type Service } from '#shared/core/runtime.ts';
import { loadBoard } from './board/load.ts';
import type { MediaPiece } from './bus/media.ts';
import { CpuAccess } from './cpu-access.ts';
import { answerBytes, runEl2Batch } from './el2-access.ts';
import { InterruptNotices } from './interrupt-notices.ts';
import { Machine } from './machine.ts';

/** Times that EL2 may say "do it again" to one access; then the guest takes an abort. */
const TRAP_RETRIES_MAX = 16;
/** What one batch may bring back, so that it fits into a message. */
const ANSWER_BYTES_MAX = LIMITS.messageBytes - 256 * 1024;
const NO_DATA = new Uint8Array(0);

export class HardwareService implements Service {
  readonly machine: Machine;
  readonly #runtime: Runtime;
  /** By who runs on the port: dom0's kernel and xenstored are on CPUs of their own. */
  readonly #locks = new Map<Peer, Lock>();
  readonly #notices: InterruptNotices;
  readonly #traps = new Map<string, number>();
  readonly #trapOutcomes = new Map<string, number>();
  readonly #el2Ops = new Map<string, number>();
  /** Requests to each medium so far. */
  readonly #mediaSeqs = new Map<string, number>();
  #cpuBatches = 0;
  #cpuOps = 0;
  #cpuFaults = 0;

  /** Throws BoardError. */
  constructor(runtime: Runtime, description: BoardDescription) {
    this.#runtime = runtime;
    this.#notices = new InterruptNotices(runtime, (pcpu) => this.machine.gic.hasInterrupt(pcpu));
    const scheduler = {
      get now(): number {
        return runtime.now;
      },
      after: (ns: number, run: () => void): void => {
        runtime.at(runtime.now + ns, () => this.#notices.during(run));
      },
    };
    this.machine = new Machine(loadBoard(description), scheduler, {
      interruptPending: (pcpu) => this.#notices.raise(pcpu),
      interruptAcknowledged: (pcpu) => this.#notices.acknowledged(pcpu),
      media: {
        write: (medium, pieces, sync, done) =>
          this.#runtime.spawn(`write to ${medium}`, this.#writeMedia(medium, pieces, sync), (ok) =>
            this.#notices.during(() => done(ok)),
          ),
      },
    });
  }

  onRequest(from: Peer, message: Body): Answer {
    switch (message.$case) {
      case 'cpuAccessRequest': {
        const port = portOf(from);
        if (port < 0) throw new Refused(`${from} has no CPU port`);
        return this.#onCpuAccess(from, port, message.value);
      }
      case 'el2Request':
        if (from !== 'xen') throw new Refused(`${from} is not EL2`);
        return this.#onEl2(message.value);
      case 'inspectRequest':
        if (from !== 'operator') throw new Refused(`${from} may not inspect hardware`);
        return inspectReply('hardware', this.#runtime.inspect(), message.value.path);
      default:
        throw new Refused(`hardware does not take ${message.$case} of ${from}`);
    }
  }

  #onCpuAccess(from: Peer, port: number, request: Payload<'cpuAccessRequest'>): Op<Body> {
    const { ops, vcpu } = request;
    if (ops.length > LIMITS.batchOps) throw new Refused(`a batch of ${ops.length} accesses`);
    let bytes = 0;
    for (const op of ops) {
      const size = Math.max(op.sizeBytes, op.data.length);
      if (size > LIMITS.bulkAccessBytes) throw new Refused(`an access of ${size} bytes`);
      bytes += size;
    }
    if (bytes > ANSWER_BYTES_MAX) throw new Refused(`a batch of ${bytes} bytes`);
    let lock = this.#locks.get(from);
    if (lock === undefined) {
      lock = new Lock(`CPU of ${from}`);
      this.#locks.set(from, lock);
    }
    this.#cpuBatches++;
    return withLock(lock, () => this.#cpuBatch(port, vcpu, ops));
  }

  *#cpuBatch(port: number, vcpu: number, ops: readonly CpuOp[]): Op<Body> {
    const results: CpuResult[] = [];
    for (const op of ops) {
      const result = yield* this.#cpuOp(port, vcpu, op);
      this.#cpuOps++;
      results.push(result);
      if (result.fault !== CpuFault.CPU_FAULT_UNSPECIFIED) {
        this.#cpuFaults++;
        break;
      }
    }
    return body('cpuAccessReply', { results });
  }

  *#cpuOp(port: number, vcpu: number, op: CpuOp): Op<CpuResult> {
    const access = new CpuAccess(op);
    const cpu = this.machine.port(port);
    for (let traps = 0; ; traps++) {
      const stop = this.#notices.during(() => access.run(cpu, this.machine.bus));
      if (stop === 'done') return { fault: CpuFault.CPU_FAULT_UNSPECIFIED, data: access.data };
      if (stop === 'alignment') return faulted(CpuFault.CPU_FAULT_ALIGNMENT);
      if (stop === 'external-abort' || traps > TRAP_RETRIES_MAX) return faulted(CpuFault.CPU_FAULT_EXTERNAL_ABORT);
      const reply = yield* this.#trap(port, vcpu, access);
      if (reply.outcome === TrapOutcome.TRAP_OUTCOME_RETRY) continue;
      // What EL2 cannot know from the syndrome it cannot emulate.
      if (reply.outcome !== TrapOutcome.TRAP_OUTCOME_EMULATED || !access.isSingle)
        return faulted(CpuFault.CPU_FAULT_EXTERNAL_ABORT);
      return {
        fault: CpuFault.CPU_FAULT_UNSPECIFIED,
        data: access.isWrite ? NO_DATA : fitted(reply.data, op.sizeBytes),
      };
    }
  }

  /** Asks EL2. One that does not answer leaves the guest with an abort. */
  *#trap(port: number, vcpu: number, access: CpuAccess): Op<Payload<'trapReply'>> {
    const { esrEl2, faultIpa: ipa, storeData: data } = access;
    count(this.#traps, `${access.isWrite ? 'write' : 'read'}: ${formatDfsc(decodeDataAbort(esrEl2)?.dfsc ?? 0)}`);
    try {
      const reply = yield* call('xen', body('trapRequest', { port, vcpu, esrEl2, ipa, data }), 'trapReply');
      count(this.#trapOutcomes, TRAP_OUTCOME_NAMES[reply.outcome] ?? 'abort');
      return reply;
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Indefinite)) throw error;
      count(this.#trapOutcomes, 'no answer');
      return { outcome: TrapOutcome.TRAP_OUTCOME_ABORT, data: NO_DATA };
    }
  }

  #onEl2(request: Payload<'el2Request'>): Body {
    const { ops } = request;
    if (ops.length > LIMITS.batchOps) throw new Refused(`a batch of ${ops.length} operations`);
    const bytes = answerBytes(ops);
    if (bytes > ANSWER_BYTES_MAX) throw new Refused(`a batch that reads ${bytes} bytes`);
    for (const { op } of ops) count(this.#el2Ops, op?.$case ?? 'none');
    const results = this.#notices.during(() => runEl2Batch(this.machine, ops));
    return body('el2Reply', { results });
  }

  /** Whether the medium took it. */
  *#writeMedia(medium: string, pieces: readonly MediaPiece[], sync: boolean): Op<boolean> {
    const seq = (this.#mediaSeqs.get(medium) ?? 0) + 1;
    this.#mediaSeqs.set(medium, seq);
    const request = body('mediaWriteRequest', { medium, seq, pieces: [...pieces], sync });
    try {
      yield* call('media', request, 'mediaWriteReply', { deadlineNs: Infinity });
      return true;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#runtime.trace('hardware.media_fault', { medium, error: error.message });
      return false;
    }
  }

  inspect(): unknown {
    const { machine } = this;
    const its = machine.its.map((i) => i.counts);
    const smmus = machine.smmus.map((s) => s.counts);
    return {
      ready: true,
      ...(machine.inspect() as object),
      counts: {
        cpuBatches: this.#cpuBatches,
        cpuOps: this.#cpuOps,
        cpuFaults: this.#cpuFaults,
        traps: Object.fromEntries(this.#traps),
        trapOutcomes: Object.fromEntries(this.#trapOutcomes),
        el2Ops: Object.fromEntries(this.#el2Ops),
        interruptNotices: this.#notices.sent,
        itsCommands: sum(its.map((c) => c.commands)),
        itsCommandProblems: sum(its.map((c) => c.commandProblems)),
        msisDelivered: its.reduce((n, c) => n + c.msisDelivered, 0),
        msisDropped: sum(its.map((c) => c.msisDropped)),
        smmuCommands: sum(smmus.map((c) => c.commands)),
        smmuEvents: sum(smmus.map((c) => c.events)),
        smmuTlbInvalidations: smmus.reduce((n, c) => n + c.tlbInvalidations, 0),
        smmuTranslations: smmus.reduce((n, c) => n + c.translations, 0),
        cpuTlbInvalidations: machine.tlb.invalidations,
      },
    };
  }
}

const TRAP_OUTCOME_NAMES: Readonly<Record<number, string>> = {
  [TrapOutcome.TRAP_OUTCOME_EMULATED]: 'emulated',
  [TrapOutcome.TRAP_OUTCOME_ABORT]: 'abort',
  [TrapOutcome.TRAP_OUTCOME_RETRY]: 'retry',
};

/** The CPU port whose tables a peer's accesses go through; -1 for one that has none. */
function portOf(peer: Peer): number {
  return peer === 'xenstored' ? 0 : domidOf(peer);
}

function faulted(fault: CpuFault): CpuResult {
  return { fault, data: NO_DATA };
}

/** As many bytes as the load asked for: EL2's answer cut or filled up with zeros, as a register would be. */
function fitted(data: Uint8Array, sizeBytes: number): Uint8Array {
  if (data.length === sizeBytes) return data;
  const out = new Uint8Array(sizeBytes);
  out.set(data.subarray(0, sizeBytes));
  return out;
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function sum(counts: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const one of counts) for (const [key, n] of Object.entries(one)) total[key] = (total[key] ?? 0) + n;
  return total;
}

/** The core of `hardware` for one board. Throws BoardError, one line, for a board that cannot be built. */
export function createHardwareCore(description: BoardDescription, options: RuntimeOptions): Core {
  const runtime = new Runtime({ ...options, announceTo: ['xen'] });
  runtime.attach(new HardwareService(runtime, description));
  return runtime;
}
