/** An SMMUv2 between a device and RAM, programmed through its registers as a driver does. */
import * as v2 from '#shared/arch/smmu/v2.ts';
import { MEM_ATTR, S2AP, SHAREABILITY, writeInvalid, writeLeaf, writeTable } from '#shared/arch/vmsa.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { Bus } from '../../../../../services/hardware/bus/bus.ts';
import { Ram } from '../../../../../services/hardware/bus/ram.ts';
import type { Requester } from '../../../../../services/hardware/bus/transaction.ts';
import type { Tlb } from '../../../../../services/hardware/mmu/tlb.ts';
import type { Smmuv2Features } from '../../../../../services/hardware/smmu/v2/features.ts';
import { Smmuv2 } from '../../../../../services/hardware/smmu/v2/smmuv2.ts';

export const RAM = 0x8000_0000_0000;
/** Root of the tables of `makeTables`: 40-bit addresses, two tables side by side. */
export const ROOT = RAM + 0x30_0000;
/** TCR of these tables: T0SZ 24, SL0 1, PS 48 bits. */
export const TCR = 0x8005_0058;
/** sCR0: on; global faults abort and interrupt; unmatched streams and conflicts fault. */
export const CR0_ON = 0x0020_0406;
/** SCTLR: M, CFRE, CFIE. */
export const SCTLR_ON = 0x61;

export const device = (streamId: number): Requester => ({ rid: streamId, streamId, deviceIdAt: () => streamId });

export function memory() {
  const ram = new Ram([{ pa: RAM, sizeBytes: 16 * 1024 * 1024 }]);
  return { ram, bus: new Bus(ram) };
}

export function smmuRig(features: Partial<Smmuv2Features> = {}, tlb?: Tlb, { ram, bus } = memory()) {
  const lines: string[] = [];
  const irq = (name: 'global' | number, high: boolean): void => void lines.push(`${name} ${high ? 'up' : 'down'}`);
  const smmu = new Smmuv2({ name: 'smmu0', bus, irq, features, ...(tlb === undefined ? {} : { tlb }) });
  const { gr1, banks, pageBytes } = smmu.geometry;
  const global = (register: { offset: number }, n = 0): number => smmu.registers.read(register.offset + 4 * n, 4);
  const setGlobal = (register: { offset: number }, value: number, n = 0): void =>
    smmu.registers.write(register.offset + 4 * n, 4, value);
  const setGlobal1 = (register: { offset: number }, value: number, n = 0): void =>
    smmu.registers.write(gr1 + register.offset + 4 * n, 4, value);
  const global1 = (register: { offset: number }, n = 0): number =>
    smmu.registers.read(gr1 + register.offset + 4 * n, 4);
  const bank = (n: number, register: { offset: number }): number =>
    smmu.registers.read(banks + n * pageBytes + register.offset, 4);
  const setBank = (n: number, register: { offset: number }, value: number): void =>
    smmu.registers.write(banks + n * pageBytes + register.offset, 4, value >>> 0);

  /** Group `n` takes StreamIDs that are `id` but for the bits of `mask`. */
  const group = (n: number, id: number, mask: number, s2cr: number): void => {
    setGlobal(v2.SMMU_S2CR, s2cr, n);
    setGlobal(v2.SMMU_SMR, (0x8000_0000 | (mask << 16) | id) >>> 0, n);
  };
  /** Bank `n` translates by the tables at `root` under `vmid`. */
  const stage2Bank = (n: number, vmid: number, root = ROOT): void => {
    setGlobal1(v2.SMMU_CBA2R, 1, n);
    setGlobal1(v2.SMMU_CBAR, vmid, n);
    setBank(n, v2.SMMU_CB_TCR, TCR);
    setBank(n, v2.SMMU_CB_TTBR0_LO, root);
    setBank(n, v2.SMMU_CB_TTBR0_HI, Math.floor(root / 0x1_0000_0000));
    setBank(n, v2.SMMU_CB_SCTLR, SCTLR_ON);
  };

  const descriptor = (at: number, make: (words: Uint32Array) => void): void => {
    const words = new Uint32Array(2);
    make(words);
    ram.writeBytes(at, bytesOf(words));
  };
  const makeTables = (root = ROOT): void => {
    descriptor(root, (w) => writeTable(w, 0, root + 0x2000));
    descriptor(root + 0x2000, (w) => writeTable(w, 0, root + 0x3000));
  };
  const mapPage = (ipa: number, pa: number, s2ap: number = S2AP.readWrite, root = ROOT): void =>
    descriptor(root + 0x3000 + (ipa / 0x1000) * 8, (w) =>
      writeLeaf(w, 0, 3, pa, { s2ap, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: false }),
    );
  const unmapPage = (ipa: number, root = ROOT): void =>
    descriptor(root + 0x3000 + (ipa / 0x1000) * 8, (w) => writeInvalid(w, 0));
  const write = (streamId: number, iova: number, ...bytes: number[]): number =>
    smmu.dmaWrite(device(streamId), iova, Uint8Array.from(bytes));
  const byteAt = (pa: number): number => {
    const out = new Uint8Array(1);
    ram.readBytes(pa, out);
    return out[0]!;
  };
  return {
    ram,
    bus,
    smmu,
    lines,
    global,
    setGlobal,
    global1,
    setGlobal1,
    bank,
    setBank,
    group,
    stage2Bank,
    descriptor,
    makeTables,
    mapPage,
    unmapPage,
    write,
    byteAt,
  };
}

/** Stream 0x10 goes to bank 0, VMID 7; address 0x1000 is RAM + 0x50_0000. */
export function translatingRig(features: Partial<Smmuv2Features> = {}) {
  const rig = smmuRig(features);
  rig.makeTables();
  rig.mapPage(0x1000, RAM + 0x50_0000);
  rig.stage2Bank(0, 7);
  rig.group(0, 0x10, 0, 0);
  rig.setGlobal(v2.SMMU_sCR0, CR0_ON);
  return rig;
}
