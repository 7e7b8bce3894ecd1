/**
 * The commands of an ITS: 32 bytes each, little-endian, as eight 32-bit words (IHI 0069, "ITS commands").
 * Encoders for drivers, one decoder for whoever plays the ITS. No behaviour and no checks beyond the field widths.
 * Not modelled: the commands of GICv4; they decode as `unknown`.
 */
import { addressHigh, addressLow } from './its.ts';

export const ITS_COMMAND_BYTES = 32;
export const ITS_COMMAND_WORDS = 8;

/** DW0[7:0]. */
export const ITS_OPCODE = {
  MOVI: 0x01,
  INT: 0x03,
  CLEAR: 0x04,
  SYNC: 0x05,
  MAPD: 0x08,
  MAPC: 0x09,
  MAPTI: 0x0a,
  MAPI: 0x0b,
  INV: 0x0c,
  INVALL: 0x0d,
  MOVALL: 0x0e,
  DISCARD: 0x0f,
} as const;

/**
 * `rdbase` is the field RDbase[51:16] as a number: with GITS_TYPER.PTA=0 GICR_TYPER.Processor_Number,
 * with PTA=1 the physical address of the RD frame divided by 64 KiB.
 */
export interface Mapd {
  readonly deviceId: number;
  /** The Size field: EventID bits minus one. */
  readonly size: number;
  /** Physical address, 256-byte aligned. */
  readonly ittAddress: number;
  readonly valid: boolean;
}
export interface Mapc {
  readonly icid: number;
  readonly rdbase: number;
  readonly valid: boolean;
}
export interface Mapti {
  readonly deviceId: number;
  readonly eventId: number;
  readonly pIntid: number;
  readonly icid: number;
}
/** MAPI (pINTID = EventID) and MOVI. */
export interface EventToCollection {
  readonly deviceId: number;
  readonly eventId: number;
  readonly icid: number;
}
/** INT, CLEAR, INV and DISCARD. */
export interface EventOfDevice {
  readonly deviceId: number;
  readonly eventId: number;
}

export type ItsCommand =
  | ({ readonly name: 'MAPD' } & Mapd)
  | ({ readonly name: 'MAPC' } & Mapc)
  | ({ readonly name: 'MAPTI' } & Mapti)
  | ({ readonly name: 'MAPI' | 'MOVI' } & EventToCollection)
  | ({ readonly name: 'INT' | 'CLEAR' | 'INV' | 'DISCARD' } & EventOfDevice)
  | { readonly name: 'INVALL'; readonly icid: number }
  | { readonly name: 'SYNC'; readonly rdbase: number }
  | { readonly name: 'MOVALL'; readonly rdbase1: number; readonly rdbase2: number }
  | { readonly name: 'unknown'; readonly opcode: number };

export type ItsCommandName = ItsCommand['name'];

export function encodeMapd(c: Mapd): Uint32Array {
  const words = command(ITS_OPCODE.MAPD, c.deviceId);
  words[2] = c.size & 0x1f;
  words[4] = addressLow(c.ittAddress) & 0xffff_ff00;
  words[5] = (addressHigh(c.ittAddress) & 0x000f_ffff) | (c.valid ? 0x8000_0000 : 0);
  return words;
}

export function encodeMapc(c: Mapc): Uint32Array {
  const words = command(ITS_OPCODE.MAPC, 0);
  words[4] = (c.icid & 0xffff) | ((c.rdbase & 0xffff) << 16);
  words[5] = rdbaseHigh(c.rdbase) | (c.valid ? 0x8000_0000 : 0);
  return words;
}

export function encodeMapti(c: Mapti): Uint32Array {
  const words = command(ITS_OPCODE.MAPTI, c.deviceId);
  words[2] = c.eventId;
  words[3] = c.pIntid;
  words[4] = c.icid & 0xffff;
  return words;
}

export function encodeMapi(c: EventToCollection): Uint32Array {
  return eventToCollection(ITS_OPCODE.MAPI, c);
}

export function encodeMovi(c: EventToCollection): Uint32Array {
  return eventToCollection(ITS_OPCODE.MOVI, c);
}

export function encodeInt(c: EventOfDevice): Uint32Array {
  return eventOfDevice(ITS_OPCODE.INT, c);
}

export function encodeClear(c: EventOfDevice): Uint32Array {
  return eventOfDevice(ITS_OPCODE.CLEAR, c);
}

export function encodeInv(c: EventOfDevice): Uint32Array {
  return eventOfDevice(ITS_OPCODE.INV, c);
}

export function encodeDiscard(c: EventOfDevice): Uint32Array {
  return eventOfDevice(ITS_OPCODE.DISCARD, c);
}

export function encodeInvall(c: { readonly icid: number }): Uint32Array {
  const words = command(ITS_OPCODE.INVALL, 0);
  words[4] = c.icid & 0xffff;
  return words;
}

