/**
 * Entries of the command queue (16 bytes) and of the event queue (32 bytes) (IHI 0070, "Commands", "Event queue
 * recorded faults and events"), and the arithmetic of queue pointers. The hardware and Xen's driver both use it.
 */

import { dw, dwAddr, load, store, storeFields, type Words } from '#shared/regs/struct.ts';
import { type Address64, address64, highOf, lowOf } from '../../ids/address64.ts';

export const COMMAND_BYTES = 16;
export const COMMAND_WORDS = 4;
export const EVENT_BYTES = 32;
export const EVENT_WORDS = 8;

export const CMD = {
  CMD_PREFETCH_CONFIG: 0x01,
  CMD_PREFETCH_ADDR: 0x02,
  CMD_CFGI_STE: 0x03,
  /** With Range 31 it is CMD_CFGI_ALL. */
  CMD_CFGI_STE_RANGE: 0x04,
  CMD_CFGI_CD: 0x05,
  CMD_CFGI_CD_ALL: 0x06,
  CMD_CFGI_VMS_PIDM: 0x07,
  CMD_TLBI_NH_ALL: 0x10,
  CMD_TLBI_NH_ASID: 0x11,
  CMD_TLBI_NH_VA: 0x12,
  CMD_TLBI_NH_VAA: 0x13,
  CMD_TLBI_EL3_ALL: 0x18,
  CMD_TLBI_EL3_VA: 0x1a,
  CMD_TLBI_EL2_ALL: 0x20,
  CMD_TLBI_EL2_ASID: 0x21,
  CMD_TLBI_EL2_VA: 0x22,
  CMD_TLBI_EL2_VAA: 0x23,
  CMD_TLBI_S12_VMALL: 0x28,
  CMD_TLBI_S2_IPA: 0x2a,
  CMD_TLBI_NSNH_ALL: 0x30,
  CMD_ATC_INV: 0x40,
  CMD_PRI_RESP: 0x41,
  CMD_RESUME: 0x44,
  CMD_STALL_TERM: 0x45,
  CMD_SYNC: 0x46,
} as const;

export const COMMAND_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(CMD).map(([name, op]) => [op, name]));

/** Fields of commands; which ones count depends on the opcode. */
export const COMMAND = {
  opcode: dw(0, 7, 0),
  SSec: dw(0, 10),
  SSV: dw(0, 11),
  SubstreamID: dw(0, 31, 12),
  StreamID: dw(0, 63, 32),
  VMID: dw(0, 47, 32),
  ASID: dw(0, 63, 48),
  Leaf: dw(1, 0),
  Range: dw(1, 4, 0),
  Address: dwAddr(1, 51, 12),
  /** Range invalidation (SMMU_IDR3.RIL): (NUM + 1) * 2^SCALE granules of TG from the address. */
  NUM: dw(0, 16, 12),
  SCALE: dw(0, 24, 20),
  TTL: dw(1, 9, 8),
  /** 0: one address. 1 to 3: granules of 4, 16 and 64 KiB. */
  TG: dw(1, 11, 10),
  /** A virtual address [63:12] in two halves, the low one in place. */
  VaLow: dw(1, 31, 12),
  VaHigh: dw(1, 63, 32),
  /** CMD_SYNC: 0 nothing, 1 interrupt, 2 event, 3 illegal. */
  CS: dw(0, 13, 12),
  MSH: dw(0, 23, 22),
  MSIAttr: dw(0, 27, 24),
  MSIData: dw(0, 63, 32),
  MSIAddr: dwAddr(1, 51, 2),
} as const;

/** log2 of a granule by the TG of a command; 0: none. */
export const COMMAND_TG_SHIFT: readonly number[] = [0, 12, 14, 16];

export const SYNC_CS = { SIG_NONE: 0, SIG_IRQ: 1, SIG_SEV: 2 } as const;
export const CFGI_RANGE_ALL = 31;

