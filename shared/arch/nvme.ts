/**
 * NVM Express 1.4: the controller registers, submission and completion entries, opcodes, status codes, features and
 * log pages (NVM Express Base Specification 1.4, titles at each table). Data structures are in nvme-data.ts.
 * 64-bit registers are two words, the low one first.
 */
import { reg32 } from '../regs/field.ts';

/** "Offset 0h: CAP - Controller Capabilities". */
export const NVME_CAP_LO = reg32('NVME_CAP_LO', 0x00, {
  MQES: ['RO', 15, 0],
  CQR: ['RO', 16],
  AMS: ['RO', 18, 17],
  TO: ['RO', 31, 24],
});
export const NVME_CAP_HI = reg32('NVME_CAP_HI', 0x04, {
  DSTRD: ['RO', 3, 0],
  NSSRS: ['RO', 4],
  CSS: ['RO', 12, 5],
  BPS: ['RO', 13],
  MPSMIN: ['RO', 19, 16],
  MPSMAX: ['RO', 23, 20],
});
export const NVME_VS = reg32(
  'NVME_VS',
  0x08,
  { TER: ['RO', 7, 0], MNR: ['RO', 15, 8], MJR: ['RO', 31, 16] },
  0x0001_0400,
);
/** Both read as the interrupt mask; a one sets (INTMS) or clears (INTMC) its bit. */
export const NVME_INTMS = reg32('NVME_INTMS', 0x0c, { IVMS: ['WO', 31, 0] });
export const NVME_INTMC = reg32('NVME_INTMC', 0x10, { IVMC: ['WO', 31, 0] });
export const NVME_CC = reg32('NVME_CC', 0x14, {
  EN: ['RW', 0],
  CSS: ['RW', 6, 4],
  MPS: ['RW', 10, 7],
  AMS: ['RW', 13, 11],
  SHN: ['RW', 15, 14],
  IOSQES: ['RW', 19, 16],
  IOCQES: ['RW', 23, 20],
});
export const NVME_CSTS = reg32('NVME_CSTS', 0x1c, {
  RDY: ['RO', 0],
  CFS: ['RO', 1],
  SHST: ['RO', 3, 2],
  NSSRO: ['RO', 4],
  PP: ['RO', 5],
});
export const NVME_NSSR = reg32('NVME_NSSR', 0x20, { NSSRC: ['WO', 31, 0] });
export const NVME_AQA = reg32('NVME_AQA', 0x24, { ASQS: ['RW', 11, 0], ACQS: ['RW', 27, 16] });
export const NVME_ASQ_LO = reg32('NVME_ASQ_LO', 0x28, { ASQB: ['RW', 31, 12] });
export const NVME_ASQ_HI = reg32('NVME_ASQ_HI', 0x2c, { ASQB: ['RW', 31, 0] });
export const NVME_ACQ_LO = reg32('NVME_ACQ_LO', 0x30, { ACQB: ['RW', 31, 12] });
export const NVME_ACQ_HI = reg32('NVME_ACQ_HI', 0x34, { ACQB: ['RW', 31, 0] });
const NVME_CMBLOC = reg32('NVME_CMBLOC', 0x38, {});
const NVME_CMBSZ = reg32('NVME_CMBSZ', 0x3c, {});

export const NVME_REGISTERS = [
  NVME_CAP_LO,
  NVME_CAP_HI,
  NVME_VS,
  NVME_INTMS,
  NVME_INTMC,
  NVME_CC,
  NVME_CSTS,
  NVME_NSSR,
  NVME_AQA,
  NVME_ASQ_LO,
  NVME_ASQ_HI,
  NVME_ACQ_LO,
  NVME_ACQ_HI,
  NVME_CMBLOC,
  NVME_CMBSZ,
] as const;

/** CC.SHN and CSTS.SHST. */
export const NVME_SHN = { NONE: 0, NORMAL: 1, ABRUPT: 2 } as const;
export const NVME_SHST = { NORMAL: 0, OCCURRING: 1, COMPLETE: 2 } as const;

/** Doorbells start here; queue y has its SQ tail at +8 y and its CQ head at +8 y + 4 (CAP.DSTRD = 0). */
export const NVME_DOORBELLS = 0x1000;
export const NVME_REGISTER_BYTES = 0x1000;

export function nvmeSqTail(queue: number): number {
  return NVME_DOORBELLS + 8 * queue;
}

export function nvmeCqHead(queue: number): number {
  return NVME_DOORBELLS + 8 * queue + 4;
}

export const NVME_SQE_BYTES = 64;
export const NVME_CQE_BYTES = 16;
/** log2 of the above, as CC.IOSQES and CC.IOCQES say them. */
export const NVME_SQES = 6;
export const NVME_CQES = 4;

/** Submission entry: indices of 32-bit words ("Command Dword 0" and on). A 64-bit value is a word and the next. */
export const NVME_SQE = {
  CDW0: 0,
  NSID: 1,
  MPTR: 4,
  PRP1: 6,
  PRP2: 8,
  CDW10: 10,
  CDW11: 11,
  CDW12: 12,
  CDW13: 13,
} as const;
/** Fields of CDW0: opcode [7:0], fused operation [9:8], PRP or SGL [15:14], command identifier [31:16]. */
export const NVME_CDW0 = { OPC_MASK: 0xff, FUSE_MASK: 0x300, PSDT_MASK: 0xc000, CID_SHIFT: 16 } as const;

