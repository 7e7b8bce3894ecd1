/**
 * The ITS register file as IHI 0069 ("ITS registers") lays it out: offsets, fields, and the 64-bit registers
 * as values that a driver or a model can encode and decode. No behaviour.
 * 64-bit registers are pairs of unsigned 32-bit words, because bit 63 does not fit into a double beside an address.
 * Not modelled: GICv4 registers and fields (vPEs, VSGI); they are absent from the tables.
 */

/** One 64-bit register: two unsigned words. */
export interface RegPair {
  readonly lo: number;
  readonly hi: number;
}

/** Bytes of an ITS: the control frame and the translation frame. */
export const ITS_SIZE_BYTES = 0x2_0000;
export const ITS_FRAME_BYTES = 0x1_0000;

export const GITS_CTLR = 0x0000;
export const GITS_IIDR = 0x0004;
export const GITS_TYPER = 0x0008;
export const GITS_CBASER = 0x0080;
export const GITS_CWRITER = 0x0088;
export const GITS_CREADR = 0x0090;
/** GITS_BASER0; GITS_BASERn is at `GITS_BASER + 8 * n`, n below GITS_BASER_COUNT. */
export const GITS_BASER = 0x0100;
export const GITS_BASER_COUNT = 8;
export const GITS_PIDR4 = 0xffd0;
export const GITS_PIDR0 = 0xffe0;
export const GITS_PIDR1 = 0xffe4;
export const GITS_PIDR2 = 0xffe8;
export const GITS_CIDR0 = 0xfff0;
/** From the start of the ITS; the doorbell that a device writes its EventID to. */
export const GITS_TRANSLATER = 0x1_0040;

export const GITS_CTLR_Enabled = 0x0000_0001;
export const GITS_CTLR_Quiescent = 0x8000_0000;

/** PIDR2[7:4]: the architecture revision, 3 for GICv3. */
export const GIC_PIDR2_ArchRev_GICv3 = 0x30;
export const GIC_PIDR2_ArchRev_MASK = 0xf0;

/** GITS_CREADR.Stalled and GITS_CWRITER.Retry. */
export const GITS_CREADR_Stalled = 1;
export const GITS_CWRITER_Retry = 1;
/** Byte offset in the queue, of GITS_CREADR and GITS_CWRITER. */
export const GITS_C_Offset_MASK = 0x000f_ffe0;

/** GITS_BASERn.Type. */
export const GITS_BASER_TYPE = { NONE: 0, DEVICE: 1, VPE: 2, COLLECTION: 4 } as const;

/** Shareability and cacheability codes of GITS_CBASER, GITS_BASERn, GICR_PROPBASER, GICR_PENDBASER. */
export const GIC_SHAREABILITY = { NON: 0, INNER: 1, OUTER: 2 } as const;
export const GIC_CACHE = { NGNRNE: 0, NC: 1, RAWT: 2, RAWB: 3, WAWT: 4, WAWB: 5, RAWAWT: 6, RAWAWB: 7 } as const;

/** GITS_TYPER, the fields that a GICv3 has. Sizes and counts as numbers, not as "minus one". */
export interface GitsTyper {
  readonly Physical: boolean;
  /** Bytes of one interrupt translation entry. */
  readonly ittEntryBytes: number;
  /** Bits of an EventID. */
  readonly eventIdBits: number;
  /** Bits of a DeviceID. */
  readonly deviceIdBits: number;
  /** RDbase is a physical address (true) or GICR_TYPER.Processor_Number (false). */
  readonly PTA: boolean;
  /** Collections that the ITS holds without a table. */
  readonly HCC: number;
  /** Bits of an ICID: 16 unless CIL is set. */
  readonly collectionIdBits: number;
}

export function encodeGitsTyper(t: GitsTyper): RegPair {
  const lo =
    ((t.Physical ? 1 : 0) |
      ((t.ittEntryBytes - 1) << 4) |
      ((t.eventIdBits - 1) << 8) |
      ((t.deviceIdBits - 1) << 13) |
      ((t.PTA ? 1 : 0) << 19) |
      (t.HCC << 24)) >>>
    0;
  return { lo, hi: t.collectionIdBits === 16 ? 0 : (t.collectionIdBits - 1) | (1 << 4) };
}

export function decodeGitsTyper(r: RegPair): GitsTyper {
  return {
    Physical: (r.lo & 1) !== 0,
    ittEntryBytes: ((r.lo >>> 4) & 0xf) + 1,
    eventIdBits: ((r.lo >>> 8) & 0x1f) + 1,
    deviceIdBits: ((r.lo >>> 13) & 0x1f) + 1,
    PTA: ((r.lo >>> 19) & 1) !== 0,
    HCC: r.lo >>> 24,
    collectionIdBits: (r.hi & (1 << 4)) !== 0 ? (r.hi & 0xf) + 1 : 16,
  };
}

