/**
 * Register layout of `nic`, our own network function with descriptor rings (docs/reference/hardware/nic.md). The
 * registers stand at offset 0 of the function's first memory BAR that has room for them. All are 32 bits wide and take
 * aligned 32-bit accesses; others read as zero and drop writes. A MAC address is a number of six bytes, the byte that
 * is sent first highest; registers hold it as two: the first four bytes in HI, the last two in LO.
 */
export const NIC = {
  /** RO. Always `NIC_MAGIC`. */
  ID: 0x000,
  /** RO. 1. */
  VERSION: 0x004,
  /** RW, see NIC_CTRL. */
  CTRL: 0x008,
  /** RO, see NIC_STATUS. */
  STATUS: 0x00c,
  /** RO. Transmit queues [7:0], receive queues [15:8]. */
  QUEUES: 0x010,
  /** RO. Bytes of the longest frame, without check sequence. */
  FRAME_MAX: 0x014,
  /** RO. The permanent address. */
  PERM_MAC_HI: 0x018,
  PERM_MAC_LO: 0x01c,
  /** RO. 0 in a physical function, n in VF n. */
  VF: 0x020,
  /** RW [2:0]. Where frames go that no filter steers: broadcast, all-multicast and promiscuous ones. */
  RX_DEFAULT: 0x024,
  /** RW [15:0]. Interrupt vector of a change of the link. */
  LINK_VECTOR: 0x028,
  /** W1C. Causes: receive queue n bit n, transmit queue n bit 8 + n, link bit 31. */
  CAUSE: 0x030,
  /** A one enables (SET) or disables (CLEAR) the interrupt of a cause; both read what is enabled. */
  ENABLE_SET: 0x034,
  ENABLE_CLEAR: 0x038,
  /** RW. Filter n: HI at +8 n, LO at +8 n + 4, see NIC_FILTER. Filter 0 holds the permanent address after a reset. */
  FILTERS: 0x040,
  /** RO. Counter n (NIC_COUNTERS): low word at +8 n, which keeps the high word for the next read of +8 n + 4. */
  COUNTERS: 0x080,
  /** Queue n at +0x80 n: transmit ring, then at +0x40 the receive ring (NIC_RING). */
  RINGS: 0x1000,
} as const;

export const NIC_BYTES = 0x1400;
/** "CNIC" in little-endian ASCII. */
export const NIC_MAGIC = 0x43494e43;
export const NIC_QUEUES_MAX = 8;
export const NIC_FILTERS = 8;
export const NIC_FRAME_MIN = 14;
export const NIC_FRAME_MAX = 9216;

/** PROMISC stays 0 in a virtual function. RESET is written, never read. */
export const NIC_CTRL = {
  ENABLE: 1 << 0,
  PROMISC: 1 << 1,
  BROADCAST: 1 << 2,
  ALL_MULTICAST: 1 << 3,
  RESET: 0x8000_0000,
} as const;

/** LINK: another function of the wire is enabled. SPEED in Mb/s. */
export const NIC_STATUS = { LINK: 1 << 0, SPEED_SHIFT: 16 } as const;
export const NIC_SPEED_MBPS = 10_000;

export const NIC_CAUSE = { TX_SHIFT: 8, LINK: 0x8000_0000 } as const;

/** LO: the last two bytes [15:0], the receive queue [18:16], VALID 31. */
export const NIC_FILTER = { QUEUE_SHIFT: 16, QUEUE_MASK: 7, VALID: 0x8000_0000 } as const;

/** Order of the counters. */
export const NIC_COUNTERS = [
  'rxFrames',
  'rxBytes',
  'txFrames',
  'txBytes',
  /** Frames of the wire for someone else. */
  'rxFiltered',
  /** Frames that found their queue's store full. */
  'rxMissed',
  /** Frames for a queue that is not enabled. */
  'rxNoQueue',
  /** Frames too short or too long, or of more descriptors than a frame may have. */
  'txErrors',
  /** Frames of a virtual function with another source address than its own. */
  'txSpoofed',
  /** Accesses to memory that were aborted. */
  'dmaErrors',
] as const;
export type NicCounter = (typeof NIC_COUNTERS)[number];

/** Registers of one ring. */
export const NIC_RING = {
  /** RW while the ring is disabled. Bus address of descriptor 0, a multiple of 16. */
  BASE_LO: 0x00,
  BASE_HI: 0x04,
  /** RW while the ring is disabled. Descriptors, 2 to 4096. */
  SIZE: 0x08,
  /** RW. ENABLE bit 0: a rise starts at descriptor 0. ERROR bit 1, RO: the ring stopped at an aborted access. */
  CTRL: 0x0c,
  /** RO. The next descriptor of the device. */
  HEAD: 0x10,
  /** RW. The first descriptor that is not the device's. */
  TAIL: 0x14,
  /** RW [15:0]. Interrupt vector. */
  VECTOR: 0x18,
  /** RW, receive only. Bytes of each buffer, 64 to 16384. */
  BUFFER: 0x1c,
} as const;
export const NIC_RING_BYTES = 0x40;
export const NIC_RING_CTRL = { ENABLE: 1 << 0, ERROR: 1 << 1 } as const;
export const NIC_RING_SIZE_MAX = 4096;

/**
 * A descriptor: buffer address (8 bytes), LENGTH, FLAGS, two reserved bytes, STATUS. The device writes the second half
 * back when it is done with a descriptor.
 */
export const NIC_DESCRIPTOR = { ADDRESS: 0, LENGTH: 8, FLAGS: 10, STATUS: 14, BYTES: 16 } as const;
/** EOP: the last descriptor of a frame. IRQ, transmit only: tell when it is done. */
export const NIC_DESCRIPTOR_FLAGS = { EOP: 1 << 0, IRQ: 1 << 1 } as const;
export const NIC_DESCRIPTOR_STATUS = { DONE: 1 << 0, ERROR: 1 << 1 } as const;

export const NIC_BROADCAST = 0xffff_ffff_ffff;

/** The two words of a MAC address. */
export function nicMacHi(mac: number): number {
  return Math.floor(mac / 0x1_0000) >>> 0;
}

export function nicMacLo(mac: number): number {
  return mac % 0x1_0000;
}

/** The address that stands at byte `at` of a frame. */
export function nicMacAt(frame: Uint8Array, at: number): number {
  let mac = 0;
  for (let i = 0; i < 6; i++) mac = mac * 256 + frame[at + i]!;
  return mac;
}

/** Broadcast counts as one. */
export function nicIsMulticast(mac: number): boolean {
  return (Math.floor(mac / 2 ** 40) & 1) !== 0;
}
