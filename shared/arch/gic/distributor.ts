/**
 * The distributor's register file (IHI 0069, "Distributor registers"): offsets and fields. No behaviour.
 * CTLR is the view of a GIC with a single security state (DS=1), which is the only one here.
 */
export const GICD_SIZE_BYTES = 0x1_0000;

export const GICD_CTLR = 0x0000;
export const GICD_TYPER = 0x0004;
export const GICD_IIDR = 0x0008;
export const GICD_TYPER2 = 0x000c;
/** One bit an interrupt: register n holds interrupts 32n to 32n+31, at `base + 4 * n`. */
export const GICD_IGROUPR = 0x0080;
export const GICD_ISENABLER = 0x0100;
export const GICD_ICENABLER = 0x0180;
export const GICD_ISPENDR = 0x0200;
export const GICD_ICPENDR = 0x0280;
export const GICD_ISACTIVER = 0x0300;
export const GICD_ICACTIVER = 0x0380;
/** One byte an interrupt. */
export const GICD_IPRIORITYR = 0x0400;
export const GICD_ITARGETSR = 0x0800;
/** Two bits an interrupt; the upper one is 1 for edge. */
export const GICD_ICFGR = 0x0c00;
export const GICD_IGRPMODR = 0x0d00;
/** Eight bytes an interrupt, from interrupt 32: `GICD_IROUTER + 8 * intid`. */
export const GICD_IROUTER = 0x6000;
export const GICD_PIDR2 = 0xffe8;

export const GICD_CTLR_EnableGrp0 = 1 << 0;
export const GICD_CTLR_EnableGrp1 = 1 << 1;
export const GICD_CTLR_ARE = 1 << 4;
export const GICD_CTLR_DS = 1 << 6;
export const GICD_CTLR_RWP = 0x8000_0000;

export const GICD_TYPER_ITLinesNumber_MASK = 0x1f;
export const GICD_TYPER_LPIS = 1 << 17;
export const GICD_TYPER_A3V = 1 << 24;

/** GICD_IROUTERn.IRM: any participating PE. */
export const GICD_IROUTER_IRM = 0x8000_0000;

/** INTIDs of SPIs. */
export const SPI_FIRST = 32;
export const SPI_LAST = 1019;

/** GICD_TYPER for `lines` interrupts (a multiple of 32) and INTIDs of `idBits` bits, with LPIs. */
export function encodeGicdTyper(t: { readonly lines: number; readonly idBits: number }): number {
  return ((t.lines / 32 - 1) | GICD_TYPER_LPIS | ((t.idBits - 1) << 19) | GICD_TYPER_A3V) >>> 0;
}

export function decodeGicdTyper(value: number): { lines: number; idBits: number; lpis: boolean } {
  return {
    lines: 32 * ((value & GICD_TYPER_ITLinesNumber_MASK) + 1),
    idBits: ((value >>> 19) & 0x1f) + 1,
    lpis: (value & GICD_TYPER_LPIS) !== 0,
  };
}
