/** An SMMUv3 between a device and 16 MiB of RAM, programmed through its registers and queues as a driver does. */
import * as v3 from '#shared/arch/smmu/v3.ts';
import {
  COMMAND_BYTES,
  decodeEvent,
  EVENT_BYTES,
  encodeCfgiAll,
  encodeSync,
  encodeTlbiNsnhAll,
  type SmmuEvent,
} from '#shared/arch/smmu/v3-queues.ts';
import { encodeStage2Ste, STE_BYTES } from '#shared/arch/smmu/v3-structures.ts';
import { MEM_ATTR, S2AP, SHAREABILITY, writeInvalid, writeLeaf, writeTable } from '#shared/arch/vmsa.ts';
import { bytesOf, wordsOf } from '#shared/regs/struct.ts';
import { Bus } from '../../../../services/hardware/bus/bus.ts';
import { Ram } from '../../../../services/hardware/bus/ram.ts';
import type { Requester } from '../../../../services/hardware/bus/transaction.ts';
import type { SmmuFeatures } from '../../../../services/hardware/smmu/v3/features.ts';
import { Smmuv3 } from '../../../../services/hardware/smmu/v3/smmuv3.ts';

export const RAM = 0x8000_0000_0000;
/** A second bank, for tables that must lie below 2^40. */
export const LOW_RAM = 0x4000_0000;
export const STREAM_TABLE = RAM + 0x10_0000;
export const CMDQ = RAM + 0x20_0000;
export const EVENTQ = RAM + 0x20_4000;
export const ROOT = RAM + 0x30_0000;
/** Where IPAs 0 to 2 MiB get their pages. */
export const LEAF_TABLE = RAM + 0x30_4000;
export const CMDQ_LOG2 = 4;
export const EVENTQ_LOG2 = 2;

export const device = (streamId: number): Requester => ({ rid: streamId, streamId, deviceIdAt: () => streamId });

export function smmuRig(features: Partial<SmmuFeatures> = {}) {
  const ram = new Ram([
    { pa: RAM, sizeBytes: 16 * 1024 * 1024 },
    { pa: LOW_RAM, sizeBytes: 1024 * 1024 },
  ]);
  const bus = new Bus(ram);
  const irqs: string[] = [];
  const smmu = new Smmuv3({ name: 'smmu0', bus, irq: (name) => irqs.push(name), features });
  bus.map(0x905_0000, v3.SMMU_BYTES, smmu.registers);
  const read = (register: { offset: number }): number => smmu.registers.read(register.offset, 4);
  const write = (register: { offset: number }, value: number): void => smmu.registers.write(register.offset, 4, value);
  const writeBase = (lo: { offset: number }, hi: { offset: number }, address: number, log2size: number): void => {
    write(lo, ((address & 0xffff_ffff) | log2size) >>> 0);
    write(hi, Math.floor(address / 0x1_0000_0000));
  };
  let prod = 0;

  /** Puts commands into the queue and moves PROD. */
  const submit = (...commands: Uint32Array[]): void => {
    for (const command of commands) {
      ram.writeBytes(CMDQ + (prod & ((1 << CMDQ_LOG2) - 1)) * COMMAND_BYTES, bytesOf(command));
      prod = (prod + 1) & ((2 << CMDQ_LOG2) - 1);
    }
    write(v3.SMMU_CMDQ_PROD, prod);
  };

  /** The bring-up of a driver with a linear table of 512 streams. */
  const enable = (strtabCfg = 9): void => {
    writeBase(v3.SMMU_STRTAB_BASE_LO, v3.SMMU_STRTAB_BASE_HI, STREAM_TABLE, 0);
    write(v3.SMMU_STRTAB_BASE_CFG, strtabCfg);
    writeBase(v3.SMMU_CMDQ_BASE_LO, v3.SMMU_CMDQ_BASE_HI, CMDQ, CMDQ_LOG2);
    writeBase(v3.SMMU_EVENTQ_BASE_LO, v3.SMMU_EVENTQ_BASE_HI, EVENTQ, EVENTQ_LOG2);
    write(v3.SMMU_IRQ_CTRL, 0b101);
    write(v3.SMMU_CR0, 0b1000);
    submit(encodeCfgiAll(), encodeTlbiNsnhAll(), encodeSync(0));
    write(v3.SMMU_CR0, 0b1100);
    write(v3.SMMU_CR0, 0b1101);
  };

  const writeSte = (streamId: number, ste: Uint32Array): void =>
    ram.writeBytes(STREAM_TABLE + streamId * STE_BYTES, bytesOf(ste));

  const descriptor = (at: number, make: (words: Uint32Array) => void): void => {
    const words = new Uint32Array(2);
    make(words);
    ram.writeBytes(at, bytesOf(words));
  };

  /** 40-bit IPAs, two concatenated level 1 tables at ROOT; the first 2 MiB have LEAF_TABLE. */
  const makeTables = (): void => {
    descriptor(ROOT, (w) => writeTable(w, 0, ROOT + 0x2000));
    descriptor(ROOT + 0x2000, (w) => writeTable(w, 0, LEAF_TABLE));
  };
  const mapPage = (ipa: number, pa: number, s2ap: number = S2AP.readWrite): void =>
    descriptor(LEAF_TABLE + (ipa / 0x1000) * 8, (w) =>
      writeLeaf(w, 0, 3, pa, { s2ap, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: false }),
    );
  const unmapPage = (ipa: number): void => descriptor(LEAF_TABLE + (ipa / 0x1000) * 8, (w) => writeInvalid(w, 0));

  /** Records between CONS and PROD. */
  const events = (): SmmuEvent[] => {
    const found: SmmuEvent[] = [];
    const mask = (2 << EVENTQ_LOG2) - 1;
    const end = read(v3.SMMU_EVENTQ_PROD) & mask;
    for (let i = read(v3.SMMU_EVENTQ_CONS) & mask; i !== end; i = (i + 1) & mask) {
      const bytes = new Uint8Array(EVENT_BYTES);
      ram.readBytes(EVENTQ + (i & (mask >> 1)) * EVENT_BYTES, bytes);
      found.push(decodeEvent(wordsOf(bytes), 0));
    }
    return found;
  };

  return {
    ram,
    bus,
    smmu,
    irqs,
    read,
    write,
    submit,
    enable,
    writeSte,
    descriptor,
    makeTables,
    mapPage,
    unmapPage,
    events,
  };
}

export const stage2Ste = (vmid: number): Uint32Array => encodeStage2Ste({ vmid, t0sz: 24, sl0: 1, ps: 5, ttb: ROOT });

/** A rig with stream 0x10 of VMID 7 translated, and IPA 0x1000 mapped to RAM + 0x50_0000. */
export function translatingRig(features: Partial<SmmuFeatures> = {}) {
  const rig = smmuRig(features);
  rig.makeTables();
  rig.mapPage(0x1000, RAM + 0x50_0000);
  rig.writeSte(0x10, stage2Ste(7));
  rig.enable();
  return rig;
}
