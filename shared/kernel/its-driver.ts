/**
 * An ITS as a driver sees it: probe, tables, command queue (IHI 0069, "The ITS"; the order of steps follows
 * xen/arch/arm/gic-v3-its.c). Used by the hypervisor for a machine's ITS and by a guest for its virtual one.
 * A device table of more than 1 MiB is made of two levels where the ITS takes that (Linux, its_parse_indirect_baser);
 * its pages come when a device needs them. An ITS that does not gets at most 256 pages, and higher DeviceIDs fail.
 * Not modelled: GITS_CWRITER.Retry; a stalled queue shows as an ItsError.
 */
import {
  addressHigh,
  addressLow,
  decodeGitsBaser,
  decodeGitsCbaser,
  decodeGitsTyper,
  encodeGitsBaser,
  encodeGitsCbaser,
  GIC_CACHE,
  GIC_PIDR2_ArchRev_GICv3,
  GIC_PIDR2_ArchRev_MASK,
  GIC_SHAREABILITY,
  GITS_BASER,
  GITS_BASER_COUNT,
  GITS_BASER_TYPE,
  GITS_C_Offset_MASK,
  GITS_CBASER,
  GITS_CREADR,
  GITS_CREADR_Stalled,
  GITS_CTLR,
  GITS_CTLR_Enabled,
  GITS_CTLR_Quiescent,
  GITS_CWRITER,
  GITS_PIDR2,
  GITS_TRANSLATER,
  GITS_TYPER,
  type GitsBaser,
  type GitsTyper,
  type RegPair,
} from '#shared/arch/gic/its.ts';
import {
  decodeItsCommand,
  formatItsCommand,
  ITS_COMMAND_BYTES,
  itsCommandBytes,
} from '#shared/arch/gic/its-commands.ts';
import { assert } from '#shared/core/assert.ts';
import { Lock, type Op, sleep, withLock } from '#shared/core/op.ts';

/**
 * One access on the driver's bus: at the driver's own kind of address (physical for a hypervisor, intermediate
 * physical for a guest). A read has no data and asks for `sizeBytes`; a write's `data` is `sizeBytes` long.
 */
export interface BusAccess {
  readonly kind: 'read' | 'write';
  readonly address: number;
  readonly sizeBytes: number;
  readonly data: Uint8Array;
}

/** The way to the bus. One call is one batch, done in order; it gives one answer an access (empty for a write) or throws. */
export interface ItsIo {
  run(accesses: readonly BusAccess[]): Op<readonly Uint8Array[]>;
}

export interface ItsDriverOptions {
  /** For texts: `its@8080000`. */
  readonly name: string;
  /** Address of the control frame on the bus of `io`. */
  readonly base: number;
  readonly io: ItsIo;
  /** Gives zeroed memory that is contiguous and aligned, and stays the ITS's. */
  allocate(sizeBytes: number, alignBytes: number): Op<number>;
  /** Bytes of the command queue: a multiple of 4 KiB, at most 1 MiB. Default 64 KiB. */
  readonly queueBytes?: number;
  /** The most DeviceID bits to make room for. Default 16. */
  readonly deviceIdBitsMax?: number;
}

/** The ITS did not do what the architecture says, or a command did not complete. */
export class ItsError extends Error {
  override name = 'ItsError';
}

const POLL_NS = 1_000_000;
/** The hypervisor waits 100 ms for the queue and for Quiescent. */
const POLLS_MAX = 100;
const ALIGN_BYTES = 0x1_0000;
const FLAT_BYTES_MAX = 0x10_0000;
const PAGES_MAX = 256;
const PAGE_BYTES = [0x1_0000, 0x4000, 0x1000] as const;
const LEVEL1_ENTRY_BYTES = 8;
const LEVEL1_VALID = 0x8000_0000;
const NO_DATA = new Uint8Array(0);

/** A device table of two levels. */
interface Level1 {
  readonly pa: number;
  readonly pageBytes: number;
  /** Entries of a level 2 page. */
  readonly perPage: number;
  /** Level 1 entries whose page is there. */
  readonly present: Set<number>;
}

export class ItsDriver {
  readonly #o: ItsDriverOptions;
  readonly #lock: Lock;
  readonly #queueBytes: number;
  #queuePa = -1;
  #writer = 0;
  #typer: GitsTyper | undefined;
  #deviceIds = 0;
  #level1: Level1 | undefined;
  #submitted = 0;

  constructor(options: ItsDriverOptions) {
    this.#o = options;
    this.#queueBytes = options.queueBytes ?? 0x1_0000;
    assert(
      this.#queueBytes % 4096 === 0 && this.#queueBytes > 0 && this.#queueBytes <= 0x10_0000,
      'an ITS queue is 1 to 256 pages of 4 KiB',
    );
    this.#lock = new Lock(`its->cmd_lock of ${options.name}`);
  }

