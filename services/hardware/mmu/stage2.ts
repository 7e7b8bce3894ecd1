/**
 * The stage-2 table walk of a CPU port and of an SMMU (DDI 0487, "Stage 2 translation"; IHI 0070 uses the same
 * tables): 4 KiB granule, leaves of 4 KiB, 2 MiB and 1 GiB, concatenated root tables, 48-bit addresses.
 * Synchronous, and nothing is allocated per walk. It reads tables through RAM only; a table elsewhere is an external
 * abort on the walk.
 * Not modelled: memory attributes, the Contiguous hint, hardware update of AF and dirty state, XN (no fetches).
 */
import { DFSC, S2_LO, stage2Geometry } from '#shared/arch/vmsa.ts';
import type { Ram } from '../bus/ram.ts';

/** What an access needs, in terms of S2AP. */
export const WANT_READ = 1;
export const WANT_WRITE = 2;

/** Where the tables are and how they are to be read: what a VTCR/VTTBR pair or an STE says. */
export interface Stage2Regime {
  /** The root table, aligned to all of its concatenated tables. */
  readonly root: number;
  readonly startLevel: number;
  /** Addresses from here on are out of range. 0: the geometry is not permitted, and every walk faults. */
  readonly ipaLimit: number;
  /** Output addresses from here on are an address size fault. */
  readonly paLimit: number;
  /** False: AF 0 is no fault (STE.S2AFFD). */
  readonly accessFlagFaults: boolean;
}

/** A regime from T0SZ, SL0 and the rest. Low bits of `root` below the alignment are ignored. */
export function stage2Regime(
  root: number,
  t0sz: number,
  sl0: number,
  paBits: number,
  accessFlagFaults: boolean,
): Stage2Regime {
  const paLimit = 2 ** Math.min(paBits, 48);
  const geometry = stage2Geometry(t0sz, sl0);
  if (geometry === undefined) return { root, startLevel: 0, ipaLimit: 0, paLimit, accessFlagFaults };
  const { startLevel, rootTables, ipaBits } = geometry;
  const entries = rootTables > 1 ? rootTables * 512 : 2 ** (ipaBits - (12 + 9 * (3 - startLevel)));
  return {
    root: root - (root % Math.max(entries * 8, 64)),
    startLevel,
    ipaLimit: 2 ** ipaBits,
    paLimit,
    accessFlagFaults,
  };
}

export class Stage2Walker {
  readonly #ram: Ram;
  /** Of the last walk: the level where it ended. */
  level = 0;
  /** Of the last walk that found a leaf (also one that gave a permission fault): its size, start and S2AP. */
  leafBytes = 0;
  leafPa = 0;
  s2ap = 0;
  /** Of the last walk that ended in an external abort: what could not be read. */
  fetchPa = 0;
  /** Descriptors read so far. */
  fetches = 0;

  constructor(ram: Ram) {
    this.#ram = ram;
  }

  /** Translates `ipa` for `want` (WANT_READ, WANT_WRITE or both). Returns the physical address, or `~dfsc` (negative). */
  walk(regime: Stage2Regime, ipa: number, want: number): number {
    this.level = 0;
    if (ipa >= regime.ipaLimit) return ~DFSC.TRANSLATION;
    if (regime.root >= regime.paLimit) return ~DFSC.ADDRESS_SIZE;
    const upper = (ipa / 0x4000_0000) | 0; // [47:30]
    const lower = ipa & 0x3fff_ffff; // [29:0]
    let level = regime.startLevel;
    let table = regime.root;
    let index = level === 1 ? upper : level === 2 ? (upper << 9) | (lower >>> 21) : upper >>> 9;
    for (;;) {
      const at = table + index * 8;
      const words = this.#ram.chunkWords(at);
      this.level = level;
      if (words === undefined) {
        this.fetchPa = at;
        return ~(DFSC.WALK_EXTERNAL_ABORT | level);
      }
      this.fetches++;
      const i = (at & 0x1f_ffff) >>> 2;
      const lo = words[i]!;
      if ((lo & S2_LO.VALID) === 0) return ~(DFSC.TRANSLATION | level);
      const high = (words[i + 1]! & 0xffff) * 0x1_0000_0000;
      if (level === 3) {
        if ((lo & S2_LO.TABLE_OR_PAGE) === 0) return ~(DFSC.TRANSLATION | 3);
        return this.#leaf(regime, high + ((lo & 0xffff_f000) >>> 0), ipa & 0xfff, 0x1000, lo, want);
      }
      if ((lo & S2_LO.TABLE_OR_PAGE) === 0) {
        if (level === 1) return this.#leaf(regime, high + ((lo & 0xc000_0000) >>> 0), lower, 0x4000_0000, lo, want);
        if (level === 2) {
          return this.#leaf(regime, high + ((lo & 0xffe0_0000) >>> 0), lower & 0x1f_ffff, 0x20_0000, lo, want);
        }
        return ~DFSC.TRANSLATION;
      }
      table = high + ((lo & 0xffff_f000) >>> 0);
      if (table >= regime.paLimit) return ~(DFSC.ADDRESS_SIZE | level);
      level++;
      index = level === 1 ? upper & 511 : level === 2 ? lower >>> 21 : (lower >>> 12) & 511;
    }
  }

  /** Address size, then access flag, then permission (DDI 0487, "Prioritization of MMU faults"). */
  #leaf(regime: Stage2Regime, leafPa: number, offset: number, leafBytes: number, lo: number, want: number): number {
    if (leafPa >= regime.paLimit) return ~(DFSC.ADDRESS_SIZE | this.level);
    if (regime.accessFlagFaults && (lo & S2_LO.AF) === 0) return ~(DFSC.ACCESS_FLAG | this.level);
    this.leafPa = leafPa;
    this.leafBytes = leafBytes;
    this.s2ap = (lo >>> S2_LO.S2AP_LSB) & 3;
    if ((this.s2ap & want) !== want) return ~(DFSC.PERMISSION | this.level);
    return leafPa + offset;
  }
}
