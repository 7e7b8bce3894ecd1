/**
 * The stream table and the context descriptors below it as RAM holds them now, for `inspect`, and beside each what is
 * cached of it: `no`, `same`, or `stale` with what the SMMU goes by until a CMD_CFGI_*. Looking changes no cache.
 * Shown are entries that are valid and do not abort, and whatever else has a stale copy; those that abort are counted.
 */
import {
  CD,
  CD_BYTES,
  CD_WORDS,
  L1CD,
  L1CD_BYTES,
  L1STD_BYTES,
  STE,
  STE_BYTES,
  STE_CONFIG,
  STE_S1FMT,
  STE_WORDS,
} from '#shared/arch/smmu/v3-structures.ts';
import { bytesOf, load, type Slot, type Words } from '#shared/regs/struct.ts';
import type { Ram } from '../../bus/ram.ts';
import { Look } from '../../look.ts';
import { Stage2Walker, WANT_READ } from '../../mmu/stage2.ts';
import { Tlb } from '../../mmu/tlb.ts';
import type { SmmuFeatures } from './features.ts';
import type { SmmuRegisters } from './registers.ts';
import { type ContextConfig, decodeCd, decodeSte, STREAM, STREAM_NAMES, type StreamConfig } from './stream-config.ts';
import { decodeLevel1, type Level1, type StreamTable, streamTableShape } from './stream-table.ts';

export interface StreamTableView {
  readonly streamTable: {
    readonly base: number;
    readonly format: 'linear' | 'two-level';
    /** StreamIDs that it has room for, as a power of two. */
    readonly log2size: number;
    readonly split?: number;
    /** Entries of the level 1 table that are valid, by index. */
    readonly arrays?: Readonly<Record<number, unknown>>;
    readonly aborting: number;
    readonly incomplete?: string;
  };
  /** By StreamID. */
  readonly streams: Readonly<Record<number, unknown>>;
}

/** Of an entry's first word: STE.V, and what is not 0 of a Config that does something else than abort. */
const VALID = 1;
const CONFIG_4_TO_7 = 1 << 3;

type Copy = 'no' | 'same' | 'stale';

export function viewStreams(registers: SmmuRegisters, table: StreamTable, ram: Ram): StreamTableView {
  return new StreamView(registers, table, ram).take();
}

class StreamView {
  readonly #registers: SmmuRegisters;
  readonly #features: SmmuFeatures;
  readonly #table: StreamTable;
  readonly #ram: Ram;
  readonly #look = new Look();
  /** What decoding needs: tags of no TLB that translates, and a walker of its own. */
  readonly #tlb = new Tlb();
  readonly #walker: Stage2Walker;
  readonly #streams: Record<number, unknown> = {};
  readonly #seen = new Set<number>();
  /** Context descriptors, after every stream: those of one may be more than all that a look reads. */
  readonly #later: (() => void)[] = [];
  #aborting = 0;

  constructor(registers: SmmuRegisters, table: StreamTable, ram: Ram) {
    this.#registers = registers;
    this.#features = registers.features;
    this.#table = table;
    this.#ram = ram;
    this.#walker = new Stage2Walker(ram);
  }

