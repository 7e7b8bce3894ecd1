/**
 * The way of a host bridge's DMA to memory: through the SMMU that `iommu-map` names for the requester, or straight to
 * the bus for a bridge without one (Linux binding pci-iommu.txt: its devices are not behind an IOMMU). A requester that
 * a map leaves out never comes here: the host bridge aborts it.
 * What goes straight is cut by the bus alone: RAM as a block, register blocks in aligned words that carry the requester
 * on, so a message of such a device reaches an ITS too.
 */
import { lookupRid, type RidMap } from '#shared/fdt/pci-bindings.ts';
import type { Bus } from './bus/bus.ts';
import type { DmaTranslator, Requester } from './bus/transaction.ts';

export class DmaRouter implements DmaTranslator {
  readonly #iommuMap: RidMap;
  readonly #smmuOf: (phandle: number) => DmaTranslator;
  readonly #untranslated: DmaTranslator;
  /** By bus, then by device and function. */
  readonly #ways: (DmaTranslator | undefined)[][] = Array.from({ length: 256 }, () => []);

  /** `smmuOf` gives the SMMU of a phandle that the map names. */
  constructor(bus: Bus, iommuMap: RidMap, smmuOf: (phandle: number) => DmaTranslator) {
    this.#iommuMap = iommuMap;
    this.#smmuOf = smmuOf;
    this.#untranslated = {
      dmaRead: (requester, iova, into) => bus.readBytes(iova, into, 0, into.length, requester),
      dmaWrite: (requester, iova, from) => bus.writeBytes(iova, from, 0, from.length, requester),
      dmaWide: () => 0,
    };
  }

  dmaRead(requester: Requester, iova: number, into: Uint8Array): number {
    return this.#of(requester).dmaRead(requester, iova, into);
  }

  dmaWrite(requester: Requester, iova: number, from: Uint8Array): number {
    return this.#of(requester).dmaWrite(requester, iova, from);
  }

  dmaWide(requester: Requester, iova: bigint, data: Uint8Array, write: boolean): number {
    return this.#of(requester).dmaWide(requester, iova, data, write);
  }

  #of(requester: Requester): DmaTranslator {
    const { rid } = requester;
    const ofBus = this.#ways[(rid >>> 8) & 0xff]!;
    let way = ofBus[rid & 0xff];
    if (way === undefined) {
      const row = lookupRid(this.#iommuMap, rid);
      way = row === undefined ? this.#untranslated : this.#smmuOf(row.phandle);
      ofBus[rid & 0xff] = way;
    }
    return way;
  }
}
