/**
 * (DeviceID, EventID) to LPI: what a write to GITS_TRANSLATER and the INT command do (IHI 0069, "GITS_TRANSLATER").
 * The hot path: three table entries are read from RAM, nothing is allocated.
 */
import type { ItsTables } from './tables.ts';

/** What an ITS does to the redistributors. A processor number is checked with `hasProcessor` before it is used. */
export interface LpiSink {
  hasProcessor(processorNumber: number): boolean;
  /** False when the redistributor drops it: LPIs disabled, or an INTID beyond its table. */
  setLpiPending(processorNumber: number, lpi: number): boolean;
  clearLpiPending(processorNumber: number, lpi: number): boolean;
  invalidateLpi(processorNumber: number, lpi: number): void;
  invalidateAllLpis(processorNumber: number): void;
  moveAllLpis(fromProcessor: number, toProcessor: number): void;
}

/** Why a command or a message went nowhere, in the words of IHI 0069 ("ITS command errors"). */
export type ItsProblem =
  | 'its-disabled'
  | 'not-from-a-device'
  | 'no-device-id'
  | 'device-oor'
  | 'itt-size-oor'
  | 'unmapped-device'
  | 'id-oor'
  | 'unmapped-interrupt'
  | 'physical-id-oor'
  | 'collection-oor'
  | 'unmapped-collection'
  | 'procnum-oor'
  | 'lpi-not-accepted'
  | 'unknown-command';

/**
 * Looks up an event: `tables` then holds its device, entry and collection. Returns what is missing, or undefined.
 * The checks are in the order of the INT command's.
 */
export function lookUpEvent(tables: ItsTables, deviceId: number, eventId: number): ItsProblem | undefined {
  if (deviceId >= tables.devices.entries) return 'device-oor';
  if (!tables.readDevice(deviceId)) return 'unmapped-device';
  if (eventId >= tables.events) return 'id-oor';
  if (!tables.readEvent(eventId)) return 'unmapped-interrupt';
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
  const problem = lookUpEvent(tables, deviceId, eventId);
  if (problem !== undefined) return problem;
  if (!lpis.hasProcessor(tables.processorNumber)) return 'procnum-oor';
  return lpis.setLpiPending(tables.processorNumber, tables.pIntid) ? undefined : 'lpi-not-accepted';
}
