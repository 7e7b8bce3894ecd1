/**
 * Asynchronous events of an NVMe controller (NVM Express 1.4, "Asynchronous Event Request command"): commands that the
 * host leaves with the controller, and events that take one each.
 * After an event of a type was told, the type is silent until the host has read the log page that belongs to it.
 * Not modelled: notices; nothing changes namespaces or firmware here (Identify: OAES = 0).
 */
import { NVME_EVENT, NVME_LOG } from '#shared/arch/nvme.ts';

/** AERL: requests that may be outstanding, less one. */
export const NVME_AERL = 3;

interface Event {
  readonly type: number;
  readonly information: number;
}

const PAGE_OF: readonly number[] = [NVME_LOG.ERROR, NVME_LOG.SMART, NVME_LOG.CHANGED_NAMESPACES];

export class NvmeEvents {
  /** Command identifiers of the requests that wait, oldest first. */
  #requests: number[] = [];
  /** Events that no request has taken yet, each kind once. */
  #pending: Event[] = [];
  readonly #silent = new Set<number>();

  reset(): void {
    this.#requests = [];
    this.#pending = [];
    this.#silent.clear();
  }

  get full(): boolean {
    return this.#requests.length > NVME_AERL;
  }

  /** Whether a request with this command identifier waits. */
  holds(cid: number): boolean {
    return this.#requests.includes(cid);
  }

  request(cid: number): void {
    this.#requests.push(cid);
  }

  /** Takes a request back; false when there is none of that identifier. */
  abort(cid: number): boolean {
    const at = this.#requests.indexOf(cid);
    if (at >= 0) this.#requests.splice(at, 1);
    return at >= 0;
  }

  raise(type: number, information: number): void {
    if (this.#pending.some((event) => event.type === type && event.information === information)) return;
    this.#pending.push({ type, information });
  }

  get deliverable(): boolean {
    return this.#requests.length > 0 && this.#nextIndex() >= 0;
  }

  /** The next completion of a request: its identifier and DW0. Undefined when nothing can be told now. */
  take(): { readonly cid: number; readonly dw0: number } | undefined {
    const at = this.#nextIndex();
    if (at < 0 || this.#requests.length === 0) return undefined;
    const [event] = this.#pending.splice(at, 1) as [Event];
    const cid = this.#requests.shift()!;
    this.#silent.add(event.type);
    return { cid, dw0: event.type | (event.information << 8) | (PAGE_OF[event.type]! << 16) };
  }

  /** The host has read a log page without asking to retain its event. */
  pageRead(page: number): void {
    for (const type of Object.values(NVME_EVENT)) if (PAGE_OF[type] === page) this.#silent.delete(type);
  }

  save(): unknown {
    return { requests: [...this.#requests], pending: [...this.#pending], silent: [...this.#silent] };
  }

  load(state: unknown): void {
    const saved = state as { requests: number[]; pending: Event[]; silent: number[] };
    this.#requests = [...saved.requests];
    this.#pending = [...saved.pending];
    this.#silent.clear();
    for (const type of saved.silent) this.#silent.add(type);
  }

  inspect(): unknown {
    return { requests: this.#requests.length, pending: this.#pending.length };
  }

  #nextIndex(): number {
    return this.#pending.findIndex((event) => !this.#silent.has(event.type));
  }
}
