/**
 * One function's configuration space: the bytes of its dump, of which software may change what is declared here as
 * writable, bit by bit, and accesses of 1, 2 and 4 bytes. Which bits those are is in config-fields.ts.
 */

import { loadArray } from '../state/saved.ts';
import type { ResetKind } from './reset.ts';

export class ConfigSpace {
  /** Bytes that answer. Beyond them: all ones, writes dropped. */
  readonly sizeBytes: number;
  readonly #bytes: Uint8Array;
  readonly #writable: Uint8Array;
  readonly #w1c: Uint8Array;
  readonly #atReset: Uint8Array;
  readonly #atPowerOn: Uint8Array;
  /** Bits that live through every reset but power-on, and those that only a Function Level Reset leaves. */
  readonly #sticky: Uint8Array;
  readonly #throughFlr: Uint8Array;
  /** What the function itself writes into read-only bytes, as it is at power-on. */
  readonly #initial: { readonly offset: number; readonly bytes: Uint8Array }[];
  /** Every byte as it was before the function began to change read-only ones on its own. */
  #declared: Uint8Array | undefined;

  /**
   * Starts with the dump's bytes, zeros behind them, and nothing writable; or, with `like`, as a twin of that one: its
   * bytes as they are now, and the same fields, which are then shared.
   */
  constructor(dump: Uint8Array, sizeBytes: number, like?: ConfigSpace) {
    this.sizeBytes = sizeBytes;
    this.#bytes = new Uint8Array(sizeBytes);
    this.#bytes.set(like === undefined ? dump.subarray(0, sizeBytes) : like.#bytes);
    this.#initial = like === undefined ? [] : like.#initial;
    this.#writable = like === undefined ? new Uint8Array(sizeBytes) : like.#writable;
    this.#w1c = like === undefined ? new Uint8Array(sizeBytes) : like.#w1c;
    this.#atReset = like === undefined ? new Uint8Array(sizeBytes) : like.#atReset;
    this.#atPowerOn = like === undefined ? new Uint8Array(sizeBytes) : like.#atPowerOn;
    this.#sticky = like === undefined ? new Uint8Array(sizeBytes) : like.#sticky;
    this.#throughFlr = like === undefined ? new Uint8Array(sizeBytes) : like.#throughFlr;
  }

  // Declaring fields.

  /** Bits of `mask` are RW and are those of `atReset` after every reset, power-on too. */
  allow(offset: number, size: number, mask: number, atReset = 0): void {
    this.#declare(offset, size, mask, atReset, atReset);
  }

  /** Bits of `mask` are RW: at power-on as they were dumped, and those of `atReset` after any other reset. */
  adopt(offset: number, size: number, mask: number, atReset = 0): void {
    this.#declare(offset, size, mask, atReset, this.read(offset, size));
  }

  /** Bits of `mask` are read-only after all, and zero. */
  forbid(offset: number, size: number, mask: number): void {
    for (let i = 0; i < size; i++) this.#writable[offset + i]! &= ~(mask >>> (8 * i));
    this.poke(offset, size, mask, 0);
  }

  /** Bits of `mask` are cleared by writing a one. At power-on they are as dumped, after any other reset zero. */
  allowW1c(offset: number, size: number, mask: number): void {
    for (let i = 0; i < size; i++) {
      const m = (mask >>> (8 * i)) & 0xff;
      this.#w1c[offset + i]! |= m;
      this.#atPowerOn[offset + i]! |= this.#bytes[offset + i]! & m;
    }
  }

  /** Bytes that keep their value through every reset but power-on. */
  keep(offset: number, size: number): void {
    this.#sticky.fill(0xff, offset, offset + size);
  }

  /** Bits of `mask` keep their value through a Function Level Reset. */
  keepThroughFlr(offset: number, size: number, mask: number): void {
    for (let i = 0; i < size; i++) this.#throughFlr[offset + i]! |= (mask >>> (8 * i)) & 0xff;
  }

  /** Read-only bytes that the function changes by `poke`: every reset but power-on leaves them. */
  log(offset: number, size: number): void {
    this.#initial.push({ offset, bytes: this.#bytes.slice(offset, offset + size) });
  }

  /** Sets bits of `mask` to those of `value`, whatever software may do. For the function itself. */
  poke(offset: number, size: number, mask: number, value: number): void {
    for (let i = 0; i < size; i++) {
      const m = (mask >>> (8 * i)) & 0xff;
      this.#bytes[offset + i] = (this.#bytes[offset + i]! & ~m) | ((value >>> (8 * i)) & m);
    }
  }

  /** Changes one byte on its own, read-only bits too; only power-on makes it again what it was. */
  misbehave(offset: number, value: number): void {
    if (offset >= this.sizeBytes) return;
    this.#declared ??= this.#bytes.slice();
    this.#bytes[offset] = value;
  }

  save(): unknown {
    return { bytes: this.#bytes.slice(), declared: this.#declared?.slice() };
  }

  load(state: unknown): void {
    const saved = state as { bytes: Uint8Array; declared: Uint8Array | undefined };
    loadArray(this.#bytes, saved.bytes, 'configuration space');
    this.#declared = saved.declared?.slice();
  }

  // Accesses.

  read(offset: number, size: number): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + (this.#bytes[offset + i] ?? 0xff);
    return value;
  }

  write(offset: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      if (at >= this.sizeBytes) return;
      const byte = (value >>> (8 * i)) & 0xff;
      const rw = this.#writable[at]!;
      this.#bytes[at] = (this.#bytes[at]! & ~rw & ~(byte & this.#w1c[at]!)) | (byte & rw);
    }
  }

  u8(offset: number): number {
    return this.#bytes[offset]!;
  }

  u16(offset: number): number {
    return this.#bytes[offset]! | (this.#bytes[offset + 1]! << 8);
  }

  u32(offset: number): number {
    return (this.u16(offset) | (this.u16(offset + 2) << 16)) >>> 0;
  }

  /** Writable bits take their reset values, and read-only ones stay. */
  reset(kind: ResetKind): void {
    const powerOn = kind === 'power-on';
    if (powerOn && this.#declared !== undefined) {
      this.#bytes.set(this.#declared);
      this.#declared = undefined;
    }
    if (powerOn) for (const { offset, bytes } of this.#initial) this.#bytes.set(bytes, offset);
    const values = powerOn ? this.#atPowerOn : this.#atReset;
    for (let at = 0; at < this.sizeBytes; at++) {
      let changes = this.#writable[at]! | this.#w1c[at]!;
      if (!powerOn) changes &= ~this.#sticky[at]!;
      if (kind === 'function') changes &= ~this.#throughFlr[at]!;
      this.#bytes[at] = (this.#bytes[at]! & ~changes) | (values[at]! & changes);
    }
  }

  #declare(offset: number, size: number, mask: number, atReset: number, atPowerOn: number): void {
    for (let i = 0; i < size; i++) {
      const m = (mask >>> (8 * i)) & 0xff;
      this.#writable[offset + i]! |= m;
      this.#atReset[offset + i]! |= (atReset >>> (8 * i)) & m;
      this.#atPowerOn[offset + i]! |= (atPowerOn >>> (8 * i)) & m;
    }
  }
}
