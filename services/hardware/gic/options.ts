/** The choices of the GIC's implementer (shared/board/choices.ts): the defaults, and what goes together. */
import type { GicChoices, ItsChoices } from '#shared/board/choices.ts';
import { BoardError } from '../board.ts';

export type { GicChoices, ItsChoices } from '#shared/board/choices.ts';

export const GIC_CHOICES: GicChoices = { idBits: 16, directLpi: false };

export const ITS_CHOICES: ItsChoices = {
  eventIdBits: 16,
  deviceIdBits: 16,
  collectionIdBits: 16,
  PTA: false,
  ittEntryBytes: 8,
  indirect: true,
  pageBytes: [0x1_0000, 0x4000, 0x1000],
  onError: 'ignore',
};

/** The defaults with `chosen` over them. Throws BoardError for what the registers cannot say. */
export function gicChoices(chosen: Partial<GicChoices> = {}): GicChoices {
  const all = { ...GIC_CHOICES, ...chosen };
  if (!within(all.idBits, 14, 24))
    throw new BoardError(`a GIC with ${all.idBits} bits of INTID; 14 to 24 are possible`);
  return all;
}

/** The defaults with `chosen` over them, for a GIC of `idBits`. Throws BoardError for what cannot be said or kept. */
export function itsChoices(chosen: Partial<ItsChoices>, idBits: number): ItsChoices {
  const all = { ...ITS_CHOICES, ...chosen };
  for (const bits of [all.eventIdBits, all.deviceIdBits]) {
    if (!within(bits, 8, 32))
      throw new BoardError(`an ITS with ${bits} bits of EventID or DeviceID; 8 to 32 are possible`);
  }
  if (!within(all.collectionIdBits, 1, 16))
    throw new BoardError(`an ITS with ${all.collectionIdBits} bits of ICID; 1 to 16 are possible`);
  if (all.ittEntryBytes === 4 && (idBits > 16 || all.collectionIdBits > 15))
    throw new BoardError('an ITS with entries of 4 bytes holds INTIDs of 16 bits and ICIDs of 15 at most');
  if (all.pageBytes.length === 0) throw new BoardError('an ITS without a page size');
  return all;
}

function within(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}
