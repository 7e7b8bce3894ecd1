/**
 * The LPI tables in memory (IHI 0069, "LPI Configuration tables" and "LPI Pending tables"): one configuration byte
 * for each LPI, shared by all redistributors, and one pending bit for each INTID, one table a redistributor.
 */

/** INTIDs of LPIs start here. */
export const LPI_FIRST = 8192;
/** What ICC_IAR1_EL1 gives when nothing is there to take (IHI 0069, "Special INTIDs"). */
export const INTID_NONE = 1023;

/** A configuration byte. Bit 1 is RES1 in the layout software writes. */
export const LPI_CONFIG_Enable = 1;
export const LPI_CONFIG_RES1 = 2;
export const LPI_CONFIG_Priority_MASK = 0xfc;

/** Bytes of the configuration table for INTIDs of `idBits` bits. */
export function lpiConfigTableBytes(idBits: number): number {
  return 2 ** idBits - LPI_FIRST;
}

/** Bytes of a pending table for INTIDs of `idBits` bits: its first 1 KiB stands for INTIDs that are no LPIs. */
export function lpiPendingTableBytes(idBits: number): number {
  return 2 ** idBits / 8;
}

export function encodeLpiConfig(priority: number, enabled: boolean): number {
  return (priority & LPI_CONFIG_Priority_MASK) | LPI_CONFIG_RES1 | (enabled ? LPI_CONFIG_Enable : 0);
}

/** Address of the configuration byte of `lpi`. */
export function lpiConfigAddress(tablePa: number, lpi: number): number {
  return tablePa + (lpi - LPI_FIRST);
}
