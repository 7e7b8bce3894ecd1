/**
 * Register layout of an SMMUv3 (IHI 0070, "Memory map and registers"): page 0, and page 1 with the event queue's
 * pointers. Declared as the part that we build has them; a field of a feature that it lacks is RES0 and not listed.
 * Not modelled: the Secure and Realm register files, GATOS/VATOS, the PRI queue, the identification registers from
 * 0xFD0; software sees zeros there and its writes are dropped. The MSI registers exist where IDR0.MSI is 1.
 */
import { reg32 } from '#shared/regs/field.ts';

/** Page 0 and page 1, 64 KiB each. */
export const SMMU_BYTES = 0x2_0000;

export const SMMU_IDR0 = reg32('SMMU_IDR0', 0x00, {
  S2P: ['RO', 0],
  S1P: ['RO', 1],
  TTF: ['RO', 3, 2],
  COHACC: ['RO', 4],
  BTM: ['RO', 5],
  HTTU: ['RO', 7, 6],
  DORMHINT: ['RO', 8],
  Hyp: ['RO', 9],
  ATS: ['RO', 10],
  NS1ATS: ['RO', 11],
  ASID16: ['RO', 12],
  MSI: ['RO', 13],
  SEV: ['RO', 14],
  ATOS: ['RO', 15],
  PRI: ['RO', 16],
  VMW: ['RO', 17],
  VMID16: ['RO', 18],
  CD2L: ['RO', 19],
  VATOS: ['RO', 20],
  TTENDIAN: ['RO', 22, 21],
  ATSRECERR: ['RO', 23],
  STALL_MODEL: ['RO', 25, 24],
  TERM_MODEL: ['RO', 26],
  ST_LEVEL: ['RO', 28, 27],
});

export const SMMU_IDR1 = reg32('SMMU_IDR1', 0x04, {
  SIDSIZE: ['RO', 5, 0],
  SSIDSIZE: ['RO', 10, 6],
  PRIQS: ['RO', 15, 11],
  EVENTQS: ['RO', 20, 16],
  CMDQS: ['RO', 25, 21],
  ATTR_PERMS_OVR: ['RO', 26],
  ATTR_TYPES_OVR: ['RO', 27],
  REL: ['RO', 28],
  QUEUES_PRESET: ['RO', 29],
  TABLES_PRESET: ['RO', 30],
  ECMDQ: ['RO', 31],
});

export const SMMU_IDR2 = reg32('SMMU_IDR2', 0x08, { BA_VATOS: ['RO', 9, 0] });

export const SMMU_IDR3 = reg32('SMMU_IDR3', 0x0c, {
  HAD: ['RO', 2],
  PBHA: ['RO', 3],
  XNX: ['RO', 4],
  PPS: ['RO', 5],
  MPAM: ['RO', 7],
  FWB: ['RO', 8],
  STT: ['RO', 9],
  RIL: ['RO', 10],
  BBML: ['RO', 12, 11],
});

export const SMMU_IDR4 = reg32('SMMU_IDR4', 0x10, {});

export const SMMU_IDR5 = reg32('SMMU_IDR5', 0x14, {
  OAS: ['RO', 2, 0],
  GRAN4K: ['RO', 4],
  GRAN16K: ['RO', 5],
  GRAN64K: ['RO', 6],
  VAX: ['RO', 11, 10],
  STALL_MAX: ['RO', 31, 16],
});

export const SMMU_IIDR = reg32('SMMU_IIDR', 0x18, {
  Implementer: ['RO', 11, 0],
  Revision: ['RO', 15, 12],
  Variant: ['RO', 19, 16],
  ProductID: ['RO', 31, 20],
});

/** 0 is SMMUv3.0, 1 is SMMUv3.1. */
export const SMMU_AIDR = reg32('SMMU_AIDR', 0x1c, { ArchMinorRev: ['RO', 3, 0], ArchMajorRev: ['RO', 7, 4] });

