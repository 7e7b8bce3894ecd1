/**
 * Addresses of 64 bits, as devices put them out: a number where numbers are exact, and a bigint from 2^53 on. No memory
 * has such an address, but stage 1 may translate one (the upper half), and what an SMMU records of one that faults is all
 * of it.
 */
export type Address64 = number | bigint;

const HIGH = 0x1_0000_0000;
/** High words from here on make a bigint. */
const WIDE_HIGH = 2 ** 21;

/** `high`:`low`, each of 32 bits; what is given as a negative integer counts as its bits. */
export function address64(high: number, low: number): Address64 {
  const [h, l] = [high >>> 0, low >>> 0];
  return h < WIDE_HIGH ? h * HIGH + l : (BigInt(h) << 32n) | BigInt(l);
}

/** Bits [63:32]. */
export function highOf(address: Address64): number {
  return typeof address === 'bigint' ? Number(address >> 32n) : Math.floor(address / HIGH);
}

/** Bits [31:0]. */
export function lowOf(address: Address64): number {
  return typeof address === 'bigint' ? Number(address & 0xffff_ffffn) : address % HIGH;
}

/** `bytes` further on, modulo 2^64. */
export function addressPlus(address: Address64, bytes: number): Address64 {
  if (typeof address === 'number' && address + bytes <= Number.MAX_SAFE_INTEGER) return address + bytes;
  const sum = BigInt.asUintN(64, BigInt(address) + BigInt(bytes));
  return sum <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(sum) : sum;
}

/** As JSON has it: the number, or `0x` and sixteen digits. */
export function addressJson(address: Address64): number | string {
  return typeof address === 'bigint' ? `0x${address.toString(16)}` : address;
}
