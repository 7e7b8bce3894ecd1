/**
 * The distributor that a guest sees (IHI 0069, "Distributor registers"; xen/arch/arm/vgic-v3.c), and the bank of
 * per-interrupt state that redistributors use too. Affinity routing is always on and there is one security state's view.
 * An SPI is active from the moment it leaves in an upcall until the guest ends it; an active interrupt is not delivered,
 * whoever made it active. SGIs and PPIs end with the upcall's reply.
 * Not modelled: group 0, ITARGETSR and SGIR (RAZ/WI, as affinity routing has it), message-based SPIs; lines: ICFGR keeps
 * what is written and nothing looks at it, since whether an SPI is a level is known where it comes from (irq.ts).
 */
import {
  encodeGicdTyper,
  GICD_CTLR,
  GICD_CTLR_ARE,
  GICD_CTLR_EnableGrp1,
  GICD_ICACTIVER,
  GICD_ICENABLER,
  GICD_ICFGR,
  GICD_ICPENDR,
  GICD_IGROUPR,
  GICD_IIDR,
  GICD_IPRIORITYR,
  GICD_IROUTER,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
  GICD_ITARGETSR,
  GICD_PIDR2,
  GICD_TYPER,
  SPI_FIRST,
} from '#shared/arch/gic/distributor.ts';

/** GICD_IIDR and GICR_IIDR: implementer Arm. */
export const VGIC_IIDR = 0x0000_034c;
export const VGIC_PIDR2 = 0x30;
/** Bits of an INTID of a guest: LPIs 8192 to 65535. */
export const VGIC_ID_BITS = 16;

const WORDS_OF_1_BIT = 0x80;

/** State of the interrupts from 32 * `firstWord`: 32 a word, at the offsets that GICD and the SGI frame share. */
export class IrqBank {
  readonly firstWord: number;
  readonly words: number;
  readonly #group: Uint32Array;
  readonly #enabled: Uint32Array;
  readonly #pending: Uint32Array;
  readonly #active: Uint32Array;
  readonly #priority: Uint8Array;
  readonly #config: Uint32Array;

  constructor(firstWord: number, words: number) {
    this.firstWord = firstWord;
    this.words = words;
    this.#group = new Uint32Array(words);
    this.#enabled = new Uint32Array(words);
    this.#pending = new Uint32Array(words);
    this.#active = new Uint32Array(words);
    this.#priority = new Uint8Array(32 * words);
    this.#config = new Uint32Array(2 * words);
    // Xen starts every interrupt of a guest in group 1: there is no other.
    this.#group.fill(0xffff_ffff);
  }

  has(intid: number): boolean {
    return intid >= 32 * this.firstWord && intid < 32 * (this.firstWord + this.words);
  }

  /** Enabled and in group 1. */
  isEnabled(intid: number): boolean {
    const i = intid - 32 * this.firstWord;
    return (this.#enabled[i >>> 5]! & this.#group[i >>> 5]! & (1 << (i & 31))) !== 0;
  }

  priorityOf(intid: number): number {
    return this.#priority[intid - 32 * this.firstWord]!;
  }

  isPending(intid: number): boolean {
    return this.#has(this.#pending, intid);
  }

  isActive(intid: number): boolean {
    return this.#has(this.#active, intid);
  }

  setPending(intid: number): void {
    const i = intid - 32 * this.firstWord;
    this.#pending[i >>> 5]! |= 1 << (i & 31);
  }

  setActive(intid: number, active: boolean): void {
    const i = intid - 32 * this.firstWord;
    if (active) this.#active[i >>> 5]! |= 1 << (i & 31);
    else this.#active[i >>> 5]! &= ~(1 << (i & 31));
  }

  #has(bits: Uint32Array, intid: number): boolean {
    const i = intid - 32 * this.firstWord;
    return (bits[i >>> 5]! & (1 << (i & 31))) !== 0;
  }

  /** Calls `each` for the interrupts that are pending, enabled, in group 1 and not active, lowest first. */
  forEachDeliverable(each: (intid: number, priority: number) => void): void {
    for (let w = 0; w < this.words; w++) {
      let bits = this.#pending[w]! & this.#enabled[w]! & this.#group[w]! & ~this.#active[w]!;
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits &= bits - 1;
        const i = 32 * w + bit;
        each(i + 32 * this.firstWord, this.#priority[i]!);
      }
    }
  }

  clearPending(intid: number): void {
    const i = intid - 32 * this.firstWord;
    this.#pending[i >>> 5]! &= ~(1 << (i & 31));
  }