  get name(): string {
    return this.#o.name;
  }

  /** Address of GITS_TRANSLATER on the driver's bus. */
  get doorbell(): number {
    return this.#o.base + GITS_TRANSLATER;
  }

  /** GITS_TYPER; after `start`. */
  get typer(): GitsTyper {
    assert(this.#typer !== undefined, 'the ITS driver was not started');
    return this.#typer;
  }

  /** DeviceIDs below this have an entry in the device table, once `prepareDevice` is done; after `start`. */
  get deviceIds(): number {
    return this.#deviceIds;
  }

  /** Commands that completed. */
  get submitted(): number {
    return this.#submitted;
  }

  /** The RDbase field of a redistributor: by number or by the address of its RD frame, as GITS_TYPER.PTA says. */
  rdbase(processorNumber: number, rdFramePa: number): number {
    return this.typer.PTA ? rdFramePa / 0x1_0000 : processorNumber;
  }

  /** Bytes of an interrupt translation table for 2^(`size` + 1) EventIDs; its alignment is 256 bytes. */
  ittBytes(size: number): number {
    return Math.max(256, 2 ** (size + 1) * this.typer.ittEntryBytes);
  }

  /** Probes, gives the ITS its tables and queue, and enables it. Throws ItsError. */
  *start(): Op<void> {
    const { name } = this.#o;
    const [pidr2, ctlr, typer] = yield* this.#run([
      this.#readAccess(GITS_PIDR2, 4),
      this.#readAccess(GITS_CTLR, 4),
      this.#readAccess(GITS_TYPER, 8),
    ]);
    if ((word(pidr2!, 0) & GIC_PIDR2_ArchRev_MASK) !== GIC_PIDR2_ArchRev_GICv3) {
      throw new ItsError(`${name}: no GICv3 ITS (GITS_PIDR2 is 0x${word(pidr2!, 0).toString(16)})`);
    }
    this.#typer = decodeGitsTyper(pair(typer!));
    if (!this.#typer.Physical) throw new ItsError(`${name}: GITS_TYPER.Physical is 0`);
    yield* this.#disable(word(ctlr!, 0));
    for (let n = 0; n < GITS_BASER_COUNT; n++) yield* this.#setUpTable(n);
    yield* this.#setUpQueue();
    yield* this.#run([this.#write32(GITS_CTLR, GITS_CTLR_Enabled)]);
  }

