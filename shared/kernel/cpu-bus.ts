/**
 * A kernel's way to memory and registers: batches of accesses at intermediate physical addresses, through the stage-2
 * tables of its domain. A batch is one message; it ends at the first access that faults.
 */
import { CpuFault, type CpuOp, CpuOpKind } from '#gen/hardware.ts';
import { assert } from '../core/assert.ts';
import { body } from '../core/core.ts';
import { LIMITS } from '../core/limits.ts';
import { call, type Op } from '../core/op.ts';

/** The CPU took an abort: nothing there, not mapped, or not allowed. */
export class BusAbort extends Error {
  override name = 'BusAbort';
  readonly ipa: number;

  constructor(ipa: number, kind: string) {
    super(`${kind} at IPA 0x${ipa.toString(16)}`);
    this.ipa = ipa;
  }
}

const NO_DATA = new Uint8Array(0);

export function readOp(ipa: number, sizeBytes: number): CpuOp {
  return { kind: CpuOpKind.CPU_OP_KIND_READ, ipa, sizeBytes, data: NO_DATA };
}

export function writeOp(ipa: number, data: Uint8Array): CpuOp {
  return { kind: CpuOpKind.CPU_OP_KIND_WRITE, ipa, sizeBytes: data.length, data };
}

export function write32Op(ipa: number, value: number): CpuOp {
  return writeOp(ipa, le32(value));
}

export function write64Op(ipa: number, lo: number, hi: number): CpuOp {
  return writeOp(ipa, le64(lo, hi));
}

/** Stores `data` and answers what was there. */
export function swapOp(ipa: number, data: Uint8Array): CpuOp {
  return { kind: CpuOpKind.CPU_OP_KIND_SWAP, ipa, sizeBytes: data.length, data };
}

/** Atomic OR; answers what was there. */
export function setBitsOp(ipa: number, data: Uint8Array): CpuOp {
  return { kind: CpuOpKind.CPU_OP_KIND_SET_BITS, ipa, sizeBytes: data.length, data };
}

/** Atomic AND with the complement; answers what was there. */
export function clearBitsOp(ipa: number, data: Uint8Array): CpuOp {
  return { kind: CpuOpKind.CPU_OP_KIND_CLEAR_BITS, ipa, sizeBytes: data.length, data };
}

export class CpuBus {
  readonly #vcpu: number;

  constructor(vcpu = 0) {
    this.#vcpu = vcpu;
  }

  /** Does `ops` in order as one message and gives the data of each. Throws BusAbort at the one that faulted. */
  *batch(ops: readonly CpuOp[]): Op<Uint8Array[]> {
    assert(ops.length > 0 && ops.length <= LIMITS.batchOps, () => `a batch of ${ops.length} accesses`);
    const request = body('cpuAccessRequest', { vcpu: this.#vcpu, ops: [...ops] });
    const { results } = yield* call('hardware', request, 'cpuAccessReply');
    const last = results.at(-1);
    if (last === undefined || last.fault !== CpuFault.CPU_FAULT_UNSPECIFIED || results.length < ops.length) {
      const op = ops[Math.max(results.length - 1, 0)]!;
      throw new BusAbort(op.ipa, last?.fault === CpuFault.CPU_FAULT_ALIGNMENT ? 'alignment fault' : 'external abort');
    }
    return results.map((r) => r.data);
  }

  /** Any length; RAM is read in pieces of LIMITS.bulkAccessBytes. */
  *read(ipa: number, sizeBytes: number): Op<Uint8Array> {
    if (sizeBytes <= LIMITS.bulkAccessBytes) return (yield* this.batch([readOp(ipa, sizeBytes)]))[0]!;
    const out = new Uint8Array(sizeBytes);
    for (let at = 0; at < sizeBytes; at += LIMITS.bulkAccessBytes) {
      const piece = Math.min(LIMITS.bulkAccessBytes, sizeBytes - at);
      out.set(yield* this.read(ipa + at, piece), at);
    }
    return out;
  }

  *write(ipa: number, data: Uint8Array): Op<void> {
    for (let at = 0; at < data.length; at += LIMITS.bulkAccessBytes) {
      yield* this.batch([writeOp(ipa + at, data.subarray(at, at + LIMITS.bulkAccessBytes))]);
    }
  }

  *read8(ipa: number): Op<number> {
    return (yield* this.read(ipa, 1))[0]!;
  }

  *read16(ipa: number): Op<number> {
    const b = yield* this.read(ipa, 2);
    return b[0]! | (b[1]! << 8);
  }

  *read32(ipa: number): Op<number> {
    return word(yield* this.read(ipa, 4));
  }

  /** A 64-bit access; the halves are unsigned. */
  *read64(ipa: number): Op<{ lo: number; hi: number }> {
    const b = yield* this.read(ipa, 8);
    return { lo: word(b), hi: word(b, 4) };
  }

  *write8(ipa: number, value: number): Op<void> {
    yield* this.batch([writeOp(ipa, Uint8Array.of(value))]);
  }

  *write16(ipa: number, value: number): Op<void> {
    yield* this.batch([writeOp(ipa, Uint8Array.of(value, value >>> 8))]);
  }

  *write32(ipa: number, value: number): Op<void> {
    yield* this.batch([write32Op(ipa, value)]);
  }

  *write64(ipa: number, lo: number, hi: number): Op<void> {
    yield* this.batch([write64Op(ipa, lo, hi)]);
  }

  *swap32(ipa: number, value: number): Op<number> {
    return word((yield* this.batch([swapOp(ipa, le32(value))]))[0]!);
  }

  *setBits32(ipa: number, bits: number): Op<number> {
    return word((yield* this.batch([setBitsOp(ipa, le32(bits))]))[0]!);
  }

  *clearBits32(ipa: number, bits: number): Op<number> {
    return word((yield* this.batch([clearBitsOp(ipa, le32(bits))]))[0]!);
  }
}

/** A little-endian 32-bit word, unsigned. */
export function word(bytes: Uint8Array, at = 0): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

export function le32(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}

export function le64(lo: number, hi: number): Uint8Array {
  return Uint8Array.of(lo, lo >>> 8, lo >>> 16, lo >>> 24, hi, hi >>> 8, hi >>> 16, hi >>> 24);
}