/** Drops the entry of one stream; `leaf` false drops the level 1 descriptor above it too. */
export function encodeCfgiSte(streamId: number, leaf: boolean): Uint32Array {
  const words = command(CMD.CMD_CFGI_STE);
  store(words, 0, COMMAND.StreamID, streamId);
  store(words, 0, COMMAND.Leaf, leaf ? 1 : 0);
  return words;
}

/** Drops 2^(range + 1) entries from `streamId`, aligned down. */
export function encodeCfgiSteRange(streamId: number, range: number): Uint32Array {
  const words = command(CMD.CMD_CFGI_STE_RANGE);
  store(words, 0, COMMAND.StreamID, streamId);
  store(words, 0, COMMAND.Range, range);
  return words;
}

export function encodeCfgiAll(): Uint32Array {
  return encodeCfgiSteRange(0, CFGI_RANGE_ALL);
}

export function encodeTlbiS12Vmall(vmid: number): Uint32Array {
  const words = command(CMD.CMD_TLBI_S12_VMALL);
  store(words, 0, COMMAND.VMID, vmid);
  return words;
}

export function encodeTlbiS2Ipa(vmid: number, ipa: number, leaf: boolean, range?: TlbiRange): Uint32Array {
  return byAddress(CMD.CMD_TLBI_S2_IPA, { VMID: vmid }, ipa, leaf, range);
}

/** Drops the context descriptor of a substream; `leaf` false drops the level 1 descriptor above it too. */
export function encodeCfgiCd(streamId: number, substreamId: number, leaf: boolean): Uint32Array {
  const words = command(CMD.CMD_CFGI_CD);
  storeFields(words, 0, COMMAND, { StreamID: streamId, SubstreamID: substreamId, Leaf: leaf ? 1 : 0 });
  return words;
}

export function encodeCfgiCdAll(streamId: number): Uint32Array {
  const words = command(CMD.CMD_CFGI_CD_ALL);
  store(words, 0, COMMAND.StreamID, streamId);
  return words;
}

/** What stage 1 had a part in, of one VMID. */
export function encodeTlbiNhAll(vmid: number): Uint32Array {
  const words = command(CMD.CMD_TLBI_NH_ALL);
  store(words, 0, COMMAND.VMID, vmid);
  return words;
}

export function encodeTlbiNhAsid(vmid: number, asid: number): Uint32Array {
  const words = command(CMD.CMD_TLBI_NH_ASID);
  storeFields(words, 0, COMMAND, { VMID: vmid, ASID: asid });
  return words;
}

/** How much an invalidation by address covers, with SMMU_IDR3.RIL. */
export interface TlbiRange {
  /** log2 of the granule: 12, 14 or 16. */
  readonly granuleShift: number;
  readonly num: number;
  readonly scale: number;
  readonly ttl: number;
}

/** One virtual address of an ASID, or with `range` several; `leaf` leaves what lies above a leaf alone. */
export function encodeTlbiNhVa(vmid: number, asid: number, va: number, leaf: boolean, range?: TlbiRange): Uint32Array {
  return byAddress(CMD.CMD_TLBI_NH_VA, { VMID: vmid, ASID: asid }, va, leaf, range);
}

/** The same for every ASID. */
export function encodeTlbiNhVaa(vmid: number, va: number, leaf: boolean, range?: TlbiRange): Uint32Array {
  return byAddress(CMD.CMD_TLBI_NH_VAA, { VMID: vmid }, va, leaf, range);
}

function byAddress(
  opcode: number,
  ids: { readonly VMID: number; readonly ASID?: number },
  address: number,
  leaf: boolean,
  range: TlbiRange | undefined,
): Uint32Array {
  const words = command(opcode);
  storeFields(words, 0, COMMAND, { ...ids, Leaf: leaf ? 1 : 0 });
  if (range !== undefined) {
    const { granuleShift, num, scale, ttl } = range;
    storeFields(words, 0, COMMAND, { NUM: num, SCALE: scale, TTL: ttl, TG: (granuleShift - 10) / 2 });
  }
  store(words, 0, COMMAND.VaLow, Math.floor(address / 0x1000) % 0x10_0000);
  store(words, 0, COMMAND.VaHigh, Math.floor(address / 0x1_0000_0000));
  return words;
}

