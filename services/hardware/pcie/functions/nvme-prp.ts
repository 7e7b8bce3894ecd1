/**
 * Where the data of an NVMe command lies in host memory: PRP entries and PRP lists (NVM Express 1.4, "Physical Region
 * Page Entry and List"), and the transfers there.
 * Not modelled: scatter gather lists; a command that names one ends with Invalid Field (Identify: SGLS = 0).
 * Deviates: a write to host memory that is aborted on the way is reported (Data Transfer Error), as an aborted read
 * is; posted writes of a real function vanish without a word.
 */
import { NVME_SC, NVME_SQE, nvmeU64 } from '#shared/arch/nvme.ts';
import type { DmaPort } from '../../bus/transaction.ts';

/** The pieces of one transfer, in order; pages that follow each other in memory are one piece. */
export class NvmeData {
  /** Pieces of the last `locate`. */
  count = 0;
  readonly #iovas: number[] = [];
  readonly #lengths: number[] = [];
  readonly #dma: DmaPort;
  readonly #listBytes = new Uint8Array(0x1_0000);
  readonly #list = new Uint32Array(this.#listBytes.buffer);
  /** Memory page size that the host configured, CC.MPS. */
  pageBytes = 4096;

  constructor(dma: DmaPort) {
    this.#dma = dma;
  }

  iova(piece: number): number {
    return this.#iovas[piece]!;
  }

  length(piece: number): number {
    return this.#lengths[piece]!;
  }

  /** Follows PRP1 and PRP2 of a command for `bytes` of data. Gives a status code. */
  locate(command: Uint32Array, bytes: number): number {
    const page = this.pageBytes;
    const prp1 = nvmeU64(command, NVME_SQE.PRP1);
    const prp2 = nvmeU64(command, NVME_SQE.PRP2);
    this.count = 0;
    if (prp1 % 4 !== 0) return NVME_SC.PRP_OFFSET_INVALID;
    const first = Math.min(bytes, page - (prp1 % page));
    this.#add(prp1, first);
    const left = bytes - first;
    if (left === 0) return NVME_SC.SUCCESS;
    if (left > page) return this.#locateList(prp2, left);
    if (prp2 % page !== 0) return NVME_SC.PRP_OFFSET_INVALID;
    this.#add(prp2, left);
    return NVME_SC.SUCCESS;
  }

  /** Moves `from` to where the command wants it. */
  toHost(command: Uint32Array, from: Uint8Array): number {
    const status = this.locate(command, from.length);
    if (status !== NVME_SC.SUCCESS) return status;
    for (let piece = 0, at = 0; piece < this.count; at += this.length(piece++)) {
      const length = this.length(piece);
      if (this.#dma.write(this.iova(piece), from.subarray(at, at + length)) < length)
        return NVME_SC.DATA_TRANSFER_ERROR;
    }
    return NVME_SC.SUCCESS;
  }

  /** Fills `into` from where the command has it. */
  fromHost(command: Uint32Array, into: Uint8Array): number {
    const status = this.locate(command, into.length);
    if (status !== NVME_SC.SUCCESS) return status;
    for (let piece = 0, at = 0; piece < this.count; at += this.length(piece++)) {
      const length = this.length(piece);
      if (this.#dma.read(this.iova(piece), into.subarray(at, at + length)) < length) return NVME_SC.DATA_TRANSFER_ERROR;
    }
    return NVME_SC.SUCCESS;
  }

  /** A list: 8-byte entries up to the end of its page, where the last one leads to the next page if more follow. */
  #locateList(start: number, bytes: number): number {
    const page = this.pageBytes;
    if (start % 8 !== 0) return NVME_SC.PRP_OFFSET_INVALID;
    let at = start;
    let left = bytes;
    while (left > 0) {
      const room = (page - (at % page)) / 8;
      const needed = Math.ceil(left / page);
      const chained = needed > room;
      const count = chained ? room : needed;
      if (this.#dma.read(at, this.#listBytes.subarray(0, count * 8)) < count * 8) return NVME_SC.DATA_TRANSFER_ERROR;
      const entries = chained ? count - 1 : count;
      for (let i = 0; i < entries; i++) {
        const entry = nvmeU64(this.#list, 2 * i);
        if (entry % page !== 0) return NVME_SC.PRP_OFFSET_INVALID;
        const length = Math.min(left, page);
        this.#add(entry, length);
        left -= length;
      }
      if (!chained) break;
      at = nvmeU64(this.#list, 2 * entries);
      if (at % page !== 0) return NVME_SC.PRP_OFFSET_INVALID;
    }
    return NVME_SC.SUCCESS;
  }

  #add(iova: number, length: number): void {
    const last = this.count - 1;
    if (last >= 0 && this.#iovas[last]! + this.#lengths[last]! === iova) {
      this.#lengths[last]! += length;
      return;
    }
    this.#iovas[this.count] = iova;
    this.#lengths[this.count] = length;
    this.count++;
  }
}
