/** What an implementer of the interrupt controller may choose; a board file says it where it is not the default. */

export interface GicChoices {
  /** Bits of an INTID, LPIs included (GICD_TYPER.IDbits): 14 to 24. */
  readonly idBits: number;
  /** GICR_TYPER.DirectLPI: GICR_SETLPIR, GICR_CLRLPIR, GICR_INVLPIR, GICR_INVALLR and GICR_SYNCR exist. */
  readonly directLpi: boolean;
}

export type ItsPageBytes = 0x1000 | 0x4000 | 0x1_0000;

/** Of every ITS of a board. */
export interface ItsChoices {
  /** GITS_TYPER.ID_bits and Devbits, as numbers of bits: 8 to 32. */
  readonly eventIdBits: number;
  readonly deviceIdBits: number;
  /** Bits of an ICID; below 16 GITS_TYPER.CIL is set. 1 to 16. */
  readonly collectionIdBits: number;
  /** GITS_TYPER.PTA: RDbase is the address of a redistributor, not its number. */
  readonly PTA: boolean;
  /** GITS_TYPER.ITT_entry_size. With 4, INTIDs have 16 bits and ICIDs 15 at most. */
  readonly ittEntryBytes: 4 | 8 | 12;
  /** GITS_BASERn.Indirect can be set. */
  readonly indirect: boolean;
  /** What GITS_BASERn.Page_Size can be; another one reads back as the first. */
  readonly pageBytes: readonly ItsPageBytes[];
  /** What a command with an architected error does: it is skipped, or the queue stops at it (GITS_CREADR.Stalled). */
  readonly onError: 'ignore' | 'stall';
}

export interface BoardChoices {
  readonly gic?: Partial<GicChoices>;
  readonly its?: Partial<ItsChoices>;
}
