/**
 * The blocks of an NVMe namespace, held in memory in chunks that come to be when they are written.
 * A namespace may start with given contents; they are copied chunk by chunk as they are written, and never changed. One
 * that has a medium tells its write cache what has to get there; it is read once, when the board is, so all reads come
 * out of memory.
 * A saved state has what a namespace without a medium holds, and of one with a medium only what may not have got there:
 * the medium has to be as it was, which a checksum of the whole says.
 * Not modelled: metadata, end-to-end protection and more than one format; Identify says so.
 */
import type { MediaPort } from '../../bus/media.ts';
import { SavedStateError } from '../../state/saved.ts';
import { NvmeWriteCache } from './nvme-cache.ts';
import { type NamespaceShape, NVME_CHUNK_BYTES } from './nvme-namespace-shape.ts';

interface SavedCache {
  /** Chunk, and its pages of 4 KiB as bits. */
  readonly pages: [number, number][];
  readonly chunks: [number, Uint8Array | null][];
  readonly checksum: number;
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
  /** Between these blocks and their medium; undefined for a namespace that has none. */
  readonly cache: NvmeWriteCache | undefined;
  readonly readOnly: boolean;
  #used: number;

  constructor({ sizeBytes, blockBytes, contents, medium, readOnly }: NamespaceShape, media: MediaPort) {
    this.blockBytes = blockBytes;
    this.blocks = Math.floor(sizeBytes / blockBytes);
    this.#contents = (contents ?? ZEROES.subarray(0, 0)).subarray(0, this.blocks * blockBytes);
    this.#contentChunks = Math.ceil(this.#contents.length / NVME_CHUNK_BYTES);
    this.#used = this.#contentChunks;
    this.readOnly = readOnly === true;
    const cached = { bytes: this.blocks * blockBytes, chunk: (index: number) => this.#chunk(index) };
    this.cache = medium === undefined ? undefined : new NvmeWriteCache(cached, medium, media);
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
    const end = Math.min(NVME_CHUNK_BYTES, offset + bytes);
    this.cache?.mark(at, end - offset);
    return chunk.subarray(offset, end);
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
          this.cache?.mark(at + done, part);
          if (index < this.#contentChunks) this.#chunks.set(index, null);
          else this.#chunks.delete(index);
        } else this.writable(at + done, part).fill(0);
      }
      done += part;
    }
  }

  save(): unknown {
    if (this.cache === undefined) return [...this.#chunks].map(([index, chunk]) => [index, chunk?.slice() ?? null]);
    const pages = this.cache.pages();
    const chunks = pages.map(([index]) => [index, this.#chunk(index)?.slice() ?? null]);
    return { pages, chunks, checksum: this.#checksum() };
  }

  /** Throws SavedStateError for chunks beyond the end, and for a medium that is not as it was. */
  load(state: unknown): void {
    if (Array.isArray(state) !== (this.cache === undefined))
      throw new SavedStateError('nvme: the saved namespace was kept on another kind of medium');
    if (this.cache === undefined) {
      this.#loadChunks(state as [number, Uint8Array | null][]);
      return;
    }
    const { pages, chunks, checksum } = state as SavedCache;
    this.#loadChunks(chunks);
    if (this.#checksum() !== checksum)
      throw new SavedStateError('nvme: the file of a namespace is not as it was when the state was saved');
    this.cache.load(pages);
  }

  #loadChunks(chunks: readonly (readonly [number, Uint8Array | null])[]): void {
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

  /** FNV-1a over the words of all blocks. */
  #checksum(): number {
    let hash = 0x811c_9dc5;
    const bytes = this.blocks * this.blockBytes;
    for (let at = 0; at < bytes; at += NVME_CHUNK_BYTES) {
      const chunk = this.view(at, Math.min(NVME_CHUNK_BYTES, bytes - at));
      const aligned = chunk.byteOffset % 4 === 0 ? chunk : chunk.slice();
      const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
      for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words[i]!, 0x0100_0193);
    }
    return hash >>> 0;
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