export function encodeSync(c: { readonly rdbase: number }): Uint32Array {
  const words = command(ITS_OPCODE.SYNC, 0);
  words[4] = (c.rdbase & 0xffff) << 16;
  words[5] = rdbaseHigh(c.rdbase);
  return words;
}

export function encodeMovall(c: { readonly rdbase1: number; readonly rdbase2: number }): Uint32Array {
  const words = command(ITS_OPCODE.MOVALL, 0);
  words[4] = (c.rdbase1 & 0xffff) << 16;
  words[5] = rdbaseHigh(c.rdbase1);
  words[6] = (c.rdbase2 & 0xffff) << 16;
  words[7] = rdbaseHigh(c.rdbase2);
  return words;
}

/** Decodes the eight words at `at`. Bits outside the fields are ignored; an opcode that is none of the list is `unknown`. */
export function decodeItsCommand(words: ArrayLike<number>, at = 0): ItsCommand {
  const opcode = words[at]! & 0xff;
  const deviceId = words[at + 1]! >>> 0;
  const eventId = words[at + 2]! >>> 0;
  const icid = words[at + 4]! & 0xffff;
  switch (opcode) {
    case ITS_OPCODE.MAPD:
      return {
        name: 'MAPD',
        deviceId,
        size: eventId & 0x1f,
        ittAddress: (words[at + 5]! & 0x000f_ffff) * 0x1_0000_0000 + ((words[at + 4]! & 0xffff_ff00) >>> 0),
        valid: words[at + 5]! >>> 31 === 1,
      };
    case ITS_OPCODE.MAPC:
      return { name: 'MAPC', icid, rdbase: rdbase(words, at + 4), valid: words[at + 5]! >>> 31 === 1 };
    case ITS_OPCODE.MAPTI:
      return { name: 'MAPTI', deviceId, eventId, pIntid: words[at + 3]! >>> 0, icid };
    case ITS_OPCODE.MAPI:
      return { name: 'MAPI', deviceId, eventId, icid };
    case ITS_OPCODE.MOVI:
      return { name: 'MOVI', deviceId, eventId, icid };
    case ITS_OPCODE.INT:
      return { name: 'INT', deviceId, eventId };
    case ITS_OPCODE.CLEAR:
      return { name: 'CLEAR', deviceId, eventId };
    case ITS_OPCODE.INV:
      return { name: 'INV', deviceId, eventId };
    case ITS_OPCODE.DISCARD:
      return { name: 'DISCARD', deviceId, eventId };
    case ITS_OPCODE.INVALL:
      return { name: 'INVALL', icid };
    case ITS_OPCODE.SYNC:
      return { name: 'SYNC', rdbase: rdbase(words, at + 4) };
    case ITS_OPCODE.MOVALL:
      return { name: 'MOVALL', rdbase1: rdbase(words, at + 4), rdbase2: rdbase(words, at + 6) };
    default:
      return { name: 'unknown', opcode };
  }
}

/** Commands one after another as the bytes of a queue, little-endian. */
export function itsCommandBytes(commands: readonly Uint32Array[]): Uint8Array {
  const bytes = new Uint8Array(commands.length * ITS_COMMAND_BYTES);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const words of commands) {
    for (let i = 0; i < ITS_COMMAND_WORDS; i++, at += 4) view.setUint32(at, words[i]!, true);
  }
  return bytes;
}

/** The eight words of the command at byte `at` of a queue's bytes. */
export function itsCommandWords(bytes: Uint8Array, at = 0): Uint32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const words = new Uint32Array(ITS_COMMAND_WORDS);
  for (let i = 0; i < ITS_COMMAND_WORDS; i++) words[i] = view.getUint32(at + 4 * i, true);
  return words;
}

/** One line for a person: `MAPTI deviceId=0x8 eventId=0x0 pIntid=0x2000 icid=0x0`. */
export function formatItsCommand(c: ItsCommand): string {
  const fields = Object.entries(c)
    .filter(([key]) => key !== 'name')
    .map(([key, value]) => `${key}=${typeof value === 'number' ? `0x${value.toString(16)}` : String(value)}`);
  return [c.name, ...fields].join(' ');
}

function command(opcode: number, deviceId: number): Uint32Array {
  const words = new Uint32Array(ITS_COMMAND_WORDS);
  words[0] = opcode;
  words[1] = deviceId;
  return words;
}

function eventToCollection(opcode: number, c: EventToCollection): Uint32Array {
  const words = command(opcode, c.deviceId);
  words[2] = c.eventId;
  words[4] = c.icid & 0xffff;
  return words;
}

function eventOfDevice(opcode: number, c: EventOfDevice): Uint32Array {
  const words = command(opcode, c.deviceId);
  words[2] = c.eventId;
  return words;
}

function rdbaseHigh(value: number): number {
  return Math.floor(value / 0x1_0000) & 0x000f_ffff;
}

function rdbase(words: ArrayLike<number>, low: number): number {
  return (words[low + 1]! & 0x000f_ffff) * 0x1_0000 + (words[low]! >>> 16);
}
