/**
 * Xen's own way to the machine: physical memory, registers, system registers, stage-2 registers of CPU ports, TLB
 * maintenance. Every access is an operation of an `el2_request`; a batch runs without interruption.
 * An access that the machine answers with an error is a mistake of Xen and throws El2Fault; what guests may name is
 * checked before it gets here.
 */
import { CpuOpKind, type El2Op, type El2Result, TlbiKind } from '#gen/hardware.ts';
import { body } from '#shared/core/core.ts';
import { LIMITS } from '#shared/core/limits.ts';
import { call, type Op } from '#shared/core/op.ts';

/** The machine refused an access of Xen: nothing at that address, or a width that it does not take. */
export class El2Fault extends Error {
  override name = 'El2Fault';
}

/** `pcpu`: the physical CPU that makes the access; it matters where each CPU has registers of its own. */
export function physRead(pa: number, sizeBytes: number, pcpu = 0): El2Op {
  return { op: { $case: 'physRead', value: { pa, sizeBytes, pcpu } } };
}

export function physWrite(pa: number, data: Uint8Array, pcpu = 0): El2Op {
  return { op: { $case: 'physWrite', value: { pa, data, pcpu, valueFromOp: 0 } } };
}

export function physWrite32(pa: number, value: number, pcpu = 0): El2Op {
  return physWrite(pa, bytes32(value), pcpu);
}

/** What the physRead at index `op` of the batch brought is written. */
export function physWriteFrom(pa: number, op: number, pcpu = 0): El2Op {
  return { op: { $case: 'physWrite', value: { pa, data: new Uint8Array(0), pcpu, valueFromOp: op + 1 } } };
}

export function physWrite64(pa: number, lo: number, hi: number): El2Op {
  return physWrite(pa, bytes64(lo, hi));
}

export function physFill(pa: number, sizeBytes: number, byte: number): El2Op {
  return { op: { $case: 'physFill', value: { pa, sizeBytes, value: byte } } };
}

/** Atomic on 4 or 8 bytes of RAM; the result's data is what was there. */
export function physSetBits(pa: number, bits: Uint8Array): El2Op {
  return { op: { $case: 'physAtomic', value: { kind: CpuOpKind.CPU_OP_KIND_SET_BITS, pa, data: bits } } };
}

export function physClearBits(pa: number, bits: Uint8Array): El2Op {
  return { op: { $case: 'physAtomic', value: { kind: CpuOpKind.CPU_OP_KIND_CLEAR_BITS, pa, data: bits } } };
}

export function sysregRead(pcpu: number, name: string): El2Op {
  return { op: { $case: 'sysregRead', value: { pcpu, name } } };
}

/** With `valueFromOp` (index into the batch) the value is that operation's answer. */
export function sysregWrite(pcpu: number, name: string, value: number, valueFromOp?: number): El2Op {
  return {
    op: {
      $case: 'sysregWrite',
      value: { pcpu, name, value, valueFromOp: valueFromOp === undefined ? 0 : valueFromOp + 1 },
    },
  };
}

export function tlbiVmalls12e1is(vmid: number): El2Op {
  return { op: { $case: 'tlbi', value: { kind: TlbiKind.TLBI_KIND_VMALLS12E1IS, vmid, ipa: 0 } } };
}

/** HCR_EL2.VM, VTCR_EL2 and VTTBR_EL2 of the CPU port of a domain. */
export interface PortStage2 {
  readonly vm: boolean;
  readonly vtcr: number;
  readonly baddr: number;
  readonly vmid: number;
}

export function portWrite(port: number, s: PortStage2): El2Op {
  return {
    op: {
      $case: 'portWrite',
      value: { port, hcrEl2Vm: s.vm, vtcrEl2: s.vtcr, vttbrEl2Baddr: s.baddr, vttbrEl2Vmid: s.vmid },
    },
  };
}

/** 32 bits, little-endian. */
export function bytes32(value: number): Uint8Array {
  const data = new Uint8Array(4);
  new DataView(data.buffer).setUint32(0, value >>> 0, true);
  return data;
}

/** 64 bits as two words, little-endian. */
export function bytes64(lo: number, hi: number): Uint8Array {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, lo >>> 0, true);
  view.setUint32(4, hi >>> 0, true);
  return data;
}

