/** What a machine is made of, in memory: what a board file (docs/reference/scenario.md) says, with its files read. */
import type { BoardChoices } from './choices.ts';

/** What stands behind the BARs of a function. */
export type FunctionModel = 'dma-probe' | 'inert' | 'nic' | 'nvme';

/** The namespaces of an `nvme`, and how many I/O queues of each kind it has. */
export interface NvmeOptions {
  readonly namespaces: readonly {
    readonly sizeBytes: number;
    /** 512 or 4096. */
    readonly blockBytes: number;
    /** The first bytes of it; zeroes follow. */
    readonly contents?: Uint8Array | undefined;
    /** The path of the file that has these contents and gets what is written; without one that stays in the machine. */
    readonly medium?: string | undefined;
    /** Nothing can be written. */
    readonly readOnly?: boolean | undefined;
  }[];
  /** 1 to 128. */
  readonly queues: number;
  /** At most 20 ASCII characters; the function's place when absent. */
  readonly serial?: string | undefined;
}

/** Where a `nic` is plugged in, and how many queues of each kind it has. */
export interface NicOptions {
  /** NICs of a board with the same name here reach each other. */
  readonly wire: string;
  /** Its permanent address, six bytes as a number, the first one highest; made of the function's place when absent. VF n has it plus n. */
  readonly mac?: number | undefined;
  /** 1 to 8. */
  readonly queues: number;
}

/** How a function falls short of what its dump promises. */
export interface FunctionQuirks {
  /** Nanoseconds after a reset before it answers again; Infinity: not before power-on. At once when absent. */
  readonly resetNs?: number;
  /** What a configuration read gets meanwhile: Request Retry Status (default), or nothing at all. */
  readonly notReady?: 'rrs' | 'all-ones';
  /** It has no Function Level Reset, neither in its Express nor in its AF capability. */
  readonly flr?: 'none';
}

export interface BoardFunction {
  /** Segment, bus, device and function as the board file places it, `dddd:bb:ss.f`. Bus numbers only say what hangs below which bridge. */
  readonly sbdf: number;
  /** Configuration space as dumped: 64, 256 or 4096 bytes. */
  readonly config: Uint8Array;
  readonly model: FunctionModel;
  /** Sizes in bytes by BAR index (0 to 5, 6 is the ROM, 7 to 12 are the VF BARs, each for one VF); a BAR without one gets the default of docs/reference/scenario.md. */
  readonly barSizes: ReadonlyMap<number, number>;
  /** For a bridge: the bus below it in the board file's numbering. */
  readonly secondaryBus: number | undefined;
  readonly quirks?: FunctionQuirks | undefined;
  /** Of a physical function: virtual functions that the firmware asks for in NumVFs, which dom0 enables as it boots. None when absent. */
  readonly vfs?: number | undefined;
  /** Of model `nvme`: defaults when absent (docs/reference/hardware/nvme.md). */
  readonly nvme?: NvmeOptions | undefined;
  /** Of model `nic`: defaults when absent (docs/reference/hardware/nic.md). */
  readonly nic?: NicOptions | undefined;
}

/** What a board may lack: an ITS (its functions have INTx only), or an SMMU in front of a bridge (DMA is untranslated). */
export type BoardLack = 'msi' | 'smmu';

export interface BoardDescription {
  /** A flattened device tree. */
  readonly dtb: Uint8Array;
  /** A board that lacks something else is refused. */
  readonly without?: readonly BoardLack[];
  readonly functions: readonly BoardFunction[];
  /** Where the parts are not the machine's defaults. */
  readonly choices?: BoardChoices | undefined;
}

/** The files that a machine of this board writes to, with what they held when the board was read. */
export function mediaOf(board: BoardDescription): { readonly medium: string; readonly contents: Uint8Array }[] {
  return board.functions
    .flatMap(({ nvme }) => nvme?.namespaces ?? [])
    .flatMap(({ medium, contents }) => (medium === undefined || contents === undefined ? [] : [{ medium, contents }]));
}
