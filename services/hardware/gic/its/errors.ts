/**
 * Why a command or a message went nowhere, and the architecture's code for it (IHI 0069, "ITS command errors"): 0x01,
 * the command, the kind. GICv3 has no register for the codes; the ITS shows the last ones in `inspect`.
 * MAPI onto an EventID below 8192 is its ID_OOR, for it has no PHYSICALID_OOR. CLEAR's byte is 05, not its opcode.
 */
import type { ItsCommandName } from '#shared/arch/gic/its-commands.ts';

export type ItsProblem =
  | 'its-disabled'
  | 'not-from-a-device'
  | 'no-device-id'
  | 'device-oor'
  | 'itt-size-oor'
  | 'unmapped-device'
  | 'id-oor'
  | 'unmapped-interrupt'
  | 'ite-invalid'
  | 'physical-id-oor'
  | 'collection-oor'
  | 'unmapped-collection'
  | 'procnum-oor'
  | 'no-memory'
  | 'lpi-not-accepted'
  | 'unknown-command';

const KIND: Readonly<Partial<Record<ItsProblem, number>>> = {
  'device-oor': 0x01,
  'itt-size-oor': 0x02,
  'procnum-oor': 0x02,
  'collection-oor': 0x03,
  'unmapped-device': 0x04,
  'id-oor': 0x05,
  'physical-id-oor': 0x06,
  'unmapped-interrupt': 0x07,
  'unmapped-collection': 0x09,
  'ite-invalid': 0x10,
};

const COMMAND: Readonly<Partial<Record<ItsCommandName, number>>> = {
  MOVI: 0x01,
  INT: 0x03,
  CLEAR: 0x05,
  MAPD: 0x08,
  MAPC: 0x09,
  MAPTI: 0x0a,
  MAPI: 0x0b,
  INV: 0x0c,
  INVALL: 0x0d,
  MOVALL: 0x0e,
  DISCARD: 0x0f,
};

/** The code, or 0 for what the architecture has none for. A message that a device sent counts as INT. */
export function itsErrorCode(command: ItsCommandName, problem: ItsProblem): number {
  const number = COMMAND[command];
  let kind = KIND[problem];
  if (number === undefined || kind === undefined) return 0;
  if (command === 'MOVALL') kind = 0x01;
  if (command === 'MAPI' && problem === 'physical-id-oor') kind = 0x05;
  return 0x01_0000 | (number << 8) | kind;
}

/** `0x010801`. */
export function formatItsErrorCode(code: number): string {
  return `0x${code.toString(16).padStart(6, '0')}`;
}
