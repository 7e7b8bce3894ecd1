/**
 * What the requests of one fabric have in common while they are on their way: how the last failed one ended, how deep
 * requests are nested, and how many never met an SMMU.
 * A request that reaches a register may make that device send one itself. On silicon these are queued and nothing
 * stops two devices from writing each other's doorbells for ever; here they are nested calls, so the nesting is bounded:
 * what would go deeper than PEER_DEPTH_MAX is not delivered, ends as an unsupported request, and is counted.
 */

/** How a request ended (PCIe 5.0, "Completion Status"). TIMEOUT: no completion came. */
export const COMPLETION = { SUCCESS: 0, UNSUPPORTED: 1, ABORT: 2, TIMEOUT: 3 } as const;

/** Address type of a memory request, as in its header (PCIe 5.0, "Address Type Field"). */
export const ADDRESS_TYPE = { UNTRANSLATED: 0, TRANSLATION_REQUEST: 1, TRANSLATED: 2 } as const;

/** Requests of devices to registers of devices that may be nested in one another. */
export const PEER_DEPTH_MAX = 8;

export class Route {
  /** How the last request that did not succeed ended. Read it before another request is made. */
  status: number = COMPLETION.SUCCESS;
  /** Of the request that is being delivered, for those who log it. */
  rid = 0;
  addressType = 0;
  address = 0;
  /**
   * The address of the request that is under way, when it is 2^53 or more: as a number it is then only near. Nothing of
   * the fabric answers there, so it goes up, and the host bridge takes it from here.
   */
  wide: bigint | undefined;
  /** Rises when a configuration request may reach another function than before. */
  topology = 0;
  /** Pieces of requests that were turned around below the host bridge. */
  peerRequests = 0;
  /** Pieces that came back to a window of the host bridge through the SMMU. */
  redirectedRequests = 0;
  /** Pieces that were dropped at PEER_DEPTH_MAX. */
  tooDeep = 0;
  #depth = 0;

  /** Whether one more request may be nested. Each true needs a `leave`. */
  enter(): boolean {
    if (this.#depth >= PEER_DEPTH_MAX) {
      this.tooDeep++;
      this.status = COMPLETION.UNSUPPORTED;
      return false;
    }
    this.#depth++;
    return true;
  }

  leave(): void {
    this.#depth--;
  }

  save(): unknown {
    return this.inspect();
  }

  load(state: unknown): void {
    const { peerRequests, redirectedRequests, tooDeep } = state as Record<
      'peerRequests' | 'redirectedRequests' | 'tooDeep',
      number
    >;
    this.peerRequests = peerRequests;
    this.redirectedRequests = redirectedRequests;
    this.tooDeep = tooDeep;
    this.topology++;
  }

  inspect(): Record<string, unknown> {
    const { peerRequests, redirectedRequests, tooDeep } = this;
    return { peerRequests, redirectedRequests, tooDeep };
  }
}
