/** What a machine is made of, in memory: what a board file (docs/reference/scenario.md) says, with its files read. */

/** What stands behind the BARs of a function. */
export type FunctionModel = 'dma-probe' | 'inert';

export interface BoardFunction {
  /** Segment, bus, device and function as the board file places it, `dddd:bb:ss.f`. Bus numbers only say what hangs below which bridge. */
  readonly sbdf: number;
  /** Configuration space as dumped: 64, 256 or 4096 bytes. */
  readonly config: Uint8Array;
  readonly model: FunctionModel;
  /** Sizes in bytes by BAR index (0 to 5, 6 is the ROM); a BAR without one gets the default of docs/reference/scenario.md. */
  readonly barSizes: ReadonlyMap<number, number>;
  /** For a bridge: the bus below it in the board file's numbering. */
  readonly secondaryBus: number | undefined;
}

export interface BoardDescription {
  /** A flattened device tree. */
  readonly dtb: Uint8Array;
  readonly functions: readonly BoardFunction[];
}
