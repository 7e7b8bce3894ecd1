/**
 * One PCI function that dom0 reported, and who holds it (struct pci_dev): exactly one of a guest, the hardware domain
 * and DOMID_IO, which is quarantine. A function's StreamID and DeviceID come from the device tree of the bridge that
 * serves its segment (`iommu-map`, `msi-map`), and need not be its requester id.
 * Not modelled: phantom functions, NUMA nodes (XEN_PCI_DEV_PXM is accepted and not kept).
 */
import { assert } from '#shared/core/assert.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import type { HostIts } from '../host-gic/its.ts';
import type { P2mView } from '../mm/p2m-view.ts';
import type { MappedId } from './host-bridge.ts';
import type { GuestDevice } from './sbdf-map.ts';

/** A domain or DOMID_IO. */
export interface PciOwner {
  readonly domid: number;
  readonly pdevs: PciDevice[];
}

export interface PciDeviceFacts {
  readonly sbdf: Sbdf;
  /** Undefined for a function behind no SMMU: it cannot be assigned. */
  readonly stream: MappedId | undefined;
  /** Undefined for a function that no ITS serves: it has no MSIs. */
  readonly msi: { readonly its: HostIts; readonly deviceId: number } | undefined;
  /** Of a virtual function: its physical one. */
  readonly physfn: PciDevice | undefined;
}

export class PciDevice implements GuestDevice {
  readonly sbdf: Sbdf;
  readonly stream: MappedId | undefined;
  readonly msi: { readonly its: HostIts; readonly deviceId: number } | undefined;
  readonly physfn: PciDevice | undefined;
  /** Virtual functions of a physical one. */
  readonly vfs = new Set<PciDevice>();
  guestSbdf: Sbdf | undefined;
  /** The view of its guest's tables that its DMA goes through; undefined for the tables themselves, and for nobody's. */
  view: P2mView | undefined;
  /** It came through DOMID_IO, and returns there when a guest loses it. */
  quarantine = false;
  /** Something about it went wrong: no guest may have it. */
  broken = false;
  #owner: PciOwner;

  constructor(facts: PciDeviceFacts, owner: PciOwner) {
    this.sbdf = facts.sbdf;
    this.stream = facts.stream;
    this.msi = facts.msi;
    this.physfn = facts.physfn;
    this.#owner = owner;
    owner.pdevs.push(this);
    facts.physfn?.vfs.add(this);
  }

  get owner(): PciOwner {
    return this.#owner;
  }

  /** Moves it from one list to another; its name in a guest goes with the guest. */
  moveTo(owner: PciOwner, guestSbdf: Sbdf | undefined): void {
    this.#unlist();
    this.#owner = owner;
    this.guestSbdf = guestSbdf;
    owner.pdevs.push(this);
  }

  /** It is gone. */
  dispose(): void {
    this.#unlist();
    this.physfn?.vfs.delete(this);
  }

  #unlist(): void {
    const at = this.#owner.pdevs.indexOf(this);
    assert(at >= 0, () => `${formatSbdf(this.sbdf)} is not in the list of d${this.#owner.domid}`);
    this.#owner.pdevs.splice(at, 1);
  }
}