export function encodeTlbiNsnhAll(): Uint32Array {
  return command(CMD.CMD_TLBI_NSNH_ALL);
}

export function encodePrefetchConfig(streamId: number): Uint32Array {
  const words = command(CMD.CMD_PREFETCH_CONFIG);
  store(words, 0, COMMAND.StreamID, streamId);
  return words;
}

/** `cs` is one of SYNC_CS; with SIG_IRQ and `msi` the SMMU writes to memory instead of raising its wire. */
export function encodeSync(cs: number, msi?: { readonly address: number; readonly data: number }): Uint32Array {
  const words = command(CMD.CMD_SYNC);
  store(words, 0, COMMAND.CS, cs);
  if (msi !== undefined) storeFields(words, 0, COMMAND, { MSIAddr: msi.address, MSIData: msi.data });
  return words;
}

function command(opcode: number): Uint32Array {
  const words = new Uint32Array(COMMAND_WORDS);
  words[0] = opcode;
  return words;
}

export const EVT = {
  F_UUT: 0x01,
  C_BAD_STREAMID: 0x02,
  F_STE_FETCH: 0x03,
  C_BAD_STE: 0x04,
  F_BAD_ATS_TREQ: 0x05,
  F_STREAM_DISABLED: 0x06,
  F_TRANSL_FORBIDDEN: 0x07,
  C_BAD_SUBSTREAMID: 0x08,
  F_CD_FETCH: 0x09,
  C_BAD_CD: 0x0a,
  F_WALK_EABT: 0x0b,
  F_TRANSLATION: 0x10,
  F_ADDR_SIZE: 0x11,
  F_ACCESS: 0x12,
  F_PERMISSION: 0x13,
  F_TLB_CONFLICT: 0x20,
  F_CFG_CONFLICT: 0x21,
  E_PAGE_REQUEST: 0x24,
  F_VMS_FETCH: 0x25,
} as const;

export const EVENT_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(EVT).map(([name, code]) => [code, name]),
);

/** What was being translated: CLASS of an event. */
export const EVENT_CLASS = { CD: 0, TT: 1, IN: 2 } as const;

const EVENT = {
  code: dw(0, 7, 0),
  SSV: dw(0, 11),
  SubstreamID: dw(0, 31, 12),
  StreamID: dw(0, 63, 32),
  /** Always 0: nothing stalls. */
  STAG: dw(1, 15, 0),
  Stall: dw(1, 31),
  /** 0: what a device sends is unprivileged data. */
  PnU: dw(1, 33),
  InD: dw(1, 34),
  RnW: dw(1, 35),
  S2: dw(1, 39),
  CLASS: dw(1, 41, 40),
  /** Of CLASS TT: the walk was reading. */
  TTRnW: dw(1, 44),
  InputAddrLow: dw(2, 31, 0),
  InputAddrHigh: dw(2, 63, 32),
} as const;
/** The whole of DW3's [52:12] and [52:3]. */
const EVENT_IPA = dwAddr(3, 52, 12);
const EVENT_FETCH_ADDRESS = dwAddr(3, 52, 3);

export interface SmmuEvent {
  /** One of EVT. */
  readonly code: number;
  readonly streamId: number;
  /** Only for a transaction that had one (SSV). */
  readonly substreamId?: number;
  /** The address that the device put out; 0 where the record has none. */
  readonly inputAddress: Address64;
  /** True for a read of the device. */
  readonly isRead: boolean;
  /** True when stage 2 faulted. */
  readonly stage2: boolean;
  /** One of EVENT_CLASS: what was being translated. */
  readonly eventClass: number;
  /** F_TRANSLATION to F_PERMISSION at stage 2: the page of the IPA; else 0. */
  readonly ipa: number;
  /** F_STE_FETCH, F_CD_FETCH and F_WALK_EABT: the physical address whose read was aborted; else 0. */
  readonly fetchAddress: number;
}

