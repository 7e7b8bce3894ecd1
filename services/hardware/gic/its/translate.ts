/**
 * (DeviceID, EventID) to LPI: what a write to GITS_TRANSLATER and the INT command do (IHI 0069, "GITS_TRANSLATER").
 * The hot path: an event that was delivered before costs one look into a cache; one that was not costs three table
 * entries read from RAM, as far as they are not cached themselves. Nothing is allocated.
 */
import { LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import type { ItsProblem } from './errors.ts';
import { CACHED_EVENT, cachedEvent, type ItsTables } from './tables.ts';

// For the hot path: what is imported is no constant to the compiler but a variable of unknown type.
const find = cachedEvent;
const { PINTID, PROCESSOR } = CACHED_EVENT;

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

/**
 * Looks up an event: `tables` then holds its device, entry and collection. Returns what is missing, or undefined.
 * The checks are in the order of the INT command's.
 */
export function lookUpEvent(
  tables: ItsTables,
  lpis: LpiSink,
  deviceId: number,
  eventId: number,
): ItsProblem | undefined {
  if (deviceId >= tables.devices.entries) return 'device-oor';
  if (!tables.readDevice(deviceId)) return 'unmapped-device';
  if (eventId >= tables.events) return 'id-oor';
  if (!tables.readEvent(eventId)) return 'unmapped-interrupt';
  // The ITS wrote no such entry: software did.
  if (tables.pIntid < LPI_FIRST || tables.pIntid >= 2 ** lpis.idBits) return 'ite-invalid';
  if (!tables.readCollection(tables.icid)) return 'unmapped-collection';
  return undefined;
}

/** Makes the event's LPI pending where its collection points now. Returns why not, or undefined. */
export function raiseEvent(
  tables: ItsTables,
  lpis: LpiSink,
  deviceId: number,
  eventId: number,
): ItsProblem | undefined {
  const cached = find(tables, deviceId, eventId);
  if (cached < 0) return raiseUncached(tables, lpis, deviceId, eventId);
  const events = tables.cachedEvents;
  return lpis.setLpiPending(events[cached + PROCESSOR]!, events[cached + PINTID]!) ? undefined : 'lpi-not-accepted';
}

/** Only an event that could be delivered is kept, so one in the cache needs no check. */
function raiseUncached(tables: ItsTables, lpis: LpiSink, deviceId: number, eventId: number): ItsProblem | undefined {
  const problem = lookUpEvent(tables, lpis, deviceId, eventId);
  if (problem !== undefined) return problem;
  if (!lpis.hasProcessor(tables.processorNumber)) return 'procnum-oor';
  tables.keep(deviceId, eventId);
  return lpis.setLpiPending(tables.processorNumber, tables.pIntid) ? undefined : 'lpi-not-accepted';
}