/** The unsigned 32-bit word at `offset` of an answer. */
export function word(data: Uint8Array, offset = 0): number {
  return new DataView(data.buffer, data.byteOffset, data.byteLength).getUint32(offset, true);
}

/** Bytes of write data that one message takes beside its other operations. */
const BATCH_DATA_BYTES_MAX = LIMITS.messageBytes / 2;

export class El2 {
  /**
   * Does the operations in order and returns one result each. Up to LIMITS.batchOps operations (and half a message of
   * data) run without interruption; more are sent as several batches. Throws El2Fault at the first error.
   */
  *batch(ops: readonly El2Op[]): Op<El2Result[]> {
    const results: El2Result[] = [];
    for (let from = 0; from < ops.length; ) {
      const part = ops.slice(from, from + partLength(ops, from));
      const reply = yield* call('hardware', body('el2Request', { ops: part }), 'el2Reply');
      reply.results.forEach((result, i) => {
        if (result.error !== 0) throw new El2Fault(`${describe(part[i]!)}: error ${result.error}`);
      });
      if (reply.results.length !== part.length) {
        throw new El2Fault(`${reply.results.length} results for ${part.length} operations`);
      }
      results.push(...reply.results);
      from += part.length;
    }
    return results;
  }

  *read(pa: number, sizeBytes: number): Op<Uint8Array> {
    if (sizeBytes <= LIMITS.bulkAccessBytes) return (yield* this.batch([physRead(pa, sizeBytes)]))[0]!.data;
    const whole = new Uint8Array(sizeBytes);
    for (let at = 0; at < sizeBytes; at += LIMITS.bulkAccessBytes) {
      const part = yield* this.batch([physRead(pa + at, Math.min(LIMITS.bulkAccessBytes, sizeBytes - at))]);
      whole.set(part[0]!.data, at);
    }
    return whole;
  }

  *write(pa: number, data: Uint8Array): Op<void> {
    for (let at = 0; at < data.length; at += LIMITS.bulkAccessBytes) {
      yield* this.batch([physWrite(pa + at, data.subarray(at, at + LIMITS.bulkAccessBytes))]);
    }
  }

  *read32(pa: number): Op<number> {
    return word((yield* this.batch([physRead(pa, 4)]))[0]!.data);
  }

  *write32(pa: number, value: number): Op<void> {
    yield* this.batch([physWrite32(pa, value)]);
  }

  *read64(pa: number): Op<{ lo: number; hi: number }> {
    const { data } = (yield* this.batch([physRead(pa, 8)]))[0]!;
    return { lo: word(data), hi: word(data, 4) };
  }

  *write64(pa: number, lo: number, hi: number): Op<void> {
    yield* this.batch([physWrite64(pa, lo, hi)]);
  }

  *fill(pa: number, sizeBytes: number, byte: number): Op<void> {
    yield* this.batch([physFill(pa, sizeBytes, byte)]);
  }

  /** TLBI VMALLS12E1IS with the VTTBR of `vmid` loaded: every CPU forgets that VMID. */
  *tlbiVmid(vmid: number): Op<void> {
    yield* this.batch([tlbiVmalls12e1is(vmid)]);
  }

  /** Where firmware put the device tree. */
  *bootInfo(): Op<{ dtbPa: number; dtbSizeBytes: number }> {
    const result = (yield* this.batch([{ op: { $case: 'bootInfoRead', value: {} } }]))[0]!;
    return { dtbPa: result.dtbPa, dtbSizeBytes: result.dtbSizeBytes };
  }
}

function partLength(ops: readonly El2Op[], from: number): number {
  let bytes = 0;
  let i = from;
  for (; i < ops.length && i - from < LIMITS.batchOps; i++) {
    const op = ops[i]!.op;
    if (op?.$case === 'physWrite') bytes += op.value.data.length;
    if (op?.$case === 'physRead') bytes += op.value.sizeBytes;
    if (bytes > BATCH_DATA_BYTES_MAX && i > from) break;
  }
  return i - from;
}

function describe(op: El2Op): string {
  if (op.op === undefined) return 'no operation';
  const { value } = op.op;
  return 'pa' in value ? `${op.op.$case} at 0x${value.pa.toString(16)}` : op.op.$case;
}
