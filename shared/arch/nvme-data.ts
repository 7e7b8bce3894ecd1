/**
 * NVM Express 1.4: byte offsets in the data structures that a controller hands out ("Identify Controller Data
 * Structure", "Identify Namespace Data Structure", the log pages). All little-endian.
 */

export const NVME_IDENTIFY_BYTES = 4096;

export const NVME_ID_CTRL = {
  VID: 0,
  SSVID: 2,
  /** 20 bytes of ASCII. */
  SN: 4,
  /** 40 bytes of ASCII. */
  MN: 24,
  /** 8 bytes of ASCII. */
  FR: 64,
  RAB: 72,
  IEEE: 73,
  MDTS: 77,
  CNTLID: 78,
  VER: 80,
  RTD3R: 84,
  RTD3E: 88,
  OAES: 92,
  CNTRLTYPE: 111,
  OACS: 256,
  ACL: 258,
  AERL: 259,
  FRMW: 260,
  LPA: 261,
  ELPE: 262,
  NPSS: 263,
  WCTEMP: 266,
  CCTEMP: 268,
  SQES: 512,
  CQES: 513,
  MAXCMD: 514,
  NN: 516,
  ONCS: 520,
  VWC: 525,
  SUBNQN: 768,
  PSD0: 2048,
} as const;

/** Optional NVM commands (ONCS). */
export const NVME_ONCS = {
  COMPARE: 1 << 0,
  DATASET_MANAGEMENT: 1 << 2,
  WRITE_ZEROES: 1 << 3,
  SAVE_SELECT: 1 << 4,
} as const;

export const NVME_ID_NS = {
  NSZE: 0,
  NCAP: 8,
  NUSE: 16,
  NSFEAT: 24,
  NLBAF: 25,
  FLBAS: 26,
  DLFEAT: 33,
  NSATTR: 99,
  NGUID: 104,
  EUI64: 120,
  /** 16 formats of 4 bytes: metadata size [15:0], log2 of the data size [23:16]. */
  LBAF: 128,
} as const;
/** NSATTR: writes end with Namespace is Write Protected. */
export const NVME_NSATTR_WRITE_PROTECTED = 1;
/** VWC: there is a volatile write cache; Flush takes NSID FFFFFFFFh. */
export const NVME_VWC = { PRESENT: 1, FLUSH_ALL: 3 << 1 } as const;
/** Deallocated blocks read as zeroes; Write Zeroes may deallocate. */
export const NVME_DLFEAT = { READS_ZEROES: 1, WRITE_ZEROES_DEALLOCATES: 1 << 3 } as const;

/** Namespace identification descriptors: type, length, two reserved bytes, then the identifier. */
export const NVME_NIDT = { EUI64: 1, NGUID: 2, UUID: 3 } as const;

export const NVME_ERROR_LOG_BYTES = 64;
export const NVME_ERROR_LOG = { COUNT: 0, SQID: 8, CID: 10, STATUS: 12, LOCATION: 14, LBA: 16, NSID: 24 } as const;

export const NVME_SMART_BYTES = 512;
export const NVME_SMART = {
  CRITICAL_WARNING: 0,
  TEMPERATURE: 1,
  AVAILABLE_SPARE: 3,
  SPARE_THRESHOLD: 4,
  PERCENTAGE_USED: 5,
  /** The following are 16 bytes each. Data units are thousands of 512 bytes, rounded up. */
  DATA_UNITS_READ: 32,
  DATA_UNITS_WRITTEN: 48,
  HOST_READS: 64,
  HOST_WRITES: 80,
  POWER_CYCLES: 112,
  MEDIA_ERRORS: 160,
  ERROR_LOG_ENTRIES: 176,
} as const;
export const NVME_SMART_WARNING_TEMPERATURE = 1 << 1;

export const NVME_FIRMWARE_LOG = { AFI: 0, FRS1: 8, BYTES: 512 } as const;
/** A list of namespace ids, 1,024 of 4 bytes. */
export const NVME_NAMESPACE_LIST_BYTES = 4096;
