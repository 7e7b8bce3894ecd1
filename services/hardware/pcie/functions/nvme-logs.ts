/**
 * Log pages of an NVMe controller (NVM Express 1.4, "Get Log Page command"): errors, SMART, firmware slots, changed
 * namespaces; and the counters behind them. They live through resets.
 * Not modelled: other pages (Invalid Log Page); SMART values that age a medium: wear, spare and hours stay as new.
 */
import { NVME_LOG } from '#shared/arch/nvme.ts';
import {
  NVME_ERROR_LOG,
  NVME_ERROR_LOG_BYTES,
  NVME_FIRMWARE_LOG,
  NVME_NAMESPACE_LIST_BYTES,
  NVME_SMART,
  NVME_SMART_BYTES,
  NVME_SMART_WARNING_TEMPERATURE,
} from '#shared/arch/nvme-data.ts';

/** Entries that the error log keeps (ELPE is one less). */
export const NVME_ERROR_ENTRIES = 64;
/** Kelvin: the composite temperature, which never changes. */
export const NVME_TEMPERATURE = 310;
const FIRMWARE = 'CULVERT1';
const DATA_UNIT_BYTES = 512_000;

export interface LoggedError {
  readonly sqid: number;
  readonly cid: number;
  /** The status field, 15 bits. */
  readonly status: number;
  readonly lba: number;
  readonly nsid: number;
}

export class NvmeLogs {
  #errors: (LoggedError & { readonly count: number })[] = [];
  readonly #counts = { errors: 0, reads: 0, writes: 0, bytesRead: 0, bytesWritten: 0, powerCycles: 1, mediaErrors: 0 };
  /** Outside the thresholds that the host set. */
  temperatureWarning = false;

  countRead(bytes: number): void {
    this.#counts.reads++;
    this.#counts.bytesRead += bytes;
  }

  countWrite(bytes: number): void {
    this.#counts.writes++;
    this.#counts.bytesWritten += bytes;
  }

  /** A medium did not take what it was given. */
  countMediaError(): void {
    this.#counts.mediaErrors++;
  }

  error(entry: LoggedError): void {
    this.#counts.errors++;
    this.#errors.unshift({ ...entry, count: this.#counts.errors });
    if (this.#errors.length > NVME_ERROR_ENTRIES) this.#errors.pop();
  }

  /** The whole page, or undefined when there is none of that identifier. */
  page(id: number): Uint8Array | undefined {
    switch (id) {
      case NVME_LOG.ERROR:
        return this.#errorPage();
      case NVME_LOG.SMART:
        return this.#smartPage();
      case NVME_LOG.FIRMWARE: {
        const page = new Uint8Array(NVME_FIRMWARE_LOG.BYTES);
        page[NVME_FIRMWARE_LOG.AFI] = 1;
        ascii(page, NVME_FIRMWARE_LOG.FRS1, FIRMWARE, 8);
        return page;
      }
      case NVME_LOG.CHANGED_NAMESPACES:
        return new Uint8Array(NVME_NAMESPACE_LIST_BYTES);
      default:
        return undefined;
    }
  }

  get firmware(): string {
    return FIRMWARE;
  }

  save(): unknown {
    return { errors: [...this.#errors], counts: { ...this.#counts }, temperatureWarning: this.temperatureWarning };
  }

  load(state: unknown): void {
    const saved = state as ReturnType<
      () => { errors: []; counts: Record<string, number>; temperatureWarning: boolean }
    >;
    this.#errors = [...saved.errors];
    Object.assign(this.#counts, saved.counts);
    this.temperatureWarning = saved.temperatureWarning;
  }

  inspect(): unknown {
    return { ...this.#counts };
  }

  #errorPage(): Uint8Array {
    const page = new Uint8Array(NVME_ERROR_ENTRIES * NVME_ERROR_LOG_BYTES);
    const view = new DataView(page.buffer);
    for (const [i, error] of this.#errors.entries()) {
      const at = i * NVME_ERROR_LOG_BYTES;
      putU64(view, at + NVME_ERROR_LOG.COUNT, error.count);
      view.setUint16(at + NVME_ERROR_LOG.SQID, error.sqid, true);
      view.setUint16(at + NVME_ERROR_LOG.CID, error.cid, true);
      view.setUint16(at + NVME_ERROR_LOG.STATUS, error.status << 1, true);
      view.setUint16(at + NVME_ERROR_LOG.LOCATION, 0xffff, true);
      putU64(view, at + NVME_ERROR_LOG.LBA, error.lba);
      view.setUint32(at + NVME_ERROR_LOG.NSID, error.nsid, true);
    }
    return page;
  }

  #smartPage(): Uint8Array {
    const page = new Uint8Array(NVME_SMART_BYTES);
    const view = new DataView(page.buffer);
    const counts = this.#counts;
    page[NVME_SMART.CRITICAL_WARNING] = this.temperatureWarning ? NVME_SMART_WARNING_TEMPERATURE : 0;
    view.setUint16(NVME_SMART.TEMPERATURE, NVME_TEMPERATURE, true);
    page[NVME_SMART.AVAILABLE_SPARE] = 100;
    page[NVME_SMART.SPARE_THRESHOLD] = 10;
    putU64(view, NVME_SMART.DATA_UNITS_READ, Math.ceil(counts.bytesRead / DATA_UNIT_BYTES));
    putU64(view, NVME_SMART.DATA_UNITS_WRITTEN, Math.ceil(counts.bytesWritten / DATA_UNIT_BYTES));
    putU64(view, NVME_SMART.HOST_READS, counts.reads);
    putU64(view, NVME_SMART.HOST_WRITES, counts.writes);
    putU64(view, NVME_SMART.POWER_CYCLES, counts.powerCycles);
    putU64(view, NVME_SMART.MEDIA_ERRORS, counts.mediaErrors);
    putU64(view, NVME_SMART.ERROR_LOG_ENTRIES, counts.errors);
    return page;
  }
}

/** Text padded with spaces, as the specification wants its strings. */
export function ascii(into: Uint8Array, at: number, text: string, bytes: number): void {
  for (let i = 0; i < bytes; i++) into[at + i] = i < text.length ? text.charCodeAt(i) & 0x7f : 0x20;
}

export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}
