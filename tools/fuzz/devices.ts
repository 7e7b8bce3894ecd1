/**
 * What the drivers of the NVMe controller and of the NIC of the rig do: they set the device up with queues in the pages
 * that its stream reaches, and put one entry after the other into them, whatever it says.
 */
import { NIC, NIC_CTRL, NIC_RING, NIC_RING_BYTES, NIC_RING_CTRL } from '#shared/arch/nic.ts';
import {
  NVME_ACQ_LO,
  NVME_AQA,
  NVME_ASQ_LO,
  NVME_CC,
  NVME_SQE_BYTES,
  nvmeCqHead,
  nvmeSqTail,
} from '#shared/arch/nvme.ts';

/** The NVMe controller's and the NIC's registers. */
export const NVME_BAR = 0x1020_0000;
export const NIC_BAR = 0x1040_0000;
/** Device addresses from here lead to as many bytes of `data`. */
const IOVA = 0x3_0000;
const [ADMIN_SQ, ADMIN_CQ, IO_SQ, IO_CQ, TX_RING, RX_RING] = [0, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000] as const;
const ENTRIES = 16;
const NVME_ENABLE = 0x0046_0001;
const CREATE_SQ = 0x01;
const CREATE_CQ = 0x05;

export interface Ground {
  /** Lets time pass until devices have done what they were told. */
  wait(): void;
  write32(pa: number, value: number): void;
  /** Where the pages lie that both devices reach from device address 0x30000 on. */
  readonly data: number;
}

export class Drivers {
  readonly #ground: Ground;
  /** Where each queue goes on: admin, I/O, transmit, receive. */
  readonly #tails = [0, 0, 0, 0];
  #commandId = 0;

  constructor(ground: Ground) {
    this.#ground = ground;
  }

  start(): void {
    this.#tails.fill(0);
    const nvme = (register: { offset: number }, value: number): void =>
      this.#ground.write32(NVME_BAR + register.offset, value);
    nvme(NVME_CC, 0);
    nvme(NVME_AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    nvme(NVME_ASQ_LO, IOVA + ADMIN_SQ);
    nvme(NVME_ACQ_LO, IOVA + ADMIN_CQ);
    nvme(NVME_CC, NVME_ENABLE);
    this.#ground.write32(NIC_BAR + NIC.ENABLE_SET, 0xffff_ffff);
    this.#ground.wait();
    const queue = ((ENTRIES - 1) << 16) | 1;
    this.nvme(0, [CREATE_CQ, 1, 0, 0, 0, 0, IOVA + IO_CQ, 0, 0, 0, queue, (1 << 16) | 3]);
    this.nvme(0, [CREATE_SQ, 1, 0, 0, 0, 0, IOVA + IO_SQ, 0, 0, 0, queue, (1 << 16) | 1]);
    this.#ground.write32(NIC_BAR + NIC.CTRL, NIC_CTRL.ENABLE | NIC_CTRL.PROMISC | NIC_CTRL.BROADCAST);
    this.#ground.wait();
    for (const [i, ring] of [TX_RING, RX_RING].entries()) {
      const at = NIC_BAR + NIC.RINGS + i * NIC_RING_BYTES;
      this.#ground.write32(at + NIC_RING.CTRL, 0);
      this.#ground.write32(at + NIC_RING.BASE_LO, IOVA + ring);
      this.#ground.write32(at + NIC_RING.BASE_HI, 0);
      this.#ground.write32(at + NIC_RING.SIZE, ENTRIES);
      this.#ground.write32(at + NIC_RING.BUFFER, 1024);
      this.#ground.write32(at + NIC_RING.VECTOR, i);
      this.#ground.write32(at + NIC_RING.CTRL, NIC_RING_CTRL.ENABLE);
    }
  }

  /** Submits a command of up to 16 words to the admin queue (0) or to the I/O queue (1), and takes what was completed. */
  nvme(queue: number, words: readonly number[]): void {
    const at = this.#ground.data + (queue === 0 ? ADMIN_SQ : IO_SQ) + this.#tails[queue]! * NVME_SQE_BYTES;
    for (let i = 0; i < 16; i++) this.#ground.write32(at + i * 4, words[i] ?? 0);
    this.#commandId = (this.#commandId + 1) & 0xfff;
    this.#ground.write32(at, ((words[0] ?? 0) & 0xff) | (this.#commandId << 16));
    this.#tails[queue] = (this.#tails[queue]! + 1) % ENTRIES;
    this.#ground.write32(NVME_BAR + nvmeSqTail(queue), this.#tails[queue]!);
    this.#ground.write32(NVME_BAR + nvmeCqHead(queue), this.#tails[queue]!);
  }

  /** Gives a descriptor to the transmit (0) or to the receive ring (1). */
  nic(ring: number, addressLow: number, addressHigh: number, lengthAndFlags: number): void {
    const tail = this.#tails[2 + ring]!;
    const at = this.#ground.data + (ring === 0 ? TX_RING : RX_RING) + tail * 16;
    for (const [i, word] of [addressLow, addressHigh, lengthAndFlags, 0].entries())
      this.#ground.write32(at + i * 4, word);
    this.#tails[2 + ring] = (tail + 1) % ENTRIES;
    this.#ground.write32(NIC_BAR + NIC.RINGS + ring * NIC_RING_BYTES + NIC_RING.TAIL, this.#tails[2 + ring]!);
  }
}