export const SMMU_CR0 = reg32('SMMU_CR0', 0x20, { SMMUEN: ['RW', 0], EVENTQEN: ['RW', 2], CMDQEN: ['RW', 3] });

export const SMMU_CR0ACK = reg32('SMMU_CR0ACK', 0x24, { SMMUEN: ['RO', 0], EVENTQEN: ['RO', 2], CMDQEN: ['RO', 3] });

/** Cacheability: 0 non-cacheable, 1 write-back, 2 write-through. Kept, and without effect here. */
export const SMMU_CR1 = reg32('SMMU_CR1', 0x28, {
  QUEUE_IC: ['RW', 1, 0],
  QUEUE_OC: ['RW', 3, 2],
  QUEUE_SH: ['RW', 5, 4],
  TABLE_IC: ['RW', 7, 6],
  TABLE_OC: ['RW', 9, 8],
  TABLE_SH: ['RW', 11, 10],
});

export const SMMU_CR2 = reg32('SMMU_CR2', 0x2c, { RECINVSID: ['RW', 1] });

export const SMMU_STATUSR = reg32('SMMU_STATUSR', 0x40, { DORMANT: ['RO', 0] });

export const SMMU_GBPA = reg32('SMMU_GBPA', 0x44, {
  MemAttr: ['RW', 3, 0],
  MTCFG: ['RW', 4],
  ALLOCCFG: ['RW', 11, 8],
  SHCFG: ['RW', 13, 12],
  PRIVCFG: ['RW', 17, 16],
  INSTCFG: ['RW', 19, 18],
  ABORT: ['RW', 20],
  Update: ['RW', 31],
});

export const SMMU_AGBPA = reg32('SMMU_AGBPA', 0x48, {});

export const SMMU_IRQ_CTRL = reg32('SMMU_IRQ_CTRL', 0x50, { GERROR_IRQEN: ['RW', 0], EVENTQ_IRQEN: ['RW', 2] });

export const SMMU_IRQ_CTRLACK = reg32('SMMU_IRQ_CTRLACK', 0x54, { GERROR_IRQEN: ['RO', 0], EVENTQ_IRQEN: ['RO', 2] });

/** An error is active while its bits of SMMU_GERROR and SMMU_GERRORN differ. */
export const SMMU_GERROR = reg32('SMMU_GERROR', 0x60, {
  CMDQ_ERR: ['RO', 0],
  EVENTQ_ABT: ['RO', 2],
  MSI_CMDQ_ABT: ['RO', 4],
  MSI_EVENTQ_ABT: ['RO', 5],
  MSI_GERROR_ABT: ['RO', 7],
  SFM: ['RO', 8],
});

export const SMMU_GERRORN = reg32('SMMU_GERRORN', 0x64, {
  CMDQ_ERR: ['RW', 0],
  EVENTQ_ABT: ['RW', 2],
  MSI_CMDQ_ABT: ['RW', 4],
  MSI_EVENTQ_ABT: ['RW', 5],
  MSI_GERROR_ABT: ['RW', 7],
  SFM: ['RW', 8],
});

/** Where the interrupt for global errors goes as a write: address [51:2] (0: none), data, and memory attributes. */
export const SMMU_GERROR_IRQ_CFG0_LO = reg32('SMMU_GERROR_IRQ_CFG0_LO', 0x68, { ADDR: ['RW', 31, 2] });
export const SMMU_GERROR_IRQ_CFG0_HI = reg32('SMMU_GERROR_IRQ_CFG0_HI', 0x6c, { ADDR: ['RW', 19, 0] });
export const SMMU_GERROR_IRQ_CFG1 = reg32('SMMU_GERROR_IRQ_CFG1', 0x70, { DATA: ['RW', 31, 0] });
export const SMMU_GERROR_IRQ_CFG2 = reg32('SMMU_GERROR_IRQ_CFG2', 0x74, { MEMATTR: ['RW', 3, 0], SH: ['RW', 5, 4] });