  /** A 32-bit read at an offset of GICD or of the SGI frame; undefined when the bank has no such register. */
  read(offset: number): number | undefined {
    if (offset >= GICD_IPRIORITYR && offset < GICD_ITARGETSR) {
      const i = offset - GICD_IPRIORITYR - 32 * this.firstWord;
      let value = 0;
      for (let b = 3; b >= 0; b--) value = (value << 8) | (this.#priority[i + b] ?? 0);
      return value >>> 0;
    }
    if (offset >= GICD_ICFGR && offset < GICD_ICFGR + 0x100) {
      return this.#config[((offset - GICD_ICFGR) >>> 2) - 2 * this.firstWord] ?? 0;
    }
    if (offset < GICD_IGROUPR || offset >= GICD_IPRIORITYR) return undefined;
    const w = ((offset & (WORDS_OF_1_BIT - 1)) >>> 2) - this.firstWord;
    switch (offset & ~(WORDS_OF_1_BIT - 1)) {
      case GICD_IGROUPR:
        return this.#group[w] ?? 0;
      case GICD_ISENABLER:
      case GICD_ICENABLER:
        return this.#enabled[w] ?? 0;
      case GICD_ISPENDR:
      case GICD_ICPENDR:
        return this.#pending[w] ?? 0;
      case GICD_ISACTIVER:
      case GICD_ICACTIVER:
        return this.#active[w] ?? 0;
      default:
        return undefined;
    }
  }

  /** Writes `sizeBytes` (4; 1 and 2 for priorities). Returns false when the bank has no such register. */
  write(offset: number, sizeBytes: number, value: number): boolean {
    if (offset >= GICD_IPRIORITYR && offset < GICD_ITARGETSR) {
      const i = offset - GICD_IPRIORITYR - 32 * this.firstWord;
      for (let b = 0; b < sizeBytes; b++) {
        // Five bits of priority, as Xen's virtual interface has them.
        if (i + b >= 0 && i + b < this.#priority.length) this.#priority[i + b] = (value >>> (8 * b)) & 0xf8;
      }
      return true;
    }
    if (offset >= GICD_ICFGR && offset < GICD_ICFGR + 0x100) {
      const i = ((offset - GICD_ICFGR) >>> 2) - 2 * this.firstWord;
      if (i >= 0 && i < this.#config.length) this.#config[i] = value & 0xaaaa_aaaa;
      return true;
    }
    if (offset < GICD_IGROUPR || offset >= GICD_IPRIORITYR) return false;
    const w = ((offset & (WORDS_OF_1_BIT - 1)) >>> 2) - this.firstWord;
    const inside = w >= 0 && w < this.words;
    switch (offset & ~(WORDS_OF_1_BIT - 1)) {
      case GICD_IGROUPR:
        if (inside) this.#group[w] = value;
        return true;
      case GICD_ISENABLER:
        if (inside) this.#enabled[w]! |= value;
        return true;
      case GICD_ICENABLER:
        if (inside) this.#enabled[w]! &= ~value;
        return true;
      case GICD_ISPENDR:
        if (inside) this.#pending[w]! |= value;
        return true;
      case GICD_ICPENDR:
        if (inside) this.#pending[w]! &= ~value;
        return true;
      case GICD_ISACTIVER:
        if (inside) this.#active[w]! |= value;
        return true;
      case GICD_ICACTIVER:
        if (inside) this.#active[w]! &= ~value;
        return true;
      default:
        return false;
    }
  }
}

export class VDistributor {
  /** SPIs; private interrupts are in the redistributors and read as zero here. */
  readonly spis: IrqBank;
  readonly #lines: number;
  readonly #router: Uint32Array;
  #ctlr = GICD_CTLR_ARE;

  /** `spis` is rounded up to a multiple of 32. */
  constructor(spis: number) {
    const words = Math.ceil(spis / 32);
    this.#lines = SPI_FIRST + 32 * words;
    this.spis = new IrqBank(1, words);
    this.#router = new Uint32Array(2 * 32 * words);
  }

  /** GICD_CTLR.EnableGrp1A. */
  get enabled(): boolean {
    return (this.#ctlr & GICD_CTLR_EnableGrp1) !== 0;
  }

  /** The virtual CPU that GICD_IROUTER names for an SPI; Aff0 and Aff1 are its number's low four bits and the rest. */
  targetOf(intid: number): number {
    const affinity = this.#router[2 * (intid - SPI_FIRST)]!;
    if (affinity >>> 31 === 1) return 0;
    return (affinity & 0xf) | (((affinity >>> 8) & 0xff) << 4);
  }

  /** Whether the register at `offset` is 64 bits wide. */
  isWide(offset: number): boolean {
    return offset >= GICD_IROUTER && offset < GICD_IROUTER + 8 * 1020;
  }

  /** A 32-bit read; undefined for an access that the distributor answers with an abort. */
  read(offset: number): number | undefined {
    switch (offset) {
      case GICD_CTLR:
        return this.#ctlr;
      case GICD_TYPER:
        return encodeGicdTyper({ lines: this.#lines, idBits: VGIC_ID_BITS });
      case GICD_IIDR:
        return VGIC_IIDR;
      case GICD_PIDR2:
        return VGIC_PIDR2;
      default:
        break;
    }
    if (this.isWide(offset)) return this.#router[(offset - GICD_IROUTER - 8 * SPI_FIRST) >> 2] ?? 0;
    // What is left is reserved or not implemented, and reads as zero.
    return this.spis.read(offset) ?? 0;
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (offset === GICD_CTLR) {
      this.#ctlr = GICD_CTLR_ARE | (value & GICD_CTLR_EnableGrp1);
    } else if (this.isWide(offset)) {
      const i = (offset - GICD_IROUTER - 8 * SPI_FIRST) >> 2;
      if (i >= 0 && i < this.#router.length) this.#router[i] = i % 2 === 0 ? value & 0x80ff_ffff : value & 0xff;
    } else {
      this.spis.write(offset, sizeBytes, value);
    }
  }
}
