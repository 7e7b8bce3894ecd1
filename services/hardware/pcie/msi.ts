/**
 * MSI: one address, up to 32 vectors in the low bits of the data, and a mask where the function has one
 * (PCIe 5.0, "MSI Capability Structures").
 */
import { msiLayout, PCI_MSI, PCI_MSI_FLAGS } from '#shared/arch/pci/msi.ts';
import type { ConfigSpace } from './config-space.ts';
import type { SendMessage } from './msix.ts';

export class Msi {
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #layout: ReturnType<typeof msiLayout>;
  readonly #send: SendMessage;
  readonly #wide: boolean;

  /** `at`: offset of the capability. All state is in the configuration space. */
  constructor(config: ConfigSpace, at: number, send: SendMessage) {
    this.#config = config;
    this.#at = at;
    this.#send = send;
    const flags = config.u16(at + PCI_MSI.FLAGS);
    this.#layout = msiLayout(flags);
    this.#wide = (flags & PCI_MSI_FLAGS.ADDRESS_64) !== 0;
  }

  get enabled(): boolean {
    return (this.#flags & PCI_MSI_FLAGS.ENABLE) !== 0;
  }

  /** Vectors that software enabled: 1, 2, 4 .. 32, at most what the function can send. */
  get vectors(): number {
    const { MULTIPLE_CAPABLE_SHIFT, MULTIPLE_ENABLE_SHIFT, MULTIPLE_MASK } = PCI_MSI_FLAGS;
    const capable = (this.#flags >>> MULTIPLE_CAPABLE_SHIFT) & MULTIPLE_MASK;
    return 1 << Math.min((this.#flags >>> MULTIPLE_ENABLE_SHIFT) & MULTIPLE_MASK, capable, 5);
  }

  /** A function that was given fewer vectors than it would use folds them: vector v goes out as v modulo their number. */
  raise(vector: number): void {
    if (!this.enabled) return;
    const v = vector % this.vectors;
    const { mask, pending } = this.#layout;
    const bit = 2 ** v;
    if (mask >= 0 && (this.#config.u32(this.#at + mask) & bit) !== 0)
      this.#config.poke(this.#at + pending, 4, bit, 0xffff_ffff);
    else this.#deliver(v);
  }

  /** After a write to the capability: what is pending and no longer masked goes out. */
  onWritten(): void {
    const { mask, pending } = this.#layout;
    if (!this.enabled || mask < 0) return;
    const due = this.#config.u32(this.#at + pending) & ~this.#config.u32(this.#at + mask);
    for (let v = 0; v < this.vectors; v++) {
      if ((due & (1 << v)) === 0) continue;
      this.#config.poke(this.#at + pending, 4, 2 ** v, 0);
      this.#deliver(v);
    }
  }

  reset(): void {
    if (this.#layout.pending >= 0) this.#config.poke(this.#at + this.#layout.pending, 4, 0xffff_ffff, 0);
  }

  /** Whether a configuration write at `offset` is inside the capability. */
  touchedBy(offset: number): boolean {
    return offset >= this.#at && offset < this.#at + this.#layout.bytes;
  }

  get #flags(): number {
    return this.#config.u16(this.#at + PCI_MSI.FLAGS);
  }

  #deliver(vector: number): void {
    const low = this.#config.u32(this.#at + PCI_MSI.ADDRESS_LO);
    const high = this.#wide ? this.#config.u32(this.#at + PCI_MSI.ADDRESS_HI) : 0;
    const data = this.#config.u16(this.#at + this.#layout.data);
    this.#send(high * 2 ** 32 + low, (data & ~(this.vectors - 1)) | vector);
  }
}
