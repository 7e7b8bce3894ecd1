/**
 * (DeviceID, EventID) to LPI: what a write to GITS_TRANSLATER and the INT command do (IHI 0069, "GITS_TRANSLATER").
 * The hot path: an event that was delivered before costs one look into a cache; one that was not costs three table
 * entries read from RAM, as far as they are not cached themselves. Nothing is allocated.
 */
import type { ItsProblem } from './errors.ts';
import { CACHED_EVENT, type ItsTables, placeOfEvent } from './tables.ts';

// For the hot path: what is imported is no constant to the compiler but a variable of unknown type.
const placeOf = placeOfEvent;
const { EVENT, PINTID, PROCESSOR } = CACHED_EVENT;

/** What an ITS does to the redistributors. A processor number is checked with `hasProcessor` before it is used. */
export interface LpiSink {
  /** Bits of an INTID that the redistributors take. */
  readonly idBits: number;
  hasProcessor(processorNumber: number): boolean;
  /** The processor whose RD frame is the 64 KiB page of this number, or -1. */
  processorAtFrame(frame: number): number;
  /** False when the redistributor drops it: LPIs disabled, or an INTID beyond its table. */
  setLpiPending(processorNumber: number, lpi: number): boolean;
  clearLpiPending(processorNumber: number, lpi: number): boolean;
  invalidateLpi(processorNumber: number, lpi: number): void;
  invalidateAllLpis(processorNumber: number): void;
  moveAllLpis(fromProcessor: number, toProcessor: number): void;
}

/** Makes the event's LPI pending where its collection points now. Returns why not, or undefined. */
export function raiseEvent(
  tables: ItsTables,
  lpis: LpiSink,
  deviceId: number,
  eventId: number,
): ItsProblem | undefined {
  const events = tables.cachedEvents;
  const at = placeOf(deviceId, eventId);
  const pIntid = events[at + PINTID]!;
  if (pIntid === 0 || events[at] !== (deviceId | 0) || events[at + EVENT] !== (eventId | 0)) {
    return tables.raiseUncached.call(undefined, lpis, deviceId, eventId);
  }
  return lpis.setLpiPending(events[at + PROCESSOR]!, pIntid) ? undefined : 'lpi-not-accepted';
}
