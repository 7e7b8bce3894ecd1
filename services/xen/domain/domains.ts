/** Every domain there is, the next domain id, and the VMIDs in use. */
import { DOMID_FIRST_RESERVED } from '#shared/abi/hypercall.ts';
import { XenError } from '../error.ts';
import { type Domain, DomIo } from './domain.ts';

/** VTCR_EL2.VS is 0: VMIDs have 8 bits. VMID 0 is nobody's, as in Xen. */
const VMID_MAX = 255;

export class Domains {
  readonly #domains = new Map<number, Domain>();
  readonly #vmids = new Set<number>();
  #lastDomid = 0;
  /** Holds quarantined devices. */
  readonly domIo = new DomIo();

  get(domid: number): Domain | undefined {
    return this.#domains.get(domid);
  }

  all(): Domain[] {
    return [...this.#domains.values()];
  }

  /** The hardware domain. */
  get hardwareDomain(): Domain | undefined {
    return this.#domains.get(0);
  }

  add(domain: Domain): void {
    this.#domains.set(domain.domid, domain);
  }

  /** The domain is no more: its id and VMID may be used again. */
  remove(domain: Domain): void {
    this.#domains.delete(domain.domid);
    this.freeVmid(domain.vmid);
  }

  /** The id for a new domain: `wanted`, or the first free one after the last that was given out. Throws XenError. */
  chooseDomid(wanted: number): number {
    if (wanted > 0 && wanted < DOMID_FIRST_RESERVED) {
      if (this.#domains.has(wanted)) throw new XenError('EEXIST', `d${wanted} exists`);
      return wanted;
    }
    for (let i = 1; i < DOMID_FIRST_RESERVED; i++) {
      const domid = ((this.#lastDomid + i - 1) % (DOMID_FIRST_RESERVED - 1)) + 1;
      if (this.#domains.has(domid)) continue;
      this.#lastDomid = domid;
      return domid;
    }
    throw new XenError('ENOMEM', 'every domain id is taken');
  }

  /** Throws XenError EBUSY when all are in use (p2m_alloc_vmid). */
  allocVmid(): number {
    for (let vmid = 1; vmid <= VMID_MAX; vmid++) {
      if (this.#vmids.has(vmid)) continue;
      this.#vmids.add(vmid);
      return vmid;
    }
    throw new XenError('EBUSY', 'every VMID is in use');
  }

  freeVmid(vmid: number): void {
    this.#vmids.delete(vmid);
  }
}
