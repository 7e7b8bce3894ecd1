/** The store rings of all introduced domains but dom0, by domain and by dom0's port (services/xenstored/ring.ts). */
import { type RingDaemon, type RingRunner, StoreRing } from './ring.ts';

export class DomainRings {
  readonly #runner: RingRunner;
  readonly #daemon: RingDaemon;
  readonly #rings = new Map<number, StoreRing>();

  constructor(runner: RingRunner, daemon: RingDaemon) {
    this.#runner = runner;
    this.#daemon = daemon;
  }

  /** Opens the ring of a domain, or starts an open one anew. `port` is what the domain offers; 0 when it is not known. */
  open(domid: number, port: number): void {
    if (domid === 0) return;
    let ring = this.#rings.get(domid);
    if (ring === undefined) {
      ring = new StoreRing(this.#runner, this.#daemon, domid, () => this.#rings.delete(domid));
      this.#rings.set(domid, ring);
    }
    ring.open(port);
  }

  release(domid: number): void {
    this.#rings.get(domid)?.release();
  }

  /** A port of dom0 had an event. One that is not known belongs to a ring that is not open yet, or to none any more. */
  onEvent(port: number): void {
    for (const ring of this.#rings.values()) if (ring.port === port) ring.kick();
  }

  /** By domid. */
  inspect(): Record<string, object> {
    return Object.fromEntries([...this.#rings].map(([domid, ring]) => [domid, ring.inspect()]));
  }
}