/** Completion entry, 32-bit words. DW3: CID [15:0], phase tag 16, status field [31:17]. */
export const NVME_CQE = { DW0: 0, SQ: 2, STATUS: 3 } as const;
export const NVME_PHASE = 1 << 16;
export const NVME_STATUS_SHIFT = 17;
/** Bits of the status field (15 bits): SC [7:0], SCT [10:8], CRD [12:11], More 13, Do Not Retry 14. */
export const NVME_STATUS_MORE = 1 << 13;
export const NVME_STATUS_DNR = 1 << 14;
/** SCT and SC, as `NVME_SC` spells them. */
export const NVME_STATUS_CODE_MASK = 0x7ff;

/** "Admin Commands". */
export const NVME_ADMIN = {
  DELETE_IO_SQ: 0x00,
  CREATE_IO_SQ: 0x01,
  GET_LOG_PAGE: 0x02,
  DELETE_IO_CQ: 0x04,
  CREATE_IO_CQ: 0x05,
  IDENTIFY: 0x06,
  ABORT: 0x08,
  SET_FEATURES: 0x09,
  GET_FEATURES: 0x0a,
  ASYNC_EVENT_REQUEST: 0x0c,
  FORMAT_NVM: 0x80,
} as const;

/** "NVM Commands". */
export const NVME_IO = {
  FLUSH: 0x00,
  WRITE: 0x01,
  READ: 0x02,
  COMPARE: 0x05,
  WRITE_ZEROES: 0x08,
  DATASET_MANAGEMENT: 0x09,
} as const;

/** Status code type in bits [10:8], status code in [7:0]. */
export const NVME_SC = {
  SUCCESS: 0x000,
  INVALID_OPCODE: 0x001,
  INVALID_FIELD: 0x002,
  COMMAND_ID_CONFLICT: 0x003,
  DATA_TRANSFER_ERROR: 0x004,
  ABORT_REQUESTED: 0x007,
  ABORTED_SQ_DELETION: 0x008,
  INVALID_NAMESPACE: 0x00b,
  COMMAND_SEQUENCE_ERROR: 0x00c,
  PRP_OFFSET_INVALID: 0x013,
  NAMESPACE_WRITE_PROTECTED: 0x020,
  LBA_OUT_OF_RANGE: 0x080,
  COMPLETION_QUEUE_INVALID: 0x100,
  INVALID_QUEUE_ID: 0x101,
  INVALID_QUEUE_SIZE: 0x102,
  ABORT_LIMIT_EXCEEDED: 0x103,
  ASYNC_EVENT_LIMIT_EXCEEDED: 0x105,
  INVALID_INTERRUPT_VECTOR: 0x108,
  INVALID_LOG_PAGE: 0x109,
  INVALID_QUEUE_DELETION: 0x10c,
  FEATURE_NOT_SAVEABLE: 0x10d,
  FEATURE_NOT_CHANGEABLE: 0x10e,
  FEATURE_NOT_NAMESPACE_SPECIFIC: 0x10f,
  WRITE_FAULT: 0x280,
  COMPARE_FAILURE: 0x285,
} as const;

/** "Feature Identifiers". */
export const NVME_FEATURE = {
  ARBITRATION: 0x01,
  POWER_MANAGEMENT: 0x02,
  TEMPERATURE_THRESHOLD: 0x04,
  ERROR_RECOVERY: 0x05,
  VOLATILE_WRITE_CACHE: 0x06,
  NUMBER_OF_QUEUES: 0x07,
  INTERRUPT_COALESCING: 0x08,
  INTERRUPT_VECTOR_CONFIG: 0x09,
  WRITE_ATOMICITY: 0x0a,
  ASYNC_EVENT_CONFIG: 0x0b,
} as const;
/** Set Features, CDW10: keep the value over a reset. */
export const NVME_FEATURE_SAVE = 0x8000_0000;
/** Get Features, CDW10 [10:8]. */
export const NVME_FEATURE_SELECT = { CURRENT: 0, DEFAULT: 1, SAVED: 2, CAPABILITIES: 3 } as const;

/** "Log Page Identifiers". */
export const NVME_LOG = { ERROR: 0x01, SMART: 0x02, FIRMWARE: 0x03, CHANGED_NAMESPACES: 0x04 } as const;
/** Get Log Page, CDW10: keep the asynchronous event that the page belongs to. */
export const NVME_LOG_RAE = 1 << 15;

/** "Asynchronous Event Information": type [2:0], information [15:8], log page [23:16] of the completion's DW0. */
export const NVME_EVENT = { ERROR: 0, SMART: 1, NOTICE: 2 } as const;
export const NVME_EVENT_ERROR = { INVALID_DOORBELL_REGISTER: 0, INVALID_DOORBELL_VALUE: 1 } as const;
export const NVME_EVENT_SMART = { TEMPERATURE: 1 } as const;

/** Identify, CDW10 [7:0]. */
export const NVME_CNS = {
  NAMESPACE: 0x00,
  CONTROLLER: 0x01,
  ACTIVE_NAMESPACES: 0x02,
  NAMESPACE_DESCRIPTORS: 0x03,
} as const;

/** Write and Write Zeroes, CDW12: the data are on the medium when the command completes (force unit access). */
export const NVME_FUA = 1 << 30;

/** A namespace id that means all of them. */
export const NVME_NSID_ALL = 0xffff_ffff;

/** Create I/O Submission and Completion Queue, CDW11: physically contiguous; interrupts of a completion queue. */
export const NVME_QUEUE_PC = 1 << 0;
export const NVME_QUEUE_IEN = 1 << 1;

/** Dataset Management, CDW11: deallocate. Each range has 16 bytes: attributes, blocks, starting LBA. */
export const NVME_DSM_AD = 1 << 2;
export const NVME_DSM_RANGE_BYTES = 16;

/** A 64-bit value out of two words: exact up to 2^53, and beyond that still larger than any address. */
export function nvmeU64(words: Uint32Array, index: number): number {
  return words[index + 1]! * 0x1_0000_0000 + words[index]!;
}
