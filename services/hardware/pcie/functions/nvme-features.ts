/**
 * Features of an NVMe controller (NVM Express 1.4, "Get Features command", "Set Features command").
 * No feature is saveable; a reset gives every one its default.
 * Not modelled: power states but the first, error recovery limits (kept, without effect), the effect of coalescing.
 */
import {
  NVME_EVENT,
  NVME_EVENT_SMART,
  NVME_FEATURE,
  NVME_FEATURE_SAVE,
  NVME_FEATURE_SELECT,
  NVME_SC,
  NVME_SQE,
} from '#shared/arch/nvme.ts';
import { NVME_SMART_WARNING_TEMPERATURE } from '#shared/arch/nvme-data.ts';
import type { NvmeEvents } from './nvme-events.ts';
import { NVME_RAB } from './nvme-identify.ts';
import { NVME_TEMPERATURE, type NvmeLogs } from './nvme-logs.ts';

/** Capabilities of a feature: changeable. */
const CHANGEABLE = 1 << 2;
const OVER_DEFAULT = 343;
const UNDER_DEFAULT = 0;
/** TMPSEL of "all sensors". */
const ALL_SENSORS = 0xf;

export interface FeatureResult {
  readonly status: number;
  readonly dw0: number;
}

export class NvmeFeatures {
  /** Current values by feature; per-vector configuration and thresholds stand beside them. */
  readonly #values = new Map<number, number>();
  #uncoalesced = new Set<number>();
  #over = OVER_DEFAULT;
  #under = UNDER_DEFAULT;
  /** I/O submission and completion queues, at most. */
  #submission: number;
  #completion: number;
  readonly #queuesMax: number;
  readonly #vectors: number;
  readonly #events: NvmeEvents;
  readonly #logs: NvmeLogs;
  readonly #hasCache: boolean;

  /** `hasCache`: there is a volatile write cache. */
  constructor(queuesMax: number, vectors: number, events: NvmeEvents, logs: NvmeLogs, hasCache: boolean) {
    this.#hasCache = hasCache;
    this.#queuesMax = queuesMax;
    this.#vectors = vectors;
    this.#events = events;
    this.#logs = logs;
    this.#submission = queuesMax;
    this.#completion = queuesMax;
    this.reset();
  }