  take(): StreamTableView {
    const { base, log2size, twoLevel, split } = streamTableShape(this.#registers);
    const arrays: Record<number, unknown> = {};
    if (twoLevel) {
      const count = 2 ** Math.max(log2size - split, 0);
      this.#eachEntry(base, L1STD_BYTES, count, (index, at) => this.#level1(index, at, split, log2size, arrays));
    } else this.#array(0, base, 2 ** log2size);
    this.#unreached();
    for (const more of this.#later) more();
    return {
      streamTable: {
        base,
        format: twoLevel ? 'two-level' : 'linear',
        log2size,
        ...(twoLevel ? { split, arrays } : {}),
        aborting: this.#aborting,
        ...this.#look.incomplete,
      },
      streams: this.#streams,
    };
  }

  /** Calls `visit` for the entries of a table that are in RAM, as far as the look goes. */
  #eachEntry(base: number, entryBytes: number, count: number, visit: (index: number, at: number) => void): void {
    const there = Math.min(count, Math.floor(this.#ram.bytesFrom(base) / entryBytes));
    for (let i = 0; i < there && this.#look.read(); i++) visit(i, base + i * entryBytes);
  }

  #level1(index: number, at: number, split: number, log2size: number, arrays: Record<number, unknown>): void {
    const level1 = decodeLevel1(this.#words(at, 2), split);
    const cached = this.#table.cachedLevel1.get(index);
    const copy = copyOf(cached, cached?.span === level1?.span && cached?.l2Ptr === level1?.l2Ptr);
    if (level1 === undefined && copy !== 'stale') return;
    const shown = level1 === undefined ? { valid: false } : arrayOf(level1);
    if (this.#look.show())
      arrays[index] = { ...shown, cached: copy, ...(copy === 'stale' ? { cachedAs: arrayOf(cached!) } : {}) };
    if (level1 !== undefined)
      this.#array(index * 2 ** split, level1.l2Ptr, Math.min(2 ** (level1.span - 1), 2 ** log2size));
  }

  #array(first: number, base: number, count: number): void {
    this.#eachEntry(base, STE_BYTES, count, (i, at) => {
      const word = this.#ram.read32(at);
      if ((word & VALID) === 0) return;
      // A table may be full of them.
      if ((word & CONFIG_4_TO_7) === 0 && !this.#table.cached.has(first + i)) this.#aborting++;
      else this.#entry(first + i, this.#words(at, STE_WORDS));
    });
  }

  #entry(streamId: number, words: Uint32Array): void {
    const cached = this.#table.cached.get(streamId);
    const copy = copyOf(cached, cached !== undefined && same(cached.words, words));
    const config = decodeSte(streamId, words, this.#features, this.#tlb);
    this.#seen.add(streamId);
    if (config.kind === STREAM.abort) this.#aborting++;
    if ((config.kind === STREAM.abort && copy !== 'stale') || !this.#look.show()) return;
    this.#streams[streamId] = {
      ...this.#stream(config, copy === 'same' ? cached : undefined),
      cached: copy,
      ...(copy === 'stale' ? { cachedAs: this.#stream(cached!, cached, true) } : {}),
    };
  }

  /** What is cached of streams that no valid entry was found for: not stale when an entry is there and is the same. */
  #unreached(): void {
    for (const [streamId, cached] of this.#table.cached) {
      if (this.#seen.has(streamId)) continue;
      const words = this.#invalidEntry(streamId);
      const copy = copyOf(cached, words !== undefined && same(cached.words, words));
      if (copy === 'stale' && this.#look.show())
        this.#streams[streamId] = { kind: 'invalid', cached: copy, cachedAs: this.#stream(cached, cached, true) };
    }
  }

  #invalidEntry(streamId: number): Uint32Array | undefined {
    const { base, log2size, twoLevel, split } = streamTableShape(this.#registers);
    if (streamId >= 2 ** log2size) return undefined;
    if (!twoLevel) return this.#wordsIfThere(base + streamId * STE_BYTES, STE_WORDS);
    const level1Words = this.#wordsIfThere(base + (streamId >>> split) * L1STD_BYTES, 2);
    const level1 = level1Words === undefined ? undefined : decodeLevel1(level1Words, split);
    const within = streamId % 2 ** split;
    if (level1 === undefined || within >= 2 ** (level1.span - 1)) return undefined;
    return this.#wordsIfThere(level1.l2Ptr + within * STE_BYTES, STE_WORDS);
  }

  /** An entry by the book's names. `held`: whose context descriptors are cached; `heldOnly`: show only those. */
  #stream(config: StreamConfig, held: StreamConfig | undefined, heldOnly = false): Record<string, unknown> {
    const { kind, words } = config;
    const what = load(words, 0, STE.Config);
    const stage1 = what > STE_CONFIG.bypass && (what & 1) !== 0;
    const stage2 = what > STE_CONFIG.bypass && (what & 2) !== 0;
    const read = (slots: Readonly<Record<string, Slot>>): Record<string, number> =>
      Object.fromEntries(Object.entries(slots).map(([name, slot]) => [name, load(words, 0, slot)]));
    const { S2VMID, S2TTB, S2T0SZ, S2SL0, S2TG, S2PS, S2R, S1ContextPtr, S1Fmt, S1CDMax, S1DSS } = STE;
    return {
      kind: STREAM_NAMES[kind],
      Config: what,
      ...(stage1 || stage2 ? read({ S2VMID }) : {}),
      ...(stage2 ? read({ S2TTB, S2T0SZ, S2SL0, S2TG, S2PS, S2R }) : {}),
      ...(stage1 ? read({ S1ContextPtr, S1Fmt, S1CDMax, S1DSS }) : {}),
      ...(kind === STREAM.stage1 || kind === STREAM.nested
        ? { contexts: heldOnly ? this.#heldContexts(config) : this.#contextsLater(config, held) }
        : {}),
    };
  }

  #contextsLater(config: StreamConfig, held: StreamConfig | undefined): Record<number, unknown> {
    const found: Record<number, unknown> = {};
    this.#later.push(() => this.#contexts(config, held, found));
    return found;
  }

  /** Context descriptors that are valid, by SubstreamID; the only one of a stream without substreams is 0. */
  #contexts(config: StreamConfig, held: StreamConfig | undefined, found: Record<number, unknown>): void {
    const { contextPtr, s1CdMax, s1Fmt } = config;
    const count = 2 ** s1CdMax;
    if (s1CdMax === 0 || s1Fmt === STE_S1FMT.linear) {
      this.#contextArray(config, held, found, 0, contextPtr - (contextPtr % (CD_BYTES * count)), count);
      return;
    }
    const leafBits = s1Fmt === STE_S1FMT.twoLevel4K ? 6 : 10;
    const leaves = 2 ** Math.max(s1CdMax - leafBits, 0);
    for (let i = 0; i < leaves && this.#look.read(); i++) {
      const level1 = this.#contextWords(config, contextPtr + i * L1CD_BYTES, 2);
      if (level1 === undefined || load(level1, 0, L1CD.V) === 0) continue;
      const l2Ptr = load(level1, 0, L1CD.L2Ptr);
      const aligned = l2Ptr - (l2Ptr % (CD_BYTES << leafBits));
      this.#contextArray(config, held, found, i << leafBits, aligned, Math.min(1 << leafBits, count));
    }
  }

  #contextArray(
    config: StreamConfig,
    held: StreamConfig | undefined,
    found: Record<number, unknown>,
    first: number,
    base: number,
    count: number,
  ): void {
    for (let i = 0; i < count && this.#look.read(); i++) {
      const words = this.#contextWords(config, base + i * CD_BYTES, CD_WORDS);
      const copies = heldContexts(held, first + i);
      const stale = copies.find((copy) => words === undefined || !same(copy.words, words));
      const valid = words !== undefined && load(words, 0, CD.V) === 1;
      if ((!valid && stale === undefined) || !this.#look.show()) continue;
      found[first + i] = {
        ...(valid ? viewContext(words, this.#features, this.#tlb) : { kind: 'invalid' }),
        cached: copyOf(copies[0], stale === undefined),
        ...(stale === undefined ? {} : { cachedAs: viewContext(stale.words, this.#features, this.#tlb) }),
      };
    }
  }

  #heldContexts(config: StreamConfig): Record<number, unknown> {
    const all = [...(config.context === undefined ? [] : [[0, config.context] as const]), ...config.contexts];
    const shown = all.filter(() => this.#look.show());
    return Object.fromEntries(shown.map(([id, c]) => [id, viewContext(c.words, this.#features, this.#tlb)]));
  }

  /** Words at a physical or, with stage 2, an intermediate address; undefined: nothing can be read there. */
  #contextWords(config: StreamConfig, at: number, count: number): Uint32Array | undefined {
    const pa = config.stage2 === undefined ? at : this.#walker.walk(config.stage2, at, WANT_READ);
    return pa < 0 ? undefined : this.#wordsIfThere(pa, count);
  }

  #wordsIfThere(pa: number, count: number): Uint32Array | undefined {
    return this.#ram.contains(pa, 4 * count) ? this.#words(pa, count) : undefined;
  }

  #words(pa: number, count: number): Uint32Array {
    const words = new Uint32Array(count);
    this.#ram.readBytes(pa, bytesOf(words));
    return words;
  }
}

function arrayOf({ span, l2Ptr }: Level1): { readonly L2Ptr: number; readonly streams: number } {
  return { L2Ptr: l2Ptr, streams: 2 ** (span - 1) };
}

function viewContext(words: Uint32Array, features: SmmuFeatures, tlb: Tlb): Record<string, unknown> {
  const half = (disabled: Slot, slots: Readonly<Record<string, Slot>>): Record<string, number> =>
    load(words, 0, disabled) === 1
      ? {}
      : Object.fromEntries(Object.entries(slots).map(([name, slot]) => [name, load(words, 0, slot)]));
  return {
    kind: decodeCd(words, features, 0, tlb).good ? 'good' : 'bad',
    ASID: load(words, 0, CD.ASID),
    IPS: load(words, 0, CD.IPS),
    ...half(CD.EPD0, { TTB0: CD.TTB0, T0SZ: CD.T0SZ, TG0: CD.TG0 }),
    ...half(CD.EPD1, { TTB1: CD.TTB1, T1SZ: CD.T1SZ, TG1: CD.TG1 }),
  };
}

/** Copies of the descriptor of a SubstreamID; transactions without any have one of their own. */
function heldContexts(held: StreamConfig | undefined, substreamId: number): ContextConfig[] {
  if (held === undefined) return [];
  return [substreamId === 0 ? held.context : undefined, held.contexts.get(substreamId)].filter((c) => c !== undefined);
}

function copyOf(copy: unknown, isSame: boolean): Copy {
  if (copy === undefined) return 'no';
  return isSame ? 'same' : 'stale';
}

function same(a: Words, b: Words): boolean {
  return a.length === b.length && a.every((word, i) => word === b[i]);
}