  /** Queues the commands in order, in one or more rings, and waits until the ITS has done them. Throws ItsError. */
  submit(commands: readonly Uint32Array[]): Op<void> {
    return withLock(this.#lock, () => this.#submitLocked(commands));
  }

  /** Sees that the device table has an entry for `deviceId` (below `deviceIds`) before it is mapped. */
  prepareDevice(deviceId: number): Op<void> {
    return withLock(this.#lock, () => this.#prepareDevice(deviceId));
  }

  *#prepareDevice(deviceId: number): Op<void> {
    const level1 = this.#level1;
    if (level1 === undefined) return;
    const page = Math.floor(deviceId / level1.perPage);
    if (level1.present.has(page)) return;
    const pa = yield* this.#o.allocate(level1.pageBytes, level1.pageBytes);
    const entry = { lo: addressLow(pa), hi: (addressHigh(pa) | LEVEL1_VALID) >>> 0 };
    yield* this.#run([writePair(level1.pa + LEVEL1_ENTRY_BYTES * page, entry)]);
    level1.present.add(page);
  }

  *#submitLocked(commands: readonly Uint32Array[]): Op<void> {
    assert(this.#queuePa >= 0, 'commands were submitted before the ITS was started');
    // One slot stays empty: a full queue would look like an empty one.
    const most = this.#queueBytes / ITS_COMMAND_BYTES - 1;
    for (let from = 0; from < commands.length; from += most) {
      const chunk = commands.slice(from, from + most);
      yield* this.#ring(chunk);
      this.#submitted += chunk.length;
    }
  }

  *#ring(commands: readonly Uint32Array[]): Op<void> {
    const bytes = itsCommandBytes(commands);
    const first = this.#writer;
    const beforeWrap = Math.min(bytes.length, this.#queueBytes - first);
    const accesses = [writeAccess(this.#queuePa + first, bytes.subarray(0, beforeWrap))];
    if (beforeWrap < bytes.length) accesses.push(writeAccess(this.#queuePa, bytes.subarray(beforeWrap)));
    this.#writer = (first + bytes.length) % this.#queueBytes;
    accesses.push(this.#write64(GITS_CWRITER, { lo: this.#writer, hi: 0 }), this.#readAccess(GITS_CREADR, 8));
    const answers = yield* this.#run(accesses);
    let creadr = word(answers.at(-1)!, 0);
    for (
      let polls = 0;
      (creadr & GITS_C_Offset_MASK) !== this.#writer || (creadr & GITS_CREADR_Stalled) !== 0;
      polls++
    ) {
      if (polls >= POLLS_MAX || (creadr & GITS_CREADR_Stalled) !== 0) throw this.#stuck(commands, first, creadr);
      yield* sleep(POLL_NS);
      const [again] = yield* this.#run([this.#readAccess(GITS_CREADR, 8)]);
      creadr = word(again!, 0);
    }
  }

  #stuck(commands: readonly Uint32Array[], first: number, creadr: number): ItsError {
    const at = ((creadr & GITS_C_Offset_MASK) - first + this.#queueBytes) % this.#queueBytes;
    const words = commands[at / ITS_COMMAND_BYTES];
    const what = words === undefined ? 'a command of an earlier batch' : formatItsCommand(decodeItsCommand(words));
    const stalled = (creadr & GITS_CREADR_Stalled) !== 0 ? ', stalled' : '';
    return new ItsError(
      `${this.#o.name}: the command queue stands at ${what} (GITS_CREADR 0x${creadr.toString(16)}, GITS_CWRITER 0x${this.#writer.toString(16)}${stalled})`,
    );
  }

  *#disable(ctlr: number): Op<void> {
    let now = ctlr;
    if ((now & GITS_CTLR_Enabled) !== 0 || (now & GITS_CTLR_Quiescent) === 0) {
      const [, read] = yield* this.#run([this.#write32(GITS_CTLR, 0), this.#readAccess(GITS_CTLR, 4)]);
      now = word(read!, 0);
    }
    for (let polls = 0; (now & GITS_CTLR_Quiescent) === 0; polls++) {
      if (polls >= POLLS_MAX) throw new ItsError(`${this.#o.name}: GITS_CTLR.Quiescent stays 0`);
      yield* sleep(POLL_NS);
      const [again] = yield* this.#run([this.#readAccess(GITS_CTLR, 4)]);
      now = word(again!, 0);
    }
  }

  /** Type is asked of the register; the page size is the largest that reads back. */
  *#setUpTable(n: number): Op<void> {
    const offset = GITS_BASER + 8 * n;
    const [before] = yield* this.#run([this.#readAccess(offset, 8)]);
    const { Type, entryBytes } = decodeGitsBaser(pair(before!));
    if (Type === GITS_BASER_TYPE.NONE || Type === GITS_BASER_TYPE.VPE) return;
    const isDevices = Type === GITS_BASER_TYPE.DEVICE;
    const wantedEntries = isDevices
      ? 2 ** Math.min(this.typer.deviceIdBits, this.#o.deviceIdBitsMax ?? 16)
      : 2 ** Math.min(this.typer.collectionIdBits, 10);
    if (isDevices && wantedEntries * entryBytes > FLAT_BYTES_MAX) {
      if (yield* this.#setUpLevel1(offset, Type, entryBytes, wantedEntries)) return;
    }
    let pa = -1;
    for (const pageBytes of PAGE_BYTES) {
      const pages = Math.min(PAGES_MAX, Math.ceil((wantedEntries * entryBytes) / pageBytes));
      const sizeBytes = pages * pageBytes;
      // A smaller page size never needs more than the largest one got.
      if (pa < 0) pa = yield* this.#o.allocate(sizeBytes, ALIGN_BYTES);
      const accepted = yield* this.#tryTable(offset, { Type, entryBytes, pa, pageBytes, sizeBytes });
      if (accepted) {
        if (isDevices) this.#deviceIds = Math.min(Math.floor(sizeBytes / entryBytes), 2 ** this.typer.deviceIdBits);
        return;
      }
    }
    throw new ItsError(`${this.#o.name}: GITS_BASER${n} accepts no page size`);
  }

  /** Makes the device table one of two levels. False: the ITS keeps Indirect at 0, whatever the page size. */
  *#setUpLevel1(offset: number, Type: number, entryBytes: number, wantedEntries: number): Op<boolean> {
    for (const pageBytes of PAGE_BYTES) {
      const attributes = { InnerCache: 0, OuterCache: 0, Shareability: 0 };
      const asked = { Valid: false, Indirect: true, Type, entryBytes, pa: 0, pageBytes, sizeBytes: pageBytes };
      const [, read] = yield* this.#run([
        this.#write64(offset, encodeGitsBaser({ ...asked, ...attributes })),
        this.#readAccess(offset, 8),
      ]);
      const got = decodeGitsBaser(pair(read!));
      if (!got.Indirect) return false;
      if (got.pageBytes !== pageBytes) continue;
      const perPage = pageBytes / entryBytes;
      const level1Bytes = Math.ceil(wantedEntries / perPage) * LEVEL1_ENTRY_BYTES;
      const sizeBytes = Math.min(PAGES_MAX, Math.ceil(level1Bytes / pageBytes)) * pageBytes;
      const pa = yield* this.#o.allocate(sizeBytes, ALIGN_BYTES);
      if (!(yield* this.#tryTable(offset, { Type, entryBytes, pa, pageBytes, sizeBytes }, true))) continue;
      this.#level1 = { pa, pageBytes, perPage, present: new Set() };
      this.#deviceIds = Math.min((sizeBytes / LEVEL1_ENTRY_BYTES) * perPage, wantedEntries);
      return true;
    }
    return false;
  }

  /** Writes a table base and reads it back: once more as the ITS wants cacheability and shareability. */
  *#tryTable(
    offset: number,
    table: Pick<GitsBaser, 'Type' | 'entryBytes' | 'pa' | 'pageBytes' | 'sizeBytes'>,
    Indirect = false,
  ): Op<boolean> {
    let attributes: Pick<GitsBaser, 'InnerCache' | 'OuterCache' | 'Shareability'> = {
      InnerCache: GIC_CACHE.RAWAWB,
      OuterCache: 0,
      Shareability: GIC_SHAREABILITY.INNER,
    };
    for (let round = 0; round < 2; round++) {
      const wanted = { Valid: true, Indirect, ...table, ...attributes };
      const [, read] = yield* this.#run([this.#write64(offset, encodeGitsBaser(wanted)), this.#readAccess(offset, 8)]);
      const got = decodeGitsBaser(pair(read!));
      if (got.pageBytes !== table.pageBytes) return false;
      if (got.InnerCache === wanted.InnerCache && got.Shareability === wanted.Shareability) {
        return got.Valid && got.pa === table.pa && got.sizeBytes === table.sizeBytes;
      }
      attributes = { InnerCache: got.InnerCache, OuterCache: got.OuterCache, Shareability: got.Shareability };
    }
    return false;
  }

  *#setUpQueue(): Op<void> {
    this.#queuePa = yield* this.#o.allocate(this.#queueBytes, ALIGN_BYTES);
    this.#writer = 0;
    const cbaser = {
      Valid: true,
      pa: this.#queuePa,
      sizeBytes: this.#queueBytes,
      InnerCache: GIC_CACHE.RAWAWB,
      OuterCache: 0,
      Shareability: GIC_SHAREABILITY.INNER,
    };
    const [, , read] = yield* this.#run([
      this.#write64(GITS_CBASER, encodeGitsCbaser(cbaser)),
      this.#write64(GITS_CWRITER, { lo: 0, hi: 0 }),
      this.#readAccess(GITS_CBASER, 8),
    ]);
    const got = decodeGitsCbaser(pair(read!));
    if (!got.Valid || got.pa !== cbaser.pa || got.sizeBytes !== cbaser.sizeBytes) {
      throw new ItsError(`${this.#o.name}: GITS_CBASER does not keep the command queue`);
    }
  }

  *#run(accesses: readonly BusAccess[]): Op<readonly Uint8Array[]> {
    const answers = yield* this.#o.io.run(accesses);
    assert(answers.length === accesses.length, 'the bus gave another number of answers than it was asked');
    return answers;
  }

  #readAccess(offset: number, sizeBytes: number): BusAccess {
    return { kind: 'read', address: this.#o.base + offset, sizeBytes, data: NO_DATA };
  }

  #write32(offset: number, value: number): BusAccess {
    const data = new Uint8Array(4);
    new DataView(data.buffer).setUint32(0, value, true);
    return writeAccess(this.#o.base + offset, data);
  }

  #write64(offset: number, value: RegPair): BusAccess {
    return writePair(this.#o.base + offset, value);
  }
}

function writePair(address: number, value: RegPair): BusAccess {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, value.lo, true);
  view.setUint32(4, value.hi, true);
  return writeAccess(address, data);
}

function writeAccess(address: number, data: Uint8Array): BusAccess {
  return { kind: 'write', address, sizeBytes: data.length, data };
}

function word(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at, true);
}

function pair(bytes: Uint8Array): RegPair {
  return { lo: word(bytes, 0), hi: word(bytes, 4) };
}