/** Address [51:6], its low half; RA bit 62 stands in the high half. */
export const SMMU_STRTAB_BASE_LO = reg32('SMMU_STRTAB_BASE_LO', 0x80, { ADDR: ['RW', 31, 6] });
export const SMMU_STRTAB_BASE_HI = reg32('SMMU_STRTAB_BASE_HI', 0x84, { ADDR: ['RW', 19, 0], RA: ['RW', 30] });

export const SMMU_STRTAB_BASE_CFG = reg32('SMMU_STRTAB_BASE_CFG', 0x88, {
  LOG2SIZE: ['RW', 5, 0],
  SPLIT: ['RW', 10, 6],
  FMT: ['RW', 17, 16],
});

export const STRTAB_FMT = { linear: 0, twoLevel: 1 } as const;

/** LOG2SIZE [4:0], address [51:5]. */
export const SMMU_CMDQ_BASE_LO = reg32('SMMU_CMDQ_BASE_LO', 0x90, { LOG2SIZE: ['RW', 4, 0], ADDR: ['RW', 31, 5] });
export const SMMU_CMDQ_BASE_HI = reg32('SMMU_CMDQ_BASE_HI', 0x94, { ADDR: ['RW', 19, 0], RA: ['RW', 30] });
/** Index in the low LOG2SIZE bits, the wrap bit above them. */
export const SMMU_CMDQ_PROD = reg32('SMMU_CMDQ_PROD', 0x98, { WR: ['RW', 19, 0] });
export const SMMU_CMDQ_CONS = reg32('SMMU_CMDQ_CONS', 0x9c, { RD: ['RW', 19, 0], ERR: ['RW', 30, 24] });

export const SMMU_EVENTQ_BASE_LO = reg32('SMMU_EVENTQ_BASE_LO', 0xa0, { LOG2SIZE: ['RW', 4, 0], ADDR: ['RW', 31, 5] });
export const SMMU_EVENTQ_BASE_HI = reg32('SMMU_EVENTQ_BASE_HI', 0xa4, { ADDR: ['RW', 19, 0], WA: ['RW', 30] });
export const SMMU_EVENTQ_IRQ_CFG0_LO = reg32('SMMU_EVENTQ_IRQ_CFG0_LO', 0xb0, { ADDR: ['RW', 31, 2] });
export const SMMU_EVENTQ_IRQ_CFG0_HI = reg32('SMMU_EVENTQ_IRQ_CFG0_HI', 0xb4, { ADDR: ['RW', 19, 0] });
export const SMMU_EVENTQ_IRQ_CFG1 = reg32('SMMU_EVENTQ_IRQ_CFG1', 0xb8, { DATA: ['RW', 31, 0] });
export const SMMU_EVENTQ_IRQ_CFG2 = reg32('SMMU_EVENTQ_IRQ_CFG2', 0xbc, { MEMATTR: ['RW', 3, 0], SH: ['RW', 5, 4] });
/** Page 1. */
export const SMMU_EVENTQ_PROD = reg32('SMMU_EVENTQ_PROD', 0x1_00a8, { WR: ['RW', 19, 0], OVFLG: ['RW', 31] });
export const SMMU_EVENTQ_CONS = reg32('SMMU_EVENTQ_CONS', 0x1_00ac, { RD: ['RW', 19, 0], OVACKFLG: ['RW', 31] });

/** SMMU_CMDQ_CONS.ERR. */
export const CMDQ_ERROR = { CERROR_NONE: 0, CERROR_ILL: 1, CERROR_ABT: 2, CERROR_ATC_INV_SYNC: 3 } as const;

/** Bits of an address by SMMU_IDR5.OAS, STE.S2PS and VTCR_EL2.PS. */
export const ADDRESS_BITS: readonly number[] = [32, 36, 40, 42, 44, 48, 52];
