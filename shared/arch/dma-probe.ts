/**
 * Register layout of `dma-probe`, our own endpoint: it does any DMA and raises any MSI-X vector that a driver asks
 * for. The registers stand at offset 0 of the function's first memory BAR that does not hold its MSI-X structures
 * there. All registers are 32 bits wide and take aligned 32-bit accesses; others read as zero and drop writes.
 */
export const DMA_PROBE = {
  /** RO. Always `DMA_PROBE_MAGIC`. */
  ID: 0x00,
  /** RO. 2. Version 1 ends with RAISE_ONE. */
  VERSION: 0x04,
  /** BUSY bit 0 (RO), DONE bit 1 (W1C), ERROR bit 2 (W1C): the last command met an abort. */
  STATUS: 0x08,
  /** RW. Source address of READ and COPY, a bus address (IOVA); of CHAIN: its descriptors. */
  SRC_LO: 0x10,
  SRC_HI: 0x14,
  /** RW. Destination address of WRITE, COPY and MESSAGE. */
  DST_LO: 0x18,
  DST_HI: 0x1c,
  /** RW. Bytes, a multiple of 4. */
  LENGTH_LO: 0x20,
  LENGTH_HI: 0x24,
  /** RW. Seed of the words that WRITE generates: word i is `dmaProbeWord(seed, i)`; the data of MESSAGE. */
  PATTERN: 0x28,
  /** RO. What READ summed up: `dmaProbeChecksum` over the words, in order. */
  CHECKSUM: 0x2c,
  /**
   * WO. Starts a command when not BUSY: OP [3:0]; IRQ bit 31: raise the vector in VECTOR when it is done.
   * Commands run in bursts; STATUS.BUSY falls when the last one is done or aborted.
   */
  COMMAND: 0x30,
  /** RW. The vector raised at completion. */
  VECTOR: 0x34,
  /** RO. Bus address of the access that was aborted last. */
  ERROR_LO: 0x38,
  ERROR_HI: 0x3c,
  /** RO. Accesses aborted since reset. */
  ABORTS: 0x40,
  /** WO. Raises vector n for each bit n, lowest first. */
  RAISE: 0x44,
  /** RO. MSI messages sent since reset. */
  MESSAGES: 0x48,
  /** WO. Raises the vector whose number is written (for vectors above 31). */
  RAISE_ONE: 0x4c,
  /** RW. How many descriptors (`DMA_PROBE_DESCRIPTOR`) a CHAIN runs. */
  COUNT: 0x50,
  /** RW. How its requests break the rules: `DMA_PROBE_MISBEHAVE`. Zero after a reset. */
  MISBEHAVE: 0x54,
  /** RW. [15:0]: the requester id that FORGE_RID puts in. */
  FORGED_RID: 0x58,
  /** RO. [15:0]: the requester id that the function has. */
  RID: 0x5c,
  /** RW. What CONFIG_POKE changes: offset [11:0], bytes [18:16] (1, 2 or 4). */
  CONFIG_AT: 0x60,
  /** RW. The value that it puts there, read-only bits too. */
  CONFIG_VALUE: 0x64,
  /** WO. Changes the function's own configuration space, as many nanoseconds from now as is written; 0: at once. */
  CONFIG_POKE: 0x68,
  /** W1C. Vectors (modulo 32) that were raised while neither MSI nor MSI-X was enabled. The pin is high while any is set. */
  INTERRUPTS: 0x6c,
  /** RO. A read of the first ends with a completer abort, a read of the second gets no completion. */
  ABORT_READ: 0x70,
  HANG_READ: 0x74,
} as const;

export const DMA_PROBE_MISBEHAVE = {
  /** Requests of commands, not of interrupts, carry FORGED_RID. */
  FORGE_RID: 1 << 0,
  /** A command goes on through any reset but power-on, and without Bus Master Enable of its function. */
  STUBBORN: 1 << 1,
  /** Address type of its requests, [5:4]: 0 untranslated, 1 translation request, 2 translated. */
  AT_SHIFT: 4,
  AT_MASK: 0x3,
} as const;

