/**
 * MSI-X: the table, the pending bits, masks, and delivery when a mask goes away (PCIe 5.0, "MSI-X Capability and Table
 * Structure").
 * Table and pending bits take aligned 32-bit accesses; a smaller write is dropped. A change of address or data of an
 * unmasked entry holds from the next message on.
 */
import { msixPbaBytes, PCI_MSIX_ENTRY, PCI_MSIX_ENTRY_MASKED, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { loadArray } from '../state/saved.ts';
import type { MsixShape } from './bar.ts';

/** Sends one message; false when the function may not (no bus master, not in D0): it is lost then. */
export type SendMessage = (address: number, data: number) => boolean;

const ENTRY_WORDS = PCI_MSIX_ENTRY.BYTES / 4;
const CTRL_WORD = PCI_MSIX_ENTRY.VECTOR_CTRL / 4;

export class Msix {
  readonly shape: MsixShape;
  readonly #words: Uint32Array;
  readonly #pending: Uint32Array;
  readonly #flags: () => number;
  readonly #send: SendMessage;

  /** `flags` reads the capability's FLAGS as they are now. */
  constructor(shape: MsixShape, flags: () => number, send: SendMessage) {
    this.shape = shape;
    this.#flags = flags;
    this.#send = send;
    this.#words = new Uint32Array(shape.vectors * ENTRY_WORDS);
    this.#pending = new Uint32Array(msixPbaBytes(shape.vectors) / 4);
    this.reset();
  }

  get enabled(): boolean {
    return (this.#flags() & PCI_MSIX_FLAGS.ENABLE) !== 0;
  }

  /** Every entry masked, nothing pending. */
  reset(): void {
    this.#words.fill(0);
    this.#pending.fill(0);
    for (let v = 0; v < this.shape.vectors; v++) this.#words[v * ENTRY_WORDS + CTRL_WORD] = PCI_MSIX_ENTRY_MASKED;
  }

  /** The function has something to say on `vector`. Without Enable nothing is said and nothing is remembered. */
  raise(vector: number): void {
    if (vector >= this.shape.vectors || !this.enabled) return;
    if (this.#masked(vector)) this.#pending[vector >>> 5]! |= 1 << (vector & 31);
    else this.#deliver(vector);
  }

  /** After a write to FLAGS: what was only waiting for the function mask goes out. */
  onFlagsWritten(): void {
    if (!this.enabled) return;
    for (let v = 0; v < this.shape.vectors; v++) this.#deliverPending(v);
  }

  /** Whether a BAR offset belongs to the table or the pending bits. */
  covers(bar: number, offset: number): boolean {
    return this.#tableWord(bar, offset) >= 0 || this.#pbaWord(bar, offset) >= 0;
  }

  read(bar: number, offset: number, size: number): number {
    const table = this.#tableWord(bar, offset);
    const word = table >= 0 ? this.#words[table]! : this.#pending[this.#pbaWord(bar, offset)]!;
    if (size === 4) return word;
    return (word >>> (8 * (offset & 3))) & (size === 2 ? 0xffff : 0xff);
  }

  write(bar: number, offset: number, size: number, value: number): void {
    const word = this.#tableWord(bar, offset);
    if (word < 0 || size !== 4) return; // the pending bits are read-only
    const field = word % ENTRY_WORDS;
    if (field === CTRL_WORD) {
      this.#words[word] = value & PCI_MSIX_ENTRY_MASKED;
      this.#deliverPending(Math.floor(word / ENTRY_WORDS));
    } else this.#words[word] = field === 0 ? value & ~3 : value;
  }

  save(): unknown {
    return { words: this.#words.slice(), pending: this.#pending.slice() };
  }

  load(state: unknown): void {
    const saved = state as { words: Uint32Array; pending: Uint32Array };
    loadArray(this.#words, saved.words, 'MSI-X table');
    loadArray(this.#pending, saved.pending, 'MSI-X pending bits');
  }

  inspect(): unknown {
    const unmasked = [];
    const pending = [];
    for (let v = 0; v < this.shape.vectors; v++) {
      if ((this.#words[v * ENTRY_WORDS + CTRL_WORD]! & PCI_MSIX_ENTRY_MASKED) === 0) unmasked.push(v);
      if (this.#isPending(v)) pending.push(v);
    }
    const masked = (this.#flags() & PCI_MSIX_FLAGS.MASKALL) !== 0;
    return { vectors: this.shape.vectors, enabled: this.enabled, functionMasked: masked, unmasked, pending };
  }

  #masked(vector: number): boolean {
    return (
      (this.#flags() & PCI_MSIX_FLAGS.MASKALL) !== 0 ||
      (this.#words[vector * ENTRY_WORDS + CTRL_WORD]! & PCI_MSIX_ENTRY_MASKED) !== 0
    );
  }

  #isPending(vector: number): boolean {
    return (this.#pending[vector >>> 5]! & (1 << (vector & 31))) !== 0;
  }

  #deliverPending(vector: number): void {
    if (!this.#isPending(vector) || !this.enabled || this.#masked(vector)) return;
    this.#pending[vector >>> 5]! &= ~(1 << (vector & 31));
    this.#deliver(vector);
  }

  #deliver(vector: number): void {
    const at = vector * ENTRY_WORDS;
    this.#send(this.#words[at + 1]! * 2 ** 32 + this.#words[at]!, this.#words[at + 2]!);
  }

  #tableWord(bar: number, offset: number): number {
    const { tableBar, tableOffset, vectors } = this.shape;
    const at = offset - tableOffset;
    return bar === tableBar && at >= 0 && at < vectors * PCI_MSIX_ENTRY.BYTES ? at >>> 2 : -1;
  }

  #pbaWord(bar: number, offset: number): number {
    const { pbaBar, pbaOffset } = this.shape;
    const at = offset - pbaOffset;
    return bar === pbaBar && at >= 0 && at < this.#pending.length * 4 ? at >>> 2 : -1;
  }
}