/** GITS_CBASER: the command queue. */
export interface GitsCbaser {
  readonly Valid: boolean;
  /** Physical address, 64 KiB aligned as software gives it (bits 51 to 12 exist). */
  readonly pa: number;
  /** Bytes of the queue: 1 to 256 pages of 4 KiB. */
  readonly sizeBytes: number;
  readonly InnerCache: number;
  readonly OuterCache: number;
  readonly Shareability: number;
}

export function encodeGitsCbaser(c: GitsCbaser): RegPair {
  return {
    lo: ((addressLow(c.pa) & 0xffff_f000) | (c.Shareability << 10) | (c.sizeBytes / 4096 - 1)) >>> 0,
    hi: (attributesHigh(c.Valid, c.InnerCache, c.OuterCache) | (addressHigh(c.pa) & 0x000f_ffff)) >>> 0,
  };
}

export function decodeGitsCbaser(r: RegPair): GitsCbaser {
  return {
    Valid: r.hi >>> 31 === 1,
    pa: (r.hi & 0x000f_ffff) * 0x1_0000_0000 + ((r.lo & 0xffff_f000) >>> 0),
    sizeBytes: ((r.lo & 0xff) + 1) * 4096,
    InnerCache: (r.hi >>> 27) & 7,
    OuterCache: (r.hi >>> 21) & 7,
    Shareability: (r.lo >>> 10) & 3,
  };
}

/** GITS_BASERn: a table that software lends to the ITS. */
export interface GitsBaser {
  readonly Valid: boolean;
  /** Two levels. */
  readonly Indirect: boolean;
  /** One of GITS_BASER_TYPE; read-only. */
  readonly Type: number;
  /** Bytes of an entry; read-only. */
  readonly entryBytes: number;
  /** Bits 47 to 12; with 64 KiB pages bits 51 to 48 as well. */
  readonly pa: number;
  /** 4096, 16384 or 65536. */
  readonly pageBytes: number;
  /** Bytes of the table: 1 to 256 pages. */
  readonly sizeBytes: number;
  readonly InnerCache: number;
  readonly OuterCache: number;
  readonly Shareability: number;
}

export function encodeGitsBaser(b: GitsBaser): RegPair {
  const pageSize = b.pageBytes === 0x1_0000 ? 2 : b.pageBytes === 0x4000 ? 1 : 0;
  let low = addressLow(b.pa) & 0xffff_f000;
  const top = addressHigh(b.pa);
  if (pageSize === 2) low = (low & 0xffff_0000) | (((top >>> 16) & 0xf) << 12);
  return {
    lo: (low | (b.Shareability << 10) | (pageSize << 8) | (b.sizeBytes / b.pageBytes - 1)) >>> 0,
    hi:
      (attributesHigh(b.Valid, b.InnerCache, b.OuterCache) |
        ((b.Indirect ? 1 : 0) << 30) |
        (b.Type << 24) |
        ((b.entryBytes - 1) << 16) |
        (top & 0xffff)) >>>
      0,
  };
}

export function decodeGitsBaser(r: RegPair): GitsBaser {
  const pageSize = (r.lo >>> 8) & 3;
  const pageBytes = pageSize === 0 ? 0x1000 : pageSize === 1 ? 0x4000 : 0x1_0000;
  const pa =
    pageBytes === 0x1_0000
      ? ((r.hi & 0xffff) + ((r.lo >>> 12) & 0xf) * 0x1_0000) * 0x1_0000_0000 + ((r.lo & 0xffff_0000) >>> 0)
      : (r.hi & 0xffff) * 0x1_0000_0000 + ((r.lo & 0xffff_f000) >>> 0);
  return {
    Valid: r.hi >>> 31 === 1,
    Indirect: ((r.hi >>> 30) & 1) === 1,
    Type: (r.hi >>> 24) & 7,
    entryBytes: ((r.hi >>> 16) & 0x1f) + 1,
    pa,
    pageBytes,
    sizeBytes: ((r.lo & 0xff) + 1) * pageBytes,
    InnerCache: (r.hi >>> 27) & 7,
    OuterCache: (r.hi >>> 21) & 7,
    Shareability: (r.lo >>> 10) & 3,
  };
}

function attributesHigh(valid: boolean, innerCache: number, outerCache: number): number {
  return (((valid ? 1 : 0) << 31) | (innerCache << 27) | (outerCache << 21)) >>> 0;
}

export function addressLow(pa: number): number {
  return pa >>> 0;
}

export function addressHigh(pa: number): number {
  return Math.floor(pa / 0x1_0000_0000) >>> 0;
}
