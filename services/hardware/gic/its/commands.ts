/**
 * The ITS commands, one function each (IHI 0069, "ITS commands"). A command with a bad parameter does nothing and the
 * next one runs; the problem is counted. Nothing stalls and no system error is raised (GITS_TYPER.SEIS=0).
 * Commands complete before the write to GITS_CWRITER does, so SYNC has nothing to wait for.
 * MAPD with V=0 leaves LPIs that are already pending where they are. MAPTI onto a mapped EventID overwrites it.
 * Not modelled: the commands of GICv4; they are unknown commands and do nothing.
 */
import type { EventToCollection, ItsCommand, Mapc, Mapd } from '#shared/arch/gic/its-commands.ts';
import { LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import { GIC_ID_BITS } from '../distributor.ts';
import type { ItsTables } from './tables.ts';
import { type ItsProblem, type LpiSink, lookUpEvent, raiseEvent } from './translate.ts';

export const EVENT_ID_BITS = 16;
export const DEVICE_ID_BITS = 16;
export const COLLECTION_ID_BITS = 16;

const LPI_END = 2 ** GIC_ID_BITS;

/** Runs one command. Returns why it did nothing, or undefined. */
export function runItsCommand(command: ItsCommand, tables: ItsTables, lpis: LpiSink): ItsProblem | undefined {
  switch (command.name) {
    case 'MAPD':
      return onMapd(command, tables);
    case 'MAPC':
      return onMapc(command, tables, lpis);
    case 'MAPTI':
      return mapEvent(command, command.pIntid, tables);
    case 'MAPI':
      return mapEvent(command, command.eventId, tables);
    case 'MOVI':
      return onMovi(command, tables, lpis);
    case 'INT':
      return raiseEvent(tables, lpis, command.deviceId, command.eventId);
    case 'CLEAR':
    case 'DISCARD':
    case 'INV':
      return onEvent(command.name, command.deviceId, command.eventId, tables, lpis);
    case 'INVALL':
      return onInvall(command.icid, tables, lpis);
    case 'MOVALL':
      return onMovall(command.rdbase1, command.rdbase2, lpis);
    case 'SYNC':
      return lpis.hasProcessor(command.rdbase) ? undefined : 'procnum-oor';
    case 'unknown':
      return 'unknown-command';
    default:
      return command satisfies never;
  }
}

function onMapd(c: Mapd, tables: ItsTables): ItsProblem | undefined {
  if (c.deviceId >= tables.devices.entries) return 'device-oor';
  if (c.valid && c.size + 1 > EVENT_ID_BITS) return 'itt-size-oor';
  return tables.writeDevice(c.deviceId, c.valid, c.ittAddress, c.size) ? undefined : 'device-oor';
}

function onMapc(c: Mapc, tables: ItsTables, lpis: LpiSink): ItsProblem | undefined {
  if (c.icid >= tables.collections.entries) return 'collection-oor';
  if (c.valid && !lpis.hasProcessor(c.rdbase)) return 'procnum-oor';
  return tables.writeCollection(c.icid, c.valid, c.rdbase) ? undefined : 'collection-oor';
}

function mapEvent(c: EventToCollection, pIntid: number, tables: ItsTables): ItsProblem | undefined {
  if (c.deviceId >= tables.devices.entries) return 'device-oor';
  if (!tables.readDevice(c.deviceId)) return 'unmapped-device';
  if (c.eventId >= tables.events) return 'id-oor';
  if (c.icid >= tables.collections.entries) return 'collection-oor';
  if (pIntid < LPI_FIRST || pIntid >= LPI_END) return 'physical-id-oor';
  return tables.writeEvent(c.eventId, true, pIntid, c.icid) ? undefined : 'unmapped-interrupt';
}

function onMovi(c: EventToCollection, tables: ItsTables, lpis: LpiSink): ItsProblem | undefined {
  const problem = lookUpEvent(tables, c.deviceId, c.eventId);
  if (problem !== undefined) return problem;
  const { pIntid, processorNumber: from } = tables;
  if (c.icid >= tables.collections.entries) return 'collection-oor';
  if (!tables.readCollection(c.icid)) return 'unmapped-collection';
  tables.writeEvent(c.eventId, true, pIntid, c.icid);
  const to = tables.processorNumber;
  if (to !== from && lpis.clearLpiPending(from, pIntid)) lpis.setLpiPending(to, pIntid);
  return undefined;
}

function onEvent(
  name: 'CLEAR' | 'DISCARD' | 'INV',
  deviceId: number,
  eventId: number,
  tables: ItsTables,
  lpis: LpiSink,
): ItsProblem | undefined {
  const problem = lookUpEvent(tables, deviceId, eventId);
  // DISCARD removes the entry also when its collection is not mapped: then nothing can be pending through it.
  if (problem !== undefined && !(name === 'DISCARD' && problem === 'unmapped-collection')) return problem;
  if (problem === undefined) {
    if (!lpis.hasProcessor(tables.processorNumber)) return 'procnum-oor';
    if (name === 'INV') lpis.invalidateLpi(tables.processorNumber, tables.pIntid);
    else lpis.clearLpiPending(tables.processorNumber, tables.pIntid);
  }
  if (name === 'DISCARD') tables.writeEvent(eventId, false, 0, 0);
  return undefined;
}

function onInvall(icid: number, tables: ItsTables, lpis: LpiSink): ItsProblem | undefined {
  if (icid >= tables.collections.entries) return 'collection-oor';
  if (!tables.readCollection(icid)) return 'unmapped-collection';
  if (!lpis.hasProcessor(tables.processorNumber)) return 'procnum-oor';
  lpis.invalidateAllLpis(tables.processorNumber);
  return undefined;
}

function onMovall(from: number, to: number, lpis: LpiSink): ItsProblem | undefined {
  if (!lpis.hasProcessor(from) || !lpis.hasProcessor(to)) return 'procnum-oor';
  if (from !== to) lpis.moveAllLpis(from, to);
  return undefined;
}
