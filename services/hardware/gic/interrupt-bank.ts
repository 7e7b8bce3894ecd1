/**
 * Interrupts with a state of their own, 32 to a word: the SPIs of the distributor, the SGIs and PPIs of a
 * redistributor (IHI 0069, "Interrupt handling and prioritization"), those of a CPU in the distributor of a GICv2. All
 * frames have the same registers, at the same offsets, so all use this.
 * An edge sets the latch, a level source is its line; an interrupt is pending when its latch is set or, for a level
 * source, its line is high. Taking it clears the latch and makes it active.
 * Not modelled: IGRPMODR and NSACR (RES0 with one security state), non-maskable interrupts.
 */
import {
  GICD_ICACTIVER,
  GICD_ICENABLER,
  GICD_ICFGR,
  GICD_ICPENDR,
  GICD_IGROUPR,
  GICD_IPRIORITYR,
  GICD_ISACTIVER,
  GICD_ISENABLER,
  GICD_ISPENDR,
} from '#shared/arch/gic/distributor.ts';
import { loadArray, type Saved } from '../state/saved.ts';

/** Five bits of priority are implemented. */
export const PRIORITY_MASK = 0xf8;

interface SavedBank {
  readonly group: Uint32Array;
  readonly enabled: Uint32Array;
  readonly latch: Uint32Array;
  readonly line: Uint32Array;
  readonly active: Uint32Array;
  readonly edge: Uint32Array;
  readonly priority: Uint8Array;
}

export class InterruptBank implements Saved {
  /** INTID of the first interrupt, and how many there are; both multiples of 32. */
  readonly first: number;
  readonly count: number;
  readonly #group: Uint32Array;
  readonly #enabled: Uint32Array;
  readonly #latch: Uint32Array;
  readonly #line: Uint32Array;
  readonly #active: Uint32Array;
  readonly #edge: Uint32Array;
  readonly #priority: Uint8Array;
  /** Bits of word 0 whose trigger is fixed to edge (SGIs), and of those that cannot be disabled, by mask. */
  readonly #fixedEdge: number;
  readonly #fixedEnabled: number;
  /** All ones for a group that is forwarded to CPU interfaces. */
  #forward0 = 0;
  #forward1 = 0xffff_ffff;
  /** Bit n: word n has a candidate. A bank has at most 32 words. */
  #candidateWords = 0;

  constructor(first: number, count: number, fixedEdge = 0, fixedEnabled = 0) {
    this.first = first;
    this.count = count;
    const words = count / 32;
    this.#group = new Uint32Array(words);
    this.#enabled = new Uint32Array(words);
    this.#latch = new Uint32Array(words);
    this.#line = new Uint32Array(words);
    this.#active = new Uint32Array(words);
    this.#edge = new Uint32Array(words);
    this.#priority = new Uint8Array(count);
    this.#fixedEdge = fixedEdge;
    this.#fixedEnabled = fixedEnabled;
    this.reset();
  }

