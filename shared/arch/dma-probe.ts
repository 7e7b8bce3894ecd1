/**
 * Register layout of `dma-probe`, our own endpoint: it does any DMA and raises any MSI-X vector that a driver asks
 * for. The registers stand at offset 0 of the function's first memory BAR that does not hold its MSI-X structures
 * there. All registers are 32 bits wide and take aligned 32-bit accesses; others read as zero and drop writes.
 */
export const DMA_PROBE = {
  /** RO. Always `DMA_PROBE_MAGIC`. */
  ID: 0x00,
  /** RO. 1. */
  VERSION: 0x04,
  /** BUSY bit 0 (RO), DONE bit 1 (W1C), ERROR bit 2 (W1C): the last command met an abort. */
  STATUS: 0x08,
  /** RW. Source address of READ and COPY, a bus address (IOVA). */
  SRC_LO: 0x10,
  SRC_HI: 0x14,
  /** RW. Destination address of WRITE and COPY. */
  DST_LO: 0x18,
  DST_HI: 0x1c,
  /** RW. Bytes, a multiple of 4. */
  LENGTH_LO: 0x20,
  LENGTH_HI: 0x24,
  /** RW. Seed of the words that WRITE generates: word i is `dmaProbeWord(seed, i)`. */
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
} as const;

export const DMA_PROBE_BYTES = 0x1000;
/** "PROB" in little-endian ASCII. */
export const DMA_PROBE_MAGIC = 0x424f5250;

export const DMA_PROBE_STATUS = { BUSY: 1 << 0, DONE: 1 << 1, ERROR: 1 << 2 } as const;

export const DMA_PROBE_OP = { READ: 1, WRITE: 2, COPY: 3 } as const;
export const DMA_PROBE_COMMAND_IRQ = 0x8000_0000;

/** Word `index` (from 0) of the stream that WRITE generates, as an unsigned 32-bit number. */
export function dmaProbeWord(seed: number, index: number): number {
  return (Math.imul((seed + index) | 0, 0x9e3779b1) ^ seed) >>> 0;
}

/** Start value of the sum that READ leaves in CHECKSUM. */
export const DMA_PROBE_CHECKSUM_START = 0x811c9dc5;

/** The next sum after one more 32-bit word. */
export function dmaProbeChecksum(sum: number, word: number): number {
  return Math.imul(sum ^ word, 0x01000193) >>> 0;
}

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
  for (let i = 0; i < words.length; i++) s = Math.imul(s ^ words[i]!, 0x01000193);
  return s >>> 0;
}
