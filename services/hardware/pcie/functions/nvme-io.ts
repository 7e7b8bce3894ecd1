/**
 * I/O commands of an NVMe controller (NVM Express 1.4, "NVM Command Set"): read, write, flush, compare, write zeroes,
 * deallocate.
 * Data move between host memory and the namespace piece by piece, without a copy between. A command that fails
 * half-way has moved what came before.
 * Flush, force unit access, and every write while the write cache is off or its medium is at fault complete when what
 * was written before is on the medium; other writes when they are in memory.
 * Not modelled: fused commands, write uncorrectable, verify, reservations.
 */
import {
  NVME_DSM_AD,
  NVME_DSM_RANGE_BYTES,
  NVME_FUA,
  NVME_IO,
  NVME_NSID_ALL,
  NVME_SC,
  NVME_SQE,
  nvmeU64,
} from '#shared/arch/nvme.ts';
import type { DmaPort } from '../../bus/transaction.ts';
import type { NvmeFeatures } from './nvme-features.ts';
import { NVME_MDTS } from './nvme-identify.ts';
import type { NvmeLogs } from './nvme-logs.ts';
import type { NvmeNamespace } from './nvme-namespace.ts';
import { NVME_CHUNK_BYTES } from './nvme-namespace-shape.ts';
import type { NvmeData } from './nvme-prp.ts';
import { NVME_UNTIL_DURABLE } from './nvme-status.ts';

/** Bytes of data that a command may move. */
const NVME_DATA_BYTES_MAX = 4096 * 2 ** NVME_MDTS;
const RANGES_MAX = 256;

export class NvmeIo {
  readonly #namespaces: readonly NvmeNamespace[];
  readonly #data: NvmeData;
  readonly #dma: DmaPort;
  readonly #logs: NvmeLogs;
  readonly #features: NvmeFeatures;
  readonly #compared = new Uint8Array(NVME_CHUNK_BYTES);
  readonly #rangeBytes = new Uint8Array(RANGES_MAX * NVME_DSM_RANGE_BYTES);
  readonly #ranges = new Uint32Array(this.#rangeBytes.buffer);

  constructor(
    namespaces: readonly NvmeNamespace[],
    data: NvmeData,
    dma: DmaPort,
    logs: NvmeLogs,
    features: NvmeFeatures,
  ) {
    this.#features = features;
    this.#namespaces = namespaces;
    this.#data = data;
    this.#dma = dma;
    this.#logs = logs;
  }

  /** Data that a command will move, for its cost; 0 for one that moves none or is wrong. */
  dataBytes(opcode: number, command: Uint32Array): number {
    if (opcode !== NVME_IO.READ && opcode !== NVME_IO.WRITE && opcode !== NVME_IO.COMPARE) return 0;
    const namespace = this.#namespaces[command[NVME_SQE.NSID]! - 1];
    if (namespace === undefined) return 0;
    return Math.min(NVME_DATA_BYTES_MAX, blocksOf(command) * namespace.blockBytes);
  }

  /** Carries out one command. Gives its status, or NVME_UNTIL_DURABLE. */
  execute(opcode: number, command: Uint32Array): number {
    const nsid = command[NVME_SQE.NSID]!;
    switch (opcode) {
      case NVME_IO.FLUSH:
        return nsid === NVME_NSID_ALL || this.#namespaces[nsid - 1] !== undefined
          ? NVME_UNTIL_DURABLE
          : NVME_SC.INVALID_NAMESPACE;
      case NVME_IO.READ:
      case NVME_IO.WRITE:
      case NVME_IO.COMPARE:
      case NVME_IO.WRITE_ZEROES:
      case NVME_IO.DATASET_MANAGEMENT:
        break;
      default:
        return NVME_SC.INVALID_OPCODE;
    }
    const namespace = this.#namespaces[nsid - 1];
    if (namespace === undefined) return NVME_SC.INVALID_NAMESPACE;
    if (opcode === NVME_IO.DATASET_MANAGEMENT) return this.#manage(namespace, command);
    const blocks = blocksOf(command);
    const lba = nvmeU64(command, NVME_SQE.CDW10);
    const bytes = blocks * namespace.blockBytes;
    if (opcode !== NVME_IO.WRITE_ZEROES && bytes > NVME_DATA_BYTES_MAX) return NVME_SC.INVALID_FIELD;
    if (lba + blocks > namespace.blocks) return NVME_SC.LBA_OUT_OF_RANGE;
    if ((opcode === NVME_IO.WRITE || opcode === NVME_IO.WRITE_ZEROES) && namespace.readOnly)
      return NVME_SC.NAMESPACE_WRITE_PROTECTED;
    const at = lba * namespace.blockBytes;
    if (opcode === NVME_IO.WRITE_ZEROES) {
      namespace.deallocate(at, bytes);
      this.#logs.countWrite(0);
      return this.#written(namespace, command);
    }
    const status = this.#data.locate(command, bytes);
    if (status !== NVME_SC.SUCCESS) return status;
    if (opcode === NVME_IO.READ) return this.#read(namespace, at, bytes, (command[NVME_SQE.CDW12]! & NVME_FUA) !== 0);
    if (opcode === NVME_IO.COMPARE) return this.#compare(namespace, at, bytes);
    return this.#write(namespace, at, bytes) ?? this.#written(namespace, command);
  }

