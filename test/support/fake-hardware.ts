/**
 * A machine that is memory and the register blocks that a test puts on its bus, for tests of the hypervisor's parts: it
 * answers `el2_request`s, keeps what it was asked, and runs operations to their end without messages.
 */
import { CpuOpKind, type El2Op, type El2Result } from '#gen/hardware.ts';
import { type Body, body } from '#shared/core/core.ts';
import type { Op, Step } from '#shared/core/op.ts';
import { Bus } from '../../services/hardware/bus/bus.ts';
import { Ram } from '../../services/hardware/bus/ram.ts';
import { Stage2Walker, stage2Regime, WANT_READ, WANT_WRITE } from '../../services/hardware/mmu/stage2.ts';
import { Counts } from '../../services/xen/counts.ts';
import { bytes32, El2, word } from '../../services/xen/el2.ts';
import { Frames } from '../../services/xen/mm/frames.ts';
import type { P2m } from '../../services/xen/mm/p2m.ts';

export const RAM_PA = 0x4000_0000;
const RAM_BYTES = 64 * 2 ** 20;
const NO_DATA = new Uint8Array(0);

export class FakeHardware {
  readonly ram = new Ram([{ pa: RAM_PA, sizeBytes: RAM_BYTES }]);
  readonly bus = new Bus(this.ram);
  readonly el2 = new El2();
  readonly counts = new Counts();
  readonly frames = new Frames();
  /** Every operation of EL2, in order. */
  readonly done: El2Op[] = [];
  /** Batches that arrived. */
  batches = 0;
  /** Called after each batch: what another CPU or a device would see then. */
  afterBatch: () => void = () => undefined;

  constructor() {
    this.frames.addRange(RAM_PA, RAM_BYTES);
  }

  /** Runs an operation to its end; whatever it calls but `hardware` is an error. */
  run<T>(op: Op<T>): T {
    let input: unknown;
    for (;;) {
      const next = op.next(input);
      if (next.done) return next.value;
      input = this.#perform(next.value);
    }
  }

  /** What a CPU access through the tables reaches: a physical address, or a negative fault. */
  translate(p2m: Pick<P2m, 'geometry' | 'rootPa'>, ipa: number, want: 'read' | 'write' = 'read'): number {
    const { t0sz, sl0 } = p2m.geometry;
    const regime = stage2Regime(p2m.rootPa, t0sz, sl0, 48, true);
    return new Stage2Walker(this.ram).walk(regime, ipa, want === 'read' ? WANT_READ : WANT_WRITE);
  }

  bytes(pa: number, sizeBytes: number): Uint8Array {
    const out = new Uint8Array(sizeBytes);
    this.ram.readBytes(pa, out);
    return out;
  }

  #perform(step: Step): unknown {
    switch (step.step) {
      case 'call':
        return this.#answer(step.to, step.body);
      case 'lock':
        if (!step.lock.acquire(() => undefined)) throw new Error(`${step.lock.name} is held: a test would hang`);
        return undefined;
      default:
        throw new Error(`a ${step.step} in a test without time`);
    }
  }

  #answer(to: string, request: Body): Body {
    if (to !== 'hardware' || request.$case !== 'el2Request') throw new Error(`${request.$case} to ${to}`);
    const { ops } = request.value;
    this.batches++;
    this.done.push(...ops);
    const results = ops.map((op) => this.#do(op));
    this.afterBatch();
    return body('el2Reply', { results });
  }

  #do({ op }: El2Op): El2Result {
    const result = { error: 0, data: NO_DATA, value: 0, dtbPa: 0, dtbSizeBytes: 0 };
    switch (op?.$case) {
      case 'physRead':
        if (this.ram.contains(op.value.pa, 1)) return { ...result, data: this.bytes(op.value.pa, op.value.sizeBytes) };
        if (!this.bus.read(op.value.pa, op.value.sizeBytes)) return { ...result, error: 1 };
        return { ...result, data: bytes32(this.bus.low) };
      case 'physWrite':
        if (this.ram.contains(op.value.pa, 1)) this.ram.writeBytes(op.value.pa, op.value.data);
        else if (!this.bus.write(op.value.pa, op.value.data.length, word(op.value.data)))
          return { ...result, error: 1 };
        return result;
      case 'physFill':
        this.ram.fill(op.value.pa, op.value.sizeBytes, op.value.value);
        return result;
      case 'physAtomic': {
        const before = this.bytes(op.value.pa, op.value.data.length);
        const set = op.value.kind === CpuOpKind.CPU_OP_KIND_SET_BITS;
        const after = before.map((byte, i) => (set ? byte | op.value.data[i]! : byte & ~op.value.data[i]!));
        this.ram.writeBytes(op.value.pa, after);
        return { ...result, data: before };
      }
      default:
        return result;
    }
  }
}
