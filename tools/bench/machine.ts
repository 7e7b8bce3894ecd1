/**
 * The machine that the translation benchmarks run on: RAM, an SMMU, a GIC with an ITS, and the same tables and streams
 * of addresses as test/bench/translate.c. Everything is programmed through registers, queues and memory.
 * All addresses have 48 bits: RAM at 2^47, device addresses at 0x7f40_0000_0000, mapped frames at 0xc000_0000_0000.
 */
import { GICD_CTLR, GICD_CTLR_EnableGrp1 } from '#shared/arch/gic/distributor.ts';
import {
  encodeGitsBaser,
  encodeGitsCbaser,
  GITS_BASER,
  GITS_CBASER,
  GITS_CTLR,
  GITS_CWRITER,
  ITS_SIZE_BYTES,
} from '#shared/arch/gic/its.ts';
import { encodeMapc, encodeMapd, encodeMapti, itsCommandBytes } from '#shared/arch/gic/its-commands.ts';
import {
  encodeGicrPendbaser,
  encodeGicrPropbaser,
  GICR_CTLR,
  GICR_PENDBASER,
  GICR_PROPBASER,
  GICR_SIZE_BYTES,
} from '#shared/arch/gic/redistributor.ts';
import * as v3 from '#shared/arch/smmu/v3.ts';
import { encodeStage2Ste, STE_BYTES } from '#shared/arch/smmu/v3-structures.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { Bus } from '../../services/hardware/bus/bus.ts';
import { Ram } from '../../services/hardware/bus/ram.ts';
import type { MmioTarget, Requester } from '../../services/hardware/bus/transaction.ts';
import { Gic } from '../../services/hardware/gic/gic.ts';
import { Its } from '../../services/hardware/gic/its/its.ts';
import { ItsTables } from '../../services/hardware/gic/its/tables.ts';
import { Stage2Walker, stage2Regime, WANT_READ } from '../../services/hardware/mmu/stage2.ts';
import { Tlb } from '../../services/hardware/mmu/tlb.ts';
import { Smmuv3 } from '../../services/hardware/smmu/v3/smmuv3.ts';
import { translate } from '../../services/hardware/smmu/v3/translate.ts';

export const STREAM = 1 << 19;
/** Bits [47:32] of every device address; the low halves are the streams. */
export const IPA_HIGH = 0x7f40;
const RAM_BASE = 0x8000_0000_0000;
const RAM_BYTES = 2 ** 40;
const PAGES = 262_144;
const POOL_PAGES = 65_536;
const IPA_BASE = IPA_HIGH * 2 ** 32;
const OUT_BASE = 0xc000_0000_0000;
const DEVICE_TABLE = RAM_BASE + 2 ** 30;
const COLLECTION_TABLE = DEVICE_TABLE + 0x10_0000;
const ITTS = DEVICE_TABLE + 0x20_0000;
const PROPERTIES = DEVICE_TABLE + 0x40_0000;
const PENDING = DEVICE_TABLE + 0x60_0000;
const ITS_QUEUE = DEVICE_TABLE + 0x80_0000;
const STREAM_TABLE = DEVICE_TABLE + 0x100_0000;
const GICD_PA = 0x0800_0000;
const ITS_PA = 0x0808_0000;
const GICR_PA = 0x080a_0000;
const SMMU_PA = 0x0905_0000;
export const DOORBELL_IOVA = 0x7f00_0000_1040;
const ITS_PHANDLE = 1;
const CPUS = 16;
/** The DeviceID of the first device; the others follow. */
export const FIRST_DEVICE = 0x100;
const DEVICES = 64;
const VMID = 1;
/** The StreamID of the benchmarks with one function. */
export const ONE_STREAM = 0x10;

/** xorshift32, as the reference has it. */
function randomNumbers(seed: number): () => number {
  let s = seed;
  return () => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return s >>> 0;
  };
}

/** Writes 4 KiB mappings in four-level tables, the tables wherever `allocate` says. */
function mapPage(ram: Ram, root: number, ipa: number, pa: number, allocate: () => number): void {
  let table = root;
  for (let shift = 39; shift > 12; shift -= 9) {
    const at = table + (Math.floor(ipa / 2 ** shift) % 512) * 8;
    if ((ram.read32(at) & 1) === 0) put64(ram, at, allocate(), 3);
    table = (ram.read32(at + 4) & 0xffff) * 2 ** 32 + ((ram.read32(at) & 0xffff_f000) >>> 0);
  }
  put64(ram, table + (Math.floor(ipa / 4096) % 512) * 8, pa, 0x4ff);
}

