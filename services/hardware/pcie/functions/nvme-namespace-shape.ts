/** What a board says of a namespace of an NVMe controller, and in what pieces it is kept. */

export const NVME_CHUNK_BYTES = 0x1_0000;

export interface NamespaceShape {
  readonly sizeBytes: number;
  /** 512 or 4096. */
  readonly blockBytes: number;
  /** The first bytes of the namespace; zeroes follow. */
  readonly contents?: Uint8Array | undefined;
  /** What is written goes there too, as the namespace's write cache sees fit; it has the contents, all of them. */
  readonly medium?: string | undefined;
  /** Writes end with Namespace is Write Protected. */
  readonly readOnly?: boolean | undefined;
}
