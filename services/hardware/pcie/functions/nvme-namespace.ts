/**
 * The blocks of an NVMe namespace, held in memory in chunks that come to be when they are written.
 * A namespace may start with given contents; they are copied chunk by chunk as they are written, and never changed.
 * Not modelled: metadata, end-to-end protection and more than one format; Identify says so. What is written is not
 * taken back to the file that the contents came from; it lives as long as the machine (and in its saved state).
 */
import { SavedStateError } from '../../state/saved.ts';

export const NVME_CHUNK_BYTES = 0x1_0000;

export interface NamespaceShape {
  readonly sizeBytes: number;
  /** 512 or 4096. */
  readonly blockBytes: number;
  /** The first bytes of the namespace; zeroes follow. */
  readonly contents?: Uint8Array | undefined;
}

/** Read in place of a chunk that is not there. Nobody writes it. */
const ZEROES = new Uint8Array(NVME_CHUNK_BYTES);

export class NvmeNamespace {
  readonly blockBytes: number;
  readonly blocks: number;
  /** Chunks that differ from the contents; null for one that was deallocated. */
  readonly #chunks = new Map<number, Uint8Array | null>();
  readonly #contents: Uint8Array;
  readonly #contentChunks: number;
  #used: number;

  constructor({ sizeBytes, blockBytes, contents }: NamespaceShape) {
    this.blockBytes = blockBytes;
    this.blocks = Math.floor(sizeBytes / blockBytes);
    this.#contents = (contents ?? ZEROES.subarray(0, 0)).subarray(0, this.blocks * blockBytes);
    this.#contentChunks = Math.ceil(this.#contents.length / NVME_CHUNK_BYTES);
    this.#used = this.#contentChunks;
  }

  /** Blocks that are backed: whole chunks count (NUSE). */
  get blocksUsed(): number {
    return Math.min(this.blocks, this.#used * (NVME_CHUNK_BYTES / this.blockBytes));
  }

  /** The stored bytes at `at`, as far as they lie together: `bytes` of them or fewer. To be read only. */
  view(at: number, bytes: number): Uint8Array {
    const index = Math.floor(at / NVME_CHUNK_BYTES);
    const offset = at % NVME_CHUNK_BYTES;
    const end = Math.min(NVME_CHUNK_BYTES, offset + bytes);
    return (this.#chunk(index) ?? ZEROES).subarray(offset, end);
  }

  /** The same, to be written over. */
  writable(at: number, bytes: number): Uint8Array {
    const index = Math.floor(at / NVME_CHUNK_BYTES);
    const offset = at % NVME_CHUNK_BYTES;
    let chunk = this.#chunks.get(index);
    if (chunk === undefined || chunk === null) {
      const fresh = new Uint8Array(NVME_CHUNK_BYTES);
      if (chunk === undefined && index < this.#contentChunks) fresh.set(this.#content(index));
      else this.#used++;
      this.#chunks.set(index, fresh);
      chunk = fresh;
    }
    return chunk.subarray(offset, Math.min(NVME_CHUNK_BYTES, offset + bytes));
  }

  /** The bytes read as zeroes from now on; chunks that lie inside whole give their memory back. */
  deallocate(at: number, bytes: number): void {
    for (let done = 0; done < bytes; ) {
      const index = Math.floor((at + done) / NVME_CHUNK_BYTES);
      const offset = (at + done) % NVME_CHUNK_BYTES;
      const part = Math.min(NVME_CHUNK_BYTES - offset, bytes - done);
      if (this.#chunk(index) !== undefined) {
        if (part === NVME_CHUNK_BYTES) {
          this.#used--;
          if (index < this.#contentChunks) this.#chunks.set(index, null);
          else this.#chunks.delete(index);
        } else this.writable(at + done, part).fill(0);
      }
      done += part;
    }
  }

  save(): unknown {
    return [...this.#chunks].map(([index, chunk]) => [index, chunk?.slice() ?? null]);
  }

  /** Throws SavedStateError for chunks beyond the end. */
  load(state: unknown): void {
    const chunks = state as [number, Uint8Array | null][];
    const last = Math.ceil((this.blocks * this.blockBytes) / NVME_CHUNK_BYTES);
    this.#chunks.clear();
    this.#used = this.#contentChunks;
    for (const [index, chunk] of chunks) {
      if (index >= last || (chunk !== null && chunk.length !== NVME_CHUNK_BYTES))
        throw new SavedStateError(`nvme: a saved chunk lies at ${index} of a namespace of ${last} chunks`);
      this.#chunks.set(index, chunk === null ? null : new Uint8Array(chunk));
      if (chunk === null) this.#used--;
      else if (index >= this.#contentChunks) this.#used++;
    }
  }

  #chunk(index: number): Uint8Array | undefined {
    const chunk = this.#chunks.get(index);
    if (chunk !== undefined) return chunk ?? undefined;
    if (index >= this.#contentChunks) return undefined;
    const content = this.#content(index);
    // The last piece of the contents may end inside a chunk; what follows it is zeroes.
    if (content.length === NVME_CHUNK_BYTES) return content;
    const whole = new Uint8Array(NVME_CHUNK_BYTES);
    whole.set(content);
    this.#chunks.set(index, whole);
    return whole;
  }

  #content(index: number): Uint8Array {
    return this.#contents.subarray(index * NVME_CHUNK_BYTES, (index + 1) * NVME_CHUNK_BYTES);
  }
}