  /** `fromMedium`: what is read is on the medium when the command completes. */
  #read(namespace: NvmeNamespace, start: number, bytes: number, fromMedium: boolean): number {
    let at = start;
    for (let piece = 0; piece < this.#data.count; piece++) {
      const length = this.#data.length(piece);
      for (let done = 0; done < length; ) {
        const from = namespace.view(at, length - done);
        if (this.#dma.write(this.#data.iova(piece) + done, from) < from.length) return NVME_SC.DATA_TRANSFER_ERROR;
        done += from.length;
        at += from.length;
      }
    }
    this.#logs.countRead(bytes);
    return fromMedium ? NVME_UNTIL_DURABLE : NVME_SC.SUCCESS;
  }

  /** What to complete a write with that was carried out. */
  #written({ cache }: NvmeNamespace, command: Uint32Array): number {
    if (cache === undefined) return NVME_SC.SUCCESS;
    const through = (command[NVME_SQE.CDW12]! & NVME_FUA) !== 0 || !this.#features.cacheEnabled || cache.isFaulty;
    return through ? NVME_UNTIL_DURABLE : NVME_SC.SUCCESS;
  }

  /** Undefined when all data came. */
  #write(namespace: NvmeNamespace, start: number, bytes: number): number | undefined {
    let at = start;
    for (let piece = 0; piece < this.#data.count; piece++) {
      const length = this.#data.length(piece);
      for (let done = 0; done < length; ) {
        const into = namespace.writable(at, length - done);
        if (this.#dma.read(this.#data.iova(piece) + done, into) < into.length) return NVME_SC.DATA_TRANSFER_ERROR;
        done += into.length;
        at += into.length;
      }
    }
    this.#logs.countWrite(bytes);
    return undefined;
  }

  #compare(namespace: NvmeNamespace, start: number, bytes: number): number {
    let at = start;
    let same = true;
    for (let piece = 0; piece < this.#data.count; piece++) {
      const length = this.#data.length(piece);
      for (let done = 0; done < length; ) {
        const stored = namespace.view(at, length - done);
        const given = this.#compared.subarray(0, stored.length);
        if (this.#dma.read(this.#data.iova(piece) + done, given) < given.length) return NVME_SC.DATA_TRANSFER_ERROR;
        same &&= equal(stored, given);
        done += stored.length;
        at += stored.length;
      }
    }
    this.#logs.countRead(bytes);
    return same ? NVME_SC.SUCCESS : NVME_SC.COMPARE_FAILURE;
  }

  /** Ranges are looked at before the first is deallocated, so that a wrong one leaves everything as it was. */
  #manage(namespace: NvmeNamespace, command: Uint32Array): number {
    const count = (command[NVME_SQE.CDW10]! & 0xff) + 1;
    const status = this.#data.fromHost(command, this.#rangeBytes.subarray(0, count * NVME_DSM_RANGE_BYTES));
    if (status !== NVME_SC.SUCCESS) return status;
    const ranges = this.#ranges;
    for (let i = 0; i < count; i++)
      if (nvmeU64(ranges, 4 * i + 2) + ranges[4 * i + 1]! > namespace.blocks) return NVME_SC.LBA_OUT_OF_RANGE;
    if ((command[NVME_SQE.CDW11]! & NVME_DSM_AD) === 0) return NVME_SC.SUCCESS;
    if (namespace.readOnly) return NVME_SC.NAMESPACE_WRITE_PROTECTED;
    const { blockBytes } = namespace;
    for (let i = 0; i < count; i++)
      namespace.deallocate(nvmeU64(ranges, 4 * i + 2) * blockBytes, ranges[4 * i + 1]! * blockBytes);
    // The deallocated blocks are zeroes like any others that were written; the command has no bit for force unit access.
    if (namespace.cache === undefined || (this.#features.cacheEnabled && !namespace.cache.isFaulty))
      return NVME_SC.SUCCESS;
    return NVME_UNTIL_DURABLE;
  }
}

/** NLB counts from zero. */
function blocksOf(command: Uint32Array): number {
  return (command[NVME_SQE.CDW12]! & 0xffff) + 1;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
