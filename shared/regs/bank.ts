/**
 * Storage of a register block: one 32-bit word per offset, masks and handlers in arrays by word index, nothing
 * allocated per access. RW bits are copied, W1C bits cleared, the rest kept. Offsets without a register read as zero
 * and drop writes; the first touch of each is kept in `strays`, for it is usually a driver's mistake.
 * Not modelled: byte and halfword writes; the owner of the bank decides what they do.
 */
import { assert } from '#shared/core/assert.ts';
import type { Register, Word } from './field.ts';

/** `now` is stored already; `value` is what software wrote, with the bits that were not stored. */
export type WriteHandler<R extends string> = (now: Word<R>, before: Word<R>, value: Word<R>) => void;
export type ReadHandler<R extends string> = (stored: Word<R>) => number;

export class RegBank {
  readonly #words: Uint32Array;
  readonly #rw: Uint32Array;
  readonly #w1c: Uint32Array;
  readonly #onWrite: (WriteHandler<string> | undefined)[];
  readonly #onRead: (ReadHandler<string> | undefined)[];
  readonly #writable: ((() => boolean) | undefined)[];
  readonly #registers: (Register | undefined)[];
  /** Byte offsets without a register that software touched, each once. */
  readonly strays = new Set<number>();

  constructor(sizeBytes: number, registers: readonly Register[]) {
    const count = sizeBytes / 4;
    this.#words = new Uint32Array(count);
    this.#rw = new Uint32Array(count);
    this.#w1c = new Uint32Array(count);
    this.#onWrite = new Array(count).fill(undefined);
    this.#onRead = new Array(count).fill(undefined);
    this.#writable = new Array(count).fill(undefined);
    this.#registers = new Array(count).fill(undefined);
    for (const register of registers) {
      const i = register.offset >>> 2;
      assert(i < count, `${register.id} at ${register.offset} lies outside the bank`);
      const there = this.#registers[i];
      assert(there === undefined, `${register.id} and ${there?.id} share offset ${register.offset}`);
      this.#registers[i] = register;
      this.#rw[i] = register.rwMask;
      this.#w1c[i] = register.w1cMask;
    }
    this.reset();
  }

  /** Every register back to its reset value; handlers are not called. */
  reset(): void {
    for (const register of this.#registers) {
      if (register !== undefined) this.#words[register.offset >>> 2] = register.reset;
    }
  }

  /** Runs `handler` after each write of software to `register`, also when nothing changed. */
  onWrite<R extends string>(register: Register<R>, handler: WriteHandler<R>): this {
    this.#onWrite[this.#index(register)] = handler as WriteHandler<string>;
    return this;
  }

  /** Software reads what `handler` returns instead of the stored word. */
  onRead<R extends string>(register: Register<R>, handler: ReadHandler<R>): this {
    this.#onRead[this.#index(register)] = handler as ReadHandler<string>;
    return this;
  }

  /** Writes of software are dropped while `writable` returns false. */
  writableWhile(register: Register, writable: () => boolean): this {
    this.#writable[this.#index(register)] = writable;
    return this;
  }

  /** A 32-bit read by software at an aligned byte offset. */
  read(offset: number): number {
    const i = offset >>> 2;
    const handler = this.#onRead[i];
    if (handler !== undefined) return handler(this.#words[i]! as Word<string>) >>> 0;
    if (this.#registers[i] === undefined) this.strays.add(offset);
    return this.#words[i] ?? 0;
  }

  /** A 32-bit write by software at an aligned byte offset. */
  write(offset: number, value: number): void {
    const i = offset >>> 2;
    if (this.#registers[i] === undefined) {
      this.strays.add(offset);
      return;
    }
    const writable = this.#writable[i];
    if (writable !== undefined && !writable()) return;
    const before = this.#words[i]!;
    const rw = this.#rw[i]!;
    const now = ((before & ~rw & ~(value & this.#w1c[i]!)) | (value & rw)) >>> 0;
    this.#words[i] = now;
    this.#onWrite[i]?.(now as Word<string>, before as Word<string>, (value >>> 0) as Word<string>);
  }

  /** The stored word, for the block's own use. */
  peek<R extends string>(register: Register<R>): Word<R> {
    return this.#words[register.offset >>> 2]! as Word<R>;
  }

  /** Stores a word as hardware does: no mask, no handler. */
  poke<R extends string>(register: Register<R>, value: number): void {
    this.#words[register.offset >>> 2] = value;
  }

  #index(register: Register): number {
    const i = register.offset >>> 2;
    assert(this.#registers[i] === register, `${register.id} is not a register of this bank`);
    return i;
  }
}