/** The records that say no more than which stream it was: configuration that cannot be used. */
const ONLY_STREAM: ReadonlySet<number> = new Set([
  EVT.C_BAD_STREAMID,
  EVT.C_BAD_STE,
  EVT.C_BAD_SUBSTREAMID,
  EVT.C_BAD_CD,
]);
const FETCHES: ReadonlySet<number> = new Set([EVT.F_STE_FETCH, EVT.F_CD_FETCH, EVT.F_WALK_EABT]);

/** Writes a record of EVENT_WORDS words at word `at`; what the event's kind does not report is zero. */
export function encodeEvent(words: Words, at: number, event: SmmuEvent): void {
  const { code, substreamId } = event;
  words.fill(0, at, at + EVENT_WORDS);
  store(words, at, EVENT.code, code);
  store(words, at, EVENT.StreamID, event.streamId);
  if (substreamId !== undefined) {
    store(words, at, EVENT.SSV, 1);
    store(words, at, EVENT.SubstreamID, substreamId);
  }
  if (ONLY_STREAM.has(code) || code === EVT.F_STREAM_DISABLED) return;
  if (FETCHES.has(code)) store(words, at, EVENT_FETCH_ADDRESS, event.fetchAddress);
  if (code === EVT.F_STE_FETCH || code === EVT.F_CD_FETCH) return;
  store(words, at, EVENT.RnW, event.isRead ? 1 : 0);
  store(words, at, EVENT.S2, event.stage2 ? 1 : 0);
  store(words, at, EVENT.CLASS, event.eventClass);
  if (event.eventClass === EVENT_CLASS.TT) store(words, at, EVENT.TTRnW, 1);
  store(words, at, EVENT.InputAddrLow, lowOf(event.inputAddress));
  store(words, at, EVENT.InputAddrHigh, highOf(event.inputAddress));
  if (!FETCHES.has(code) && event.stage2) store(words, at, EVENT_IPA, event.ipa);
}

/** The record at word `at`. */
export function decodeEvent(words: Words, at: number): SmmuEvent {
  const code = load(words, at, EVENT.code);
  const fetch = FETCHES.has(code);
  return {
    code,
    streamId: load(words, at, EVENT.StreamID),
    ...(load(words, at, EVENT.SSV) === 1 ? { substreamId: load(words, at, EVENT.SubstreamID) } : {}),
    inputAddress: address64(load(words, at, EVENT.InputAddrHigh), load(words, at, EVENT.InputAddrLow)),
    isRead: load(words, at, EVENT.RnW) === 1,
    stage2: load(words, at, EVENT.S2) === 1,
    eventClass: load(words, at, EVENT.CLASS),
    ipa: fetch ? 0 : load(words, at, EVENT_IPA),
    fetchAddress: fetch ? load(words, at, EVENT_FETCH_ADDRESS) : 0,
  };
}

/** `F_TRANSLATION` and the like, or the code in hexadecimal. */
export function eventName(code: number): string {
  return EVENT_NAMES.get(code) ?? `0x${code.toString(16)}`;
}

export function commandName(opcode: number): string {
  return COMMAND_NAMES.get(opcode) ?? `0x${opcode.toString(16)}`;
}

/** Queue pointers keep an index in the low `log2size` bits and a wrap bit above it; further bits do not count. */
export function queueIndex(pointer: number, log2size: number): number {
  return pointer & ((1 << log2size) - 1);
}

export function queueEmpty(prod: number, cons: number, log2size: number): boolean {
  return ((prod ^ cons) & ((2 << log2size) - 1)) === 0;
}

/** Index equal and wrap different: every slot is in use. */
export function queueFull(prod: number, cons: number, log2size: number): boolean {
  return ((prod ^ cons) & ((2 << log2size) - 1)) === 1 << log2size;
}

/** The pointer one entry on. */
export function queueNext(pointer: number, log2size: number): number {
  return (pointer + 1) & ((2 << log2size) - 1);
}

/** Entries between `cons` and `prod`. */
export function queueUsed(prod: number, cons: number, log2size: number): number {
  return (prod - cons) & ((2 << log2size) - 1);
}