function put64(ram: Ram, at: number, address: number, bits: number): void {
  ram.write32(at, ((address & 0xffff_f000) | bits) >>> 0);
  ram.write32(at + 4, Math.floor(address / 2 ** 32));
}

export type BenchMachine = ReturnType<typeof benchMachine>;

/** Builds it; takes a second. */
export function benchMachine() {
  const random = randomNumbers(0x1234_5678);
  const ram = new Ram([{ pa: RAM_BASE, sizeBytes: RAM_BYTES }]);
  const bus = new Bus(ram);

  const order = Uint32Array.from({ length: POOL_PAGES }, (_, i) => i);
  for (let i = POOL_PAGES - 1; i > 0; i--) {
    const j = random() % (i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  let near = 0;
  const allocateNear = (): number => RAM_BASE + order[near++]! * 4096;
  let far = 0;
  const allocateFar = (): number => RAM_BASE + 2 ** 35 + far++ * 0x3100_3000;

  const root = allocateNear();
  for (let i = 0; i < PAGES; i++) {
    const frame = Math.imul(i, 2_654_435_761) & (PAGES - 1);
    mapPage(ram, root, IPA_BASE + i * 4096, OUT_BASE + frame * 4096, allocateNear);
  }
  near++;
  mapPage(ram, root, DOORBELL_IOVA - 0x40, ITS_PA + 0x1_0000, allocateNear);
  const rootGib = allocateNear();
  const rootTib = allocateFar();
  for (let i = 0; i < 512; i++) {
    mapPage(ram, rootGib, IPA_BASE + i * 2 ** 21, OUT_BASE + i * 4096, allocateNear);
    mapPage(ram, rootTib, IPA_BASE + i * 2 ** 31, OUT_BASE + i * 4096, allocateFar);
  }

  const { gic, its } = interruptController(ram, bus);
  const smmu = new Smmuv3({ name: 'smmu', bus, irq: () => {} });
  bus.map(SMMU_PA, v3.SMMU_BYTES, smmu.registers);
  const ste = bytesOf(encodeStage2Ste({ vmid: VMID, t0sz: 16, sl0: 2, ps: 5, ttb: root }));
  for (let i = 0; i < 4096; i++) ram.writeBytes(STREAM_TABLE + i * STE_BYTES, ste);
  const { registers } = smmu;
  registers.write(v3.SMMU_STRTAB_BASE_LO.offset, 4, STREAM_TABLE % 2 ** 32);
  registers.write(v3.SMMU_STRTAB_BASE_HI.offset, 4, Math.floor(STREAM_TABLE / 2 ** 32));
  registers.write(v3.SMMU_STRTAB_BASE_CFG.offset, 4, 12);
  registers.write(v3.SMMU_CR0.offset, 4, 1);

  const anyPage = Int32Array.from({ length: STREAM }, () => random() & (PAGES - 1));
  const hotPage = Int32Array.from({ length: STREAM }, () => 8192 + (random() & 1023));
  const streamIds = Int32Array.from({ length: STREAM }, () => random() & 4095);
  const messages = Int32Array.from({ length: STREAM }, () => {
    const r = random();
    return ((FIRST_DEVICE + ((r >>> 8) & (DEVICES - 1))) << 16) | (r & 31);
  });
  const sparse = Int32Array.from({ length: STREAM }, () => random() & 511);

  const walker = new Stage2Walker(ram);
  const regime = (at: number) => stage2Regime(at, 16, 2, 48, true);
  const regimes = { near: regime(root), gib: regime(rootGib), tib: regime(rootTib) };
  const tlb = new Tlb();
  const tag = tlb.tag(VMID);
  /** What hits from now on: the hot pages in the SMMU's TLB and in `tlb`, and every stream's configuration. */
  const warm = (): void => {
    for (let i = 0; i < 4096; i++) translate(smmu.translator, i, -1, IPA_HIGH, i << 12, WANT_READ);
    for (let p = 8192; p < 8192 + 1024; p++) {
      const pa = walker.walk(regimes.near, IPA_BASE + p * 4096, WANT_READ);
      tlb.fill(VMID, IPA_BASE + p * 4096, pa, 0x1000, walker.s2ap, walker.level);
      translate(smmu.translator, ONE_STREAM, -1, IPA_HIGH, p << 12, WANT_READ);
    }
  };
  warm();
  const tables = new ItsTables(ram, its.choices);
  tables.devices.set(true, DEVICE_TABLE, 0x8_0000, 16);
  tables.collections.set(true, COLLECTION_TABLE, 0x1_0000, 16);
  const requesters: Requester[] = Array.from({ length: DEVICES }, (_, k) => {
    const rid = FIRST_DEVICE + k;
    return { rid, streamId: ONE_STREAM, deviceIdAt: () => rid };
  });
  return {
    walker,
    regimes,
    tlb,
    tag,
    smmu,
    gic,
    /** The ITS's tables again, for looking up without anything behind it. */
    tables,
    requesters,
    streams: { anyPage, hotPage, streamIds, messages, sparse },
    warm,
  };
}

/** 16 PEs with LPIs on, one ITS with 64 devices of 32 events, LPI n on PE n mod 16. */
function interruptController(ram: Ram, bus: Bus): { gic: Gic; its: Its } {
  const gic = new Gic({
    memory: ram,
    affinities: Array.from({ length: CPUS }, (_, i) => i),
    regionCapacities: [CPUS],
    regionPas: [GICR_PA],
    hooks: { signal: () => {} },
  });
  const its = new Its('its', ITS_PHANDLE, ram, gic);
  bus.map(GICD_PA, 0x1_0000, gic.distributor);
  bus.map(GICR_PA, CPUS * GICR_SIZE_BYTES, gic.regions[0]!);
  bus.map(ITS_PA, ITS_SIZE_BYTES, its);
  ram.fill(PROPERTIES, DEVICES * 32, 0xa1);
  gic.distributor.write(GICD_CTLR, 4, GICD_CTLR_EnableGrp1);
  const region = gic.regions[0]!;
  const attributes = { InnerCache: 7, OuterCache: 0, Shareability: 1 };
  for (let pe = 0; pe < CPUS; pe++) {
    const at = pe * GICR_SIZE_BYTES;
    const pa = PENDING + pe * 0x1_0000;
    gic.cpuInterfaces[pe]!.write('ICC_PMR_EL1', 0xf8);
    gic.cpuInterfaces[pe]!.write('ICC_IGRPEN1_EL1', 1);
    write64(region, at + GICR_PROPBASER, encodeGicrPropbaser({ idBits: 16, pa: PROPERTIES, ...attributes }));
    write64(region, at + GICR_PENDBASER, encodeGicrPendbaser({ pa, PTZ: true, ...attributes }));
    region.write(at + GICR_CTLR, 4, 1);
  }
  const table = { Valid: true, Indirect: false, entryBytes: 8, pageBytes: 0x1_0000, ...attributes };
  write64(its, GITS_BASER, encodeGitsBaser({ ...table, Type: 1, pa: DEVICE_TABLE, sizeBytes: 0x8_0000 }));
  write64(its, GITS_BASER + 8, encodeGitsBaser({ ...table, Type: 4, pa: COLLECTION_TABLE, sizeBytes: 0x1_0000 }));
  write64(its, GITS_CBASER, encodeGitsCbaser({ Valid: true, pa: ITS_QUEUE, sizeBytes: 0x1_0000, ...attributes }));
  its.write(GITS_CTLR, 4, 1);
  let writer = 0;
  const run = (words: Uint32Array): void => {
    ram.writeBytes(ITS_QUEUE + writer, itsCommandBytes([words]));
    writer = (writer + 32) % 0x1_0000;
    its.write(GITS_CWRITER, 4, writer);
  };
  for (let pe = 0; pe < CPUS; pe++) run(encodeMapc({ icid: pe, rdbase: pe, valid: true }));
  for (let k = 0; k < DEVICES; k++) {
    const deviceId = FIRST_DEVICE + k;
    run(encodeMapd({ deviceId, size: 4, ittAddress: ITTS + k * 0x1000, valid: true }));
    for (let eventId = 0; eventId < 32; eventId++) {
      const n = k * 32 + eventId;
      run(encodeMapti({ deviceId, eventId, pIntid: 8192 + n, icid: n % CPUS }));
    }
  }
  return { gic, its };
}

function write64(target: MmioTarget, offset: number, value: { readonly lo: number; readonly hi: number }): void {
  target.write(offset, 4, value.lo);
  target.write(offset + 4, 4, value.hi);
}
