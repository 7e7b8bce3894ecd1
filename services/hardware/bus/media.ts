/** What keeps contents beyond the machine's life, outside it: the file behind a disk. Its answers come later. */

/** Bytes to be written: `data`, or as many zeroes. */
export interface MediaPiece {
  readonly offset: number;
  readonly data: Uint8Array;
  readonly zeroes: number;
}

export interface MediaPort {
  /**
   * Writes pieces to a medium; with `sync` they and everything that was answered before are durable then. `done` is
   * called once, never within the call, and told whether it was done; after a failure any part of it may have been.
   * One request at a time for each medium.
   */
  write(medium: string, pieces: readonly MediaPiece[], sync: boolean, done: (ok: boolean) => void): void;
}
