/** What the implementers of the GIC and of an SMMUv3 may choose; a board file says it where it is not the default. */

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

/** Of every SMMUv3 of a board: fields of its identification registers, by name and value (IHI 0070, "SMMU_IDR0" and on). */
export interface SmmuV3Choices {
  readonly S1P: 0 | 1;
  readonly S2P: 0 | 1;
  /** 1: two-level stream tables too. */
  readonly ST_LEVEL: 0 | 1;
  /** Range invalidation; the part is an SMMUv3.2 then. */
  readonly RIL: 0 | 1;
  /** Index into ADDRESS_BITS, 0 to 5. */
  readonly OAS: number;
  /** 0 to 32. */
  readonly SIDSIZE: number;
  /** 0: no substreams; 20 at most. */
  readonly SSIDSIZE: number;
  readonly VMID16: 0 | 1;
  /** The SMMU's own interrupts can be writes. */
  readonly MSI: 0 | 1;
  readonly GRAN16K: 0 | 1;
  readonly GRAN64K: 0 | 1;
  /** Of the queues, log2 of the most entries: 0 to 19. */
  readonly CMDQS: number;
  readonly EVENTQS: number;
}

export interface BoardChoices {
  readonly gic?: Partial<GicChoices>;
  readonly its?: Partial<ItsChoices>;
  readonly smmu?: Partial<SmmuV3Choices>;
}
