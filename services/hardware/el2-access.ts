/**
 * What EL2 does to the machine: accesses at physical addresses, system registers, the stage-2 registers of CPU ports,
 * TLB maintenance. A batch runs as a whole; an operation that fails answers -EFAULT and the next one still runs.
 */
import { type El2Op, type El2Result, TlbiKind } from '#gen/hardware.ts';
import { atomic } from './cpu-access.ts';
import type { Machine } from './machine.ts';

const EFAULT = -14;
const NO_DATA = new Uint8Array(0);
const DONE: El2Result = { error: 0, data: NO_DATA, value: 0, dtbPa: 0, dtbSizeBytes: 0 };
const FAILED: El2Result = { ...DONE, error: EFAULT };

/** Bytes that the answers of a batch will carry, so that a batch too large for a message is refused before it runs. */
export function answerBytes(ops: readonly El2Op[]): number {
  let bytes = 0;
  for (const { op } of ops) if (op?.$case === 'physRead') bytes += op.value.sizeBytes;
  return bytes;
}

export function runEl2Batch(machine: Machine, ops: readonly El2Op[]): El2Result[] {
  const results: El2Result[] = [];
  for (const { op } of ops) results.push(op === undefined ? FAILED : runEl2Op(machine, op, results));
  return results;
}

function runEl2Op(machine: Machine, op: NonNullable<El2Op['op']>, earlier: readonly El2Result[]): El2Result {
  const { bus } = machine;
  switch (op.$case) {
    case 'physRead': {
      const { pa, sizeBytes, pcpu } = op.value;
      return asCpu(machine, pcpu, () => physRead(machine, pa, sizeBytes));
    }
    case 'physWrite': {
      const { pa, pcpu, valueFromOp } = op.value;
      const source = sourceOf(earlier, valueFromOp);
      if (source === 'failed') return FAILED;
      return asCpu(machine, pcpu, () => physWrite(machine, pa, source?.data ?? op.value.data));
    }
    case 'physFill': {
      const { pa, sizeBytes, value } = op.value;
      if (!bus.ram.contains(pa, sizeBytes)) return FAILED;
      bus.ram.fill(pa, sizeBytes, value & 0xff);
      return DONE;
    }
    case 'physAtomic': {
      const before = atomic(bus, op.value.kind, op.value.pa, op.value.data);
      return before === undefined ? FAILED : { ...DONE, data: before };
    }
    case 'sysregRead': {
      const { pcpu, name } = op.value;
      const value = machine.gicv3?.cpuInterfaces[pcpu]?.read(name);
      return value === undefined ? FAILED : { ...DONE, value };
    }
    case 'sysregWrite': {
      const { pcpu, name, valueFromOp } = op.value;
      const source = sourceOf(earlier, valueFromOp);
      if (source === 'failed') return FAILED;
      const value = source?.value ?? op.value.value;
      return machine.gicv3?.cpuInterfaces[pcpu]?.write(name, value) === true ? DONE : FAILED;
    }
    case 'portWrite': {
      const p = op.value;
      machine.port(p.port).load({ vm: p.hcrEl2Vm, vtcr: p.vtcrEl2, baddr: p.vttbrEl2Baddr, vmid: p.vttbrEl2Vmid });
      return DONE;
    }
    case 'tlbi':
      switch (op.value.kind) {
        case TlbiKind.TLBI_KIND_VMALLS12E1IS:
          machine.tlb.invalidateVmid(op.value.vmid);
          return DONE;
        case TlbiKind.TLBI_KIND_ALLE1IS:
          machine.tlb.invalidateAll();
          return DONE;
        case TlbiKind.TLBI_KIND_IPAS2E1IS:
          machine.tlb.invalidateIpa(op.value.vmid, op.value.ipa);
          return DONE;
        default:
          return FAILED;
      }
    case 'bootInfoRead':
      return { ...DONE, dtbPa: machine.dtbPa, dtbSizeBytes: machine.board.dtb.length };
    default:
      return op satisfies never;
  }
}

/** The result that an operation takes its value from; undefined: it has one of its own. */
function sourceOf(earlier: readonly El2Result[], valueFromOp: number): El2Result | 'failed' | undefined {
  if (valueFromOp === 0) return undefined;
  const source = earlier[valueFromOp - 1];
  return source === undefined || source.error !== 0 ? 'failed' : source;
}

/** Runs an access of this physical CPU. */
function asCpu({ bus, board }: Machine, pcpu: number, access: () => El2Result): El2Result {
  if (pcpu >= board.cpus) return FAILED;
  bus.cpu = pcpu;
  try {
    return access();
  } finally {
    bus.cpu = 0;
  }
}

function physRead(machine: Machine, pa: number, sizeBytes: number): El2Result {
  const { bus } = machine;
  const isRam = bus.ram.contains(pa, sizeBytes);
  if (!isRam && !isRegister(machine, pa, sizeBytes)) return FAILED;
  const data = new Uint8Array(sizeBytes);
  bus.readBytes(pa, data);
  return { ...DONE, data };
}

function physWrite(machine: Machine, pa: number, data: Uint8Array): El2Result {
  const { bus } = machine;
  if (!bus.ram.contains(pa, data.length) && !isRegister(machine, pa, data.length)) return FAILED;
  bus.writeBytes(pa, data);
  return DONE;
}

/** An aligned access of 1, 2, 4 or 8 bytes that lies in one register block. */
function isRegister(machine: Machine, pa: number, sizeBytes: number): boolean {
  if (![1, 2, 4, 8].includes(sizeBytes) || pa % sizeBytes !== 0) return false;
  const region = machine.bus.find(pa);
  return region !== undefined && pa + sizeBytes <= region.end;
}