  /** Everything off; the lines stay as their sources drive them. */
  reset(): void {
    for (const bits of [this.#group, this.#enabled, this.#latch, this.#active, this.#edge]) bits.fill(0);
    this.#edge[0] = this.#fixedEdge;
    this.#enabled[0] = this.#fixedEnabled;
    this.#priority.fill(0);
    this.#candidateWords = 0;
  }

  /** Which groups are forwarded from now on; group 1 alone when this is never called. No reset and no state has it. */
  forward(group0: boolean, group1: boolean): void {
    this.#forward0 = group0 ? 0xffff_ffff : 0;
    this.#forward1 = group1 ? 0xffff_ffff : 0;
    for (let word = 0; word < this.count / 32; word++) this.#refresh(word);
  }

  /** Whether this bank has `intid`. */
  has(intid: number): boolean {
    return intid >= this.first && intid < this.first + this.count;
  }

  /** Drives the line of `intid`. A rising edge sets the latch of an edge-triggered interrupt. */
  setLine(intid: number, high: boolean): void {
    const i = intid - this.first;
    const word = i >>> 5;
    const bit = (1 << (i & 31)) >>> 0;
    const was = (this.#line[word]! & bit) !== 0;
    if (high) this.#line[word]! |= bit;
    else this.#line[word]! &= ~bit;
    if (high && !was && (this.#edge[word]! & bit) !== 0) this.#latch[word]! |= bit;
    this.#refresh(word);
  }

  /** Sets the latch of `intid`: what an SGI does, and a write to ISPENDR. */
  setPending(intid: number): void {
    const i = intid - this.first;
    this.#latch[i >>> 5]! |= 1 << (i & 31);
    this.#refresh(i >>> 5);
  }

  /** Whether `intid` is in group 1. */
  isGroup1(intid: number): boolean {
    const i = intid - this.first;
    return ((this.#group[i >>> 5]! >>> (i & 31)) & 1) !== 0;
  }

  priorityOf(intid: number): number {
    return this.#priority[intid - this.first]!;
  }

  /** Pending, enabled, in a forwarded group and not active: what of word `word` a CPU interface may be offered. */
  candidates(word: number): number {
    return ((this.#candidateWords >>> word) & 1) === 0 ? 0 : this.#candidates(word);
  }

  /** Bit n: word n has a candidate. */
  get candidateWords(): number {
    return this.#candidateWords;
  }

  #candidates(word: number): number {
    const pending = this.#latch[word]! | (this.#line[word]! & ~this.#edge[word]!);
    const group = this.#group[word]!;
    const forwarded = (group & this.#forward1) | (~group & this.#forward0);
    return (pending & this.#enabled[word]! & forwarded & ~this.#active[word]!) >>> 0;
  }

  #refresh(word: number): void {
    const bit = 1 << word;
    if (this.#candidates(word) !== 0) this.#candidateWords |= bit;
    else this.#candidateWords &= ~bit;
  }

  acknowledge(intid: number): void {
    const i = intid - this.first;
    const bit = 1 << (i & 31);
    this.#latch[i >>> 5]! &= ~bit;
    this.#active[i >>> 5]! |= bit;
    this.#refresh(i >>> 5);
  }

  deactivate(intid: number): void {
    const i = intid - this.first;
    this.#active[i >>> 5]! &= ~(1 << (i & 31));
    this.#refresh(i >>> 5);
  }

  /** Reads a register of the frame by its offset in the distributor's layout; 0 when it is none of this bank's. */
  read(offset: number, size: number): number {
    if (offset >= GICD_IPRIORITYR && offset < GICD_IPRIORITYR + 0x400) {
      let value = 0;
      for (let byte = size - 1; byte >= 0; byte--) {
        value = value * 256 + (this.#priority[offset - GICD_IPRIORITYR + byte - this.first] ?? 0);
      }
      return value;
    }
    if (size !== 4) return 0;
    if (offset >= GICD_ICFGR && offset < GICD_ICFGR + 0x100) return this.#readConfig((offset - GICD_ICFGR) / 4);
    const word = ((offset & 0x7f) - this.first / 8) / 4;
    switch (offset & ~0x7f) {
      case GICD_IGROUPR:
        return this.#group[word] ?? 0;
      case GICD_ISENABLER:
      case GICD_ICENABLER:
        return this.#enabled[word] ?? 0;
      case GICD_ISPENDR:
      case GICD_ICPENDR:
        return ((this.#latch[word] ?? 0) | ((this.#line[word] ?? 0) & ~(this.#edge[word] ?? 0))) >>> 0;
      case GICD_ISACTIVER:
      case GICD_ICACTIVER:
        return this.#active[word] ?? 0;
      default:
        return 0;
    }
  }

  /** Writes a register; what is none of this bank's is dropped. Priorities take bytes, the others whole words. */
  write(offset: number, size: number, value: number): void {
    if (offset >= GICD_IPRIORITYR && offset < GICD_IPRIORITYR + 0x400) {
      for (let byte = 0; byte < size; byte++) {
        const i = offset - GICD_IPRIORITYR + byte - this.first;
        if (i >= 0 && i < this.count) this.#priority[i] = (value >>> (8 * byte)) & PRIORITY_MASK;
      }
      return;
    }
    if (size !== 4) return;
    if (offset >= GICD_ICFGR && offset < GICD_ICFGR + 0x100) {
      this.#writeConfig((offset - GICD_ICFGR) / 4, value);
      return;
    }
    const word = ((offset & 0x7f) - this.first / 8) / 4;
    if (word < 0 || word >= this.count / 32) return;
    switch (offset & ~0x7f) {
      case GICD_IGROUPR:
        this.#group[word] = value;
        break;
      case GICD_ISENABLER:
        this.#enabled[word]! |= value;
        break;
      case GICD_ICENABLER:
        this.#enabled[word]! &= ~value;
        if (word === 0) this.#enabled[word]! |= this.#fixedEnabled;
        break;
      case GICD_ISPENDR:
        this.#latch[word]! |= value;
        break;
      case GICD_ICPENDR:
        this.#latch[word]! &= ~value;
        break;
      case GICD_ISACTIVER:
        this.#active[word]! |= value;
        break;
      case GICD_ICACTIVER:
        this.#active[word]! &= ~value;
        break;
    }
    this.#refresh(word);
  }

  #readConfig(register: number): number {
    const i = register * 16 - this.first;
    if (i < 0 || i >= this.count) return 0;
    const half = this.#edge[i >>> 5]! >>> (i & 16);
    let value = 0;
    for (let n = 0; n < 16; n++) value |= ((half >>> n) & 1) << (2 * n + 1);
    return value >>> 0;
  }

  #writeConfig(register: number, value: number): void {
    const i = register * 16 - this.first;
    if (i < 0 || i >= this.count) return;
    const word = i >>> 5;
    let half = 0;
    for (let n = 0; n < 16; n++) half |= ((value >>> (2 * n + 1)) & 1) << n;
    const keep = word === 0 ? this.#fixedEdge : 0;
    const mask = (0xffff << (i & 16)) & ~keep;
    this.#edge[word] = (this.#edge[word]! & ~mask) | ((half << (i & 16)) & mask);
    this.#refresh(word);
  }

  save(): SavedBank {
    return {
      group: this.#group.slice(),
      enabled: this.#enabled.slice(),
      latch: this.#latch.slice(),
      line: this.#line.slice(),
      active: this.#active.slice(),
      edge: this.#edge.slice(),
      priority: this.#priority.slice(),
    };
  }

  load(state: unknown): void {
    const s = state as SavedBank;
    const what = `interrupts from ${this.first}`;
    loadArray(this.#group, s.group, what);
    loadArray(this.#enabled, s.enabled, what);
    loadArray(this.#latch, s.latch, what);
    loadArray(this.#line, s.line, what);
    loadArray(this.#active, s.active, what);
    loadArray(this.#edge, s.edge, what);
    loadArray(this.#priority, s.priority, what);
    for (let word = 0; word < this.count / 32; word++) this.#refresh(word);
  }

  /** INTIDs that are enabled, pending, active, or have a line that is high. */
  inspect(): { enabled: number[]; pending: number[]; active: number[]; high: number[] } {
    const enabled: number[] = [];
    const pending: number[] = [];
    const active: number[] = [];
    const high: number[] = [];
    for (let i = 0; i < this.count; i++) {
      const word = i >>> 5;
      const is = (bits: number): boolean => ((bits >>> (i & 31)) & 1) !== 0;
      if (is(this.#enabled[word]!)) enabled.push(this.first + i);
      if (is(this.#latch[word]! | (this.#line[word]! & ~this.#edge[word]!))) pending.push(this.first + i);
      if (is(this.#active[word]!)) active.push(this.first + i);
      if (is(this.#line[word]!)) high.push(this.first + i);
    }
    return { enabled, pending, active, high };
  }
}