  reset(): void {
    this.#values.clear();
    for (const feature of Object.values(NVME_FEATURE)) this.#values.set(feature, defaultOf(feature));
    if (!this.#hasCache) this.#values.delete(NVME_FEATURE.VOLATILE_WRITE_CACHE);
    this.#uncoalesced = new Set();
    this.#over = OVER_DEFAULT;
    this.#under = UNDER_DEFAULT;
    this.#submission = this.#queuesMax;
    this.#completion = this.#queuesMax;
    this.#logs.temperatureWarning = false;
  }

  /** Commands of one submission queue in a turn. */
  get arbitrationBurst(): number {
    const ab = this.#values.get(NVME_FEATURE.ARBITRATION)! & 7;
    return ab === 7 ? Number.MAX_SAFE_INTEGER : 2 ** ab;
  }

  /** A write may complete before it is on its medium. */
  get cacheEnabled(): boolean {
    return this.#values.get(NVME_FEATURE.VOLATILE_WRITE_CACHE) === 1;
  }

  /** The highest identifier of an I/O queue of each kind. */
  get submissionQueues(): number {
    return this.#submission;
  }

  get completionQueues(): number {
    return this.#completion;
  }

  /** `queuesExist`: I/O queues were created already. */
  set(command: Uint32Array, queuesExist: boolean): FeatureResult {
    const feature = command[NVME_SQE.CDW10]! & 0xff;
    const value = command[NVME_SQE.CDW11]!;
    if ((command[NVME_SQE.CDW10]! & NVME_FEATURE_SAVE) !== 0) return fail(NVME_SC.FEATURE_NOT_SAVEABLE);
    if (!this.#values.has(feature)) return fail(NVME_SC.INVALID_FIELD);
    switch (feature) {
      case NVME_FEATURE.POWER_MANAGEMENT:
        if ((value & 0x1f) !== 0) return fail(NVME_SC.INVALID_FIELD);
        break;
      case NVME_FEATURE.TEMPERATURE_THRESHOLD:
        return this.#setThreshold(value);
      case NVME_FEATURE.NUMBER_OF_QUEUES:
        return this.#setQueues(value, queuesExist);
      case NVME_FEATURE.INTERRUPT_VECTOR_CONFIG: {
        const vector = value & 0xffff;
        if (vector >= this.#vectors) return fail(NVME_SC.INVALID_FIELD);
        if ((value & 0x1_0000) !== 0) this.#uncoalesced.add(vector);
        else this.#uncoalesced.delete(vector);
        return done(0);
      }
      case NVME_FEATURE.VOLATILE_WRITE_CACHE:
      case NVME_FEATURE.WRITE_ATOMICITY:
        this.#values.set(feature, value & 1);
        return done(0);
      case NVME_FEATURE.ASYNC_EVENT_CONFIG:
        this.#values.set(feature, value);
        this.#checkTemperature();
        return done(0);
      case NVME_FEATURE.ARBITRATION:
      case NVME_FEATURE.ERROR_RECOVERY:
        break;
      case NVME_FEATURE.INTERRUPT_COALESCING:
        this.#values.set(feature, value & 0xffff);
        return done(0);
      default:
        return fail(NVME_SC.INVALID_FIELD);
    }
    this.#values.set(feature, value);
    return done(0);
  }

  get(command: Uint32Array): FeatureResult {
    const feature = command[NVME_SQE.CDW10]! & 0xff;
    const select = (command[NVME_SQE.CDW10]! >>> 8) & 7;
    if (!this.#values.has(feature) || select > NVME_FEATURE_SELECT.CAPABILITIES) return fail(NVME_SC.INVALID_FIELD);
    if (select === NVME_FEATURE_SELECT.CAPABILITIES) return done(CHANGEABLE);
    const current = select === NVME_FEATURE_SELECT.CURRENT;
    const argument = command[NVME_SQE.CDW11]!;
    switch (feature) {
      case NVME_FEATURE.NUMBER_OF_QUEUES: {
        const { submission, completion } = current
          ? { submission: this.#submission, completion: this.#completion }
          : { submission: this.#queuesMax, completion: this.#queuesMax };
        return done(((completion - 1) << 16) | (submission - 1));
      }
      case NVME_FEATURE.TEMPERATURE_THRESHOLD: {
        const under = ((argument >>> 20) & 3) === 1;
        if (((argument >>> 16) & 0xf) !== 0) return fail(NVME_SC.INVALID_FIELD);
        if (current) return done(under ? this.#under : this.#over);
        return done(under ? UNDER_DEFAULT : OVER_DEFAULT);
      }
      case NVME_FEATURE.INTERRUPT_VECTOR_CONFIG: {
        const vector = argument & 0xffff;
        if (vector >= this.#vectors) return fail(NVME_SC.INVALID_FIELD);
        return done(vector | (current && this.#uncoalesced.has(vector) ? 0x1_0000 : 0));
      }
      default:
        return done(current ? this.#values.get(feature)! : defaultOf(feature));
    }
  }

  save(): unknown {
    return {
      values: [...this.#values],
      uncoalesced: [...this.#uncoalesced],
      over: this.#over,
      under: this.#under,
      submission: this.#submission,
      completion: this.#completion,
    };
  }

  load(state: unknown): void {
    const saved = state as {
      values: [number, number][];
      uncoalesced: number[];
      over: number;
      under: number;
      submission: number;
      completion: number;
    };
    this.#values.clear();
    for (const [feature, value] of saved.values) this.#values.set(feature, value);
    this.#uncoalesced = new Set(saved.uncoalesced);
    this.#over = saved.over;
    this.#under = saved.under;
    this.#submission = saved.submission;
    this.#completion = saved.completion;
  }

  #setQueues(value: number, queuesExist: boolean): FeatureResult {
    const submission = value & 0xffff;
    const completion = value >>> 16;
    if (submission === 0xffff || completion === 0xffff) return fail(NVME_SC.INVALID_FIELD);
    if (queuesExist) return fail(NVME_SC.COMMAND_SEQUENCE_ERROR);
    this.#submission = Math.min(submission + 1, this.#queuesMax);
    this.#completion = Math.min(completion + 1, this.#queuesMax);
    return done(((this.#completion - 1) << 16) | (this.#submission - 1));
  }

  #setThreshold(value: number): FeatureResult {
    const sensor = (value >>> 16) & 0xf;
    const kind = (value >>> 20) & 3;
    if ((sensor !== 0 && sensor !== ALL_SENSORS) || kind > 1) return fail(NVME_SC.INVALID_FIELD);
    if (kind === 0) this.#over = value & 0xffff;
    else this.#under = value & 0xffff;
    this.#checkTemperature();
    return done(0);
  }

  /** The warning follows from the thresholds; the event comes once when it begins, if the host wants it. */
  #checkTemperature(): void {
    const outside = NVME_TEMPERATURE >= this.#over || NVME_TEMPERATURE <= this.#under;
    const wanted = (this.#values.get(NVME_FEATURE.ASYNC_EVENT_CONFIG)! & NVME_SMART_WARNING_TEMPERATURE) !== 0;
    if (outside && !this.#logs.temperatureWarning && wanted)
      this.#events.raise(NVME_EVENT.SMART, NVME_EVENT_SMART.TEMPERATURE);
    this.#logs.temperatureWarning = outside;
  }
}

function defaultOf(feature: number): number {
  if (feature === NVME_FEATURE.ARBITRATION) return NVME_RAB;
  return feature === NVME_FEATURE.VOLATILE_WRITE_CACHE ? 1 : 0;
}

function done(dw0: number): FeatureResult {
  return { status: NVME_SC.SUCCESS, dw0: dw0 >>> 0 };
}

function fail(status: number): FeatureResult {
  return { status, dw0: 0 };
}