/** One descriptor of a CHAIN, little-endian in memory, 4-byte aligned. */
export const DMA_PROBE_DESCRIPTOR = {
  /** OP [3:0]: READ, WRITE, COPY or MESSAGE. The device sets DONE, and ERROR with it, when it has run. */
  CONTROL: 0x00,
  PATTERN: 0x04,
  SRC: 0x08,
  DST: 0x10,
  /** 32 bits. */
  LENGTH: 0x18,
  BYTES: 0x20,
  DONE: 0x8000_0000,
  ERROR: 0x4000_0000,
} as const;

export const DMA_PROBE_BYTES = 0x1000;
/** "PROB" in little-endian ASCII. */
export const DMA_PROBE_MAGIC = 0x424f5250;

export const DMA_PROBE_STATUS = { BUSY: 1 << 0, DONE: 1 << 1, ERROR: 1 << 2 } as const;

/** MESSAGE is one write of the four bytes of PATTERN, wherever and whatever. CHAIN runs descriptors. */
export const DMA_PROBE_OP = { READ: 1, WRITE: 2, COPY: 3, MESSAGE: 4, CHAIN: 5 } as const;
export const DMA_PROBE_COMMAND_IRQ = 0x8000_0000;

/** Word `index` (from 0) of the stream that WRITE generates, as an unsigned 32-bit number. */
export function dmaProbeWord(seed: number, index: number): number {
  return (Math.imul((seed + index) | 0, 0x9e3779b1) ^ seed) >>> 0;
}

/** Start value of the sum that READ leaves in CHECKSUM. */
export const DMA_PROBE_CHECKSUM_START = 0x811c9dc5;

/** The next sum after one more 32-bit word. */
export function dmaProbeChecksum(sum: number, word: number): number {
  return (Math.imul(sum, 0x01000193) + word) >>> 0;
}

const MULTIPLIER = 0x01000193;
const MULTIPLIER_2 = Math.imul(MULTIPLIER, MULTIPLIER);
const MULTIPLIER_3 = Math.imul(MULTIPLIER_2, MULTIPLIER);
const MULTIPLIER_4 = Math.imul(MULTIPLIER_2, MULTIPLIER_2);

// The same in bulk, on int32 views: one addition, multiplication and exclusive or a word.

/** Fills `words` with the stream of `seed` from word `first` on. */
export function dmaProbeFill(words: Int32Array, seed: number, first: number): void {
  const s = seed | 0;
  let x = (seed + first) | 0;
  for (let i = 0; i < words.length; i++) {
    words[i] = Math.imul(x, 0x9e3779b1) ^ s;
    x = (x + 1) | 0;
  }
}

/** How many of `words` are not the stream of `seed` from word `first` on. */
export function dmaProbeMismatches(words: Int32Array, seed: number, first: number): number {
  const s = seed | 0;
  let x = (seed + first) | 0;
  let wrong = 0;
  for (let i = 0; i < words.length; i++) {
    if (words[i] !== (Math.imul(x, 0x9e3779b1) ^ s)) wrong++;
    x = (x + 1) | 0;
  }
  return wrong;
}

/** The sum after all of `words`. */
export function dmaProbeSum(words: Int32Array, sum: number): number {
  let s = sum | 0;
  const whole = words.length & ~3;
  // Four words at a time with the powers of the multiplier: one multiplication waits for the one before, not four.
  for (let i = 0; i < whole; i += 4) {
    const a = Math.imul(words[i]!, MULTIPLIER_3) + Math.imul(words[i + 1]!, MULTIPLIER_2);
    const b = Math.imul(words[i + 2]!, MULTIPLIER) + words[i + 3]!;
    s = (Math.imul(s, MULTIPLIER_4) + ((a + b) | 0)) | 0;
  }
  for (let i = whole; i < words.length; i++) s = (Math.imul(s, MULTIPLIER) + words[i]!) | 0;
  return s >>> 0;
}
