/**
 * What a domain's CPU does on the bus: one access at an intermediate physical address, through the stage-2 tables of
 * its port (DDI 0487, "Stage 2 translation"). It goes as far as it can and says why it stopped, so that EL2 can be
 * asked and the access taken up again where it stopped.
 * A load or store of one register is an aligned access of 1, 2, 4 or 8 bytes and faults with ISV=1; anything else
 * stands for a row of accesses and faults with ISV=0 at the first byte that cannot be reached.
 * Not modelled: stage 1 and its faults, exclusives; an atomic on anything but RAM is an external abort.
 */
import { type CpuOp, CpuOpKind } from '#gen/hardware.ts';
import { DFSC, encodeDataAbort } from '#shared/arch/vmsa.ts';
import type { Bus } from './bus/bus.ts';
import type { CpuPort } from './mmu/cpu-port.ts';

export type CpuStop = 'done' | 'stage2' | 'external-abort' | 'alignment';

const NO_DATA = new Uint8Array(0);

/** One access under way. Make one, call `run` until it says something other than `stage2`. */
export class CpuAccess {
  /** What was read; whole only when `run` said `done`. */
  data: Uint8Array;
  /** Of a `stage2` stop: ESR_EL2, and where. */
  esrEl2 = 0;
  faultIpa = 0;
  readonly #op: CpuOp;
  readonly #size: number;
  #done = 0;

  constructor(op: CpuOp) {
    this.#op = op;
    this.#size = op.kind === CpuOpKind.CPU_OP_KIND_READ ? op.sizeBytes : op.data.length;
    this.data = op.kind === CpuOpKind.CPU_OP_KIND_READ ? new Uint8Array(this.#size) : NO_DATA;
  }

  get isWrite(): boolean {
    return this.#op.kind !== CpuOpKind.CPU_OP_KIND_READ;
  }

  /** A load or store of one general register: the only kind whose syndrome says what it is. */
  get isSingle(): boolean {
    const { kind, ipa } = this.#op;
    return (
      (kind === CpuOpKind.CPU_OP_KIND_READ || kind === CpuOpKind.CPU_OP_KIND_WRITE) && isRegisterAccess(ipa, this.#size)
    );
  }

  /** What a store would have stored, for EL2 to emulate; empty for a load and for anything that is not single. */
  get storeData(): Uint8Array {
    return this.isWrite && this.isSingle ? this.#op.data : NO_DATA;
  }

  run(port: CpuPort, bus: Bus): CpuStop {
    switch (this.#op.kind) {
      case CpuOpKind.CPU_OP_KIND_READ:
      case CpuOpKind.CPU_OP_KIND_WRITE:
        return this.#transfer(port, bus);
      case CpuOpKind.CPU_OP_KIND_SWAP:
      case CpuOpKind.CPU_OP_KIND_SET_BITS:
      case CpuOpKind.CPU_OP_KIND_CLEAR_BITS:
        return this.#atomic(port, bus);
      default:
        return 'external-abort';
    }
  }

  #transfer(port: CpuPort, bus: Bus): CpuStop {
    const { isWrite } = this;
    while (this.#done < this.#size) {
      const ipa = this.#op.ipa + this.#done;
      const pa = port.translate(ipa, isWrite);
      if (pa < 0) return this.#fault(~pa, ipa);
      const run = Math.min(port.runBytes, this.#size - this.#done);
      const inRam = Math.min(bus.ram.bytesFrom(pa), run);
      if (inRam > 0) {
        if (isWrite) bus.ram.writeBytes(pa, this.#op.data, this.#done, inRam);
        else bus.ram.readBytes(pa, this.data, this.#done, inRam);
        this.#done += inRam;
        continue;
      }
      if (bus.find(pa) === undefined) return 'external-abort';
      // Device memory: no row of accesses, and nothing unaligned.
      if (!isRegisterAccess(this.#op.ipa, this.#size)) return 'alignment';
      return this.#register(bus, pa);
    }
    return 'done';
  }

  #register(bus: Bus, pa: number): CpuStop {
    const moved = this.isWrite
      ? bus.writeBytes(pa, this.#op.data, 0, this.#size)
      : bus.readBytes(pa, this.data, 0, this.#size);
    if (moved !== this.#size) return 'external-abort';
    this.#done = this.#size;
    return 'done';
  }

  #atomic(port: CpuPort, bus: Bus): CpuStop {
    const { ipa, kind, data } = this.#op;
    if (this.#size !== 4 && this.#size !== 8) return 'alignment';
    if (!isRegisterAccess(ipa, this.#size)) return 'alignment';
    const pa = port.translate(ipa, true);
    if (pa < 0) return this.#fault(~pa, ipa);
    const before = atomic(bus, kind, pa, data);
    if (before === undefined) return 'external-abort';
    this.data = before;
    this.#done = this.#size;
    return 'done';
  }

  #fault(dfsc: number, ipa: number): CpuStop {
    // A port that was never programmed.
    if (dfsc === DFSC.EXTERNAL_ABORT) return 'external-abort';
    this.faultIpa = ipa;
    this.esrEl2 = encodeDataAbort({ dfsc, isWrite: this.isWrite, sizeBytes: this.isSingle ? this.#size : 0 });
    return 'stage2';
  }
}

/** Exchange, set or clear of 4 or 8 aligned bytes of RAM. Gives what was there, or undefined when it cannot be done. */
export function atomic(bus: Bus, kind: CpuOpKind, pa: number, operand: Uint8Array): Uint8Array | undefined {
  const size = operand.length;
  if ((size !== 4 && size !== 8) || pa % size !== 0 || !bus.ram.contains(pa, size)) return undefined;
  const before = new Uint8Array(size);
  bus.ram.readBytes(pa, before);
  const after = new Uint8Array(size);
  for (let i = 0; i < size; i++) {
    const was = before[i]!;
    const with_ = operand[i]!;
    if (kind === CpuOpKind.CPU_OP_KIND_SWAP) after[i] = with_;
    else if (kind === CpuOpKind.CPU_OP_KIND_SET_BITS) after[i] = was | with_;
    else if (kind === CpuOpKind.CPU_OP_KIND_CLEAR_BITS) after[i] = was & ~with_;
    else return undefined;
  }
  bus.ram.writeBytes(pa, after);
  return before;
}

function isRegisterAccess(address: number, sizeBytes: number): boolean {
  return (sizeBytes === 1 || sizeBytes === 2 || sizeBytes === 4 || sizeBytes === 8) && address % sizeBytes === 0;
}
