/**
 * The ITS commands, one function each (IHI 0069, "ITS commands"). A command with a bad parameter does nothing and says
 * why; what follows from that is the ITS's to choose.
 * Commands complete before the write to GITS_CWRITER does, so SYNC has nothing to wait for.
 * MAPD with V=0 leaves LPIs that are already pending where they are. MAPTI onto a mapped EventID overwrites it.
 * Not modelled: the commands of GICv4; they are unknown commands and do nothing.
 */
import type { EventToCollection, ItsCommand, Mapc, Mapd } from '#shared/arch/gic/its-commands.ts';
import { LPI_FIRST } from '#shared/arch/gic/lpi-tables.ts';
import type { ItsChoices } from '../options.ts';
import type { ItsProblem } from './errors.ts';
import type { ItsTables } from './tables.ts';
import { type LpiSink, raiseEvent } from './translate.ts';

/** What a command works on. */
export interface CommandContext {
  readonly choices: ItsChoices;
  readonly tables: ItsTables;
  readonly lpis: LpiSink;
}

/** Runs one command. Returns why it did nothing, or undefined. */
export function runItsCommand(command: ItsCommand, context: CommandContext): ItsProblem | undefined {
  const { tables, lpis } = context;
  switch (command.name) {
    case 'MAPD':
      return onMapd(command, context);
    case 'MAPC':
      return onMapc(command, context);
    case 'MAPTI':
      return mapEvent(command, command.pIntid, context);
    case 'MAPI':
      return mapEvent(command, command.eventId, context);
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
      return onMovall(processorOf(command.rdbase1, context), processorOf(command.rdbase2, context), lpis);
    case 'SYNC':
      return processorOf(command.rdbase, context) < 0 ? 'procnum-oor' : undefined;
    case 'unknown':
      return 'unknown-command';
    default:
      return command satisfies never;
  }
}

/** The processor that an RDbase field names, or -1. */
function processorOf(rdbase: number, { choices, lpis }: CommandContext): number {
  if (choices.PTA) return lpis.processorAtFrame(rdbase);
  return lpis.hasProcessor(rdbase) ? rdbase : -1;
}

function onMapd(c: Mapd, { choices, tables }: CommandContext): ItsProblem | undefined {
  if (c.deviceId >= tables.devices.entries) return 'device-oor';
  if (c.valid && c.size + 1 > choices.eventIdBits) return 'itt-size-oor';
  return tables.writeDevice(c.deviceId, c.valid, c.ittAddress, c.size) ? undefined : 'device-oor';
}

function onMapc(c: Mapc, context: CommandContext): ItsProblem | undefined {
  const { tables } = context;
  if (c.icid >= tables.collections.entries) return 'collection-oor';
  const processor = processorOf(c.rdbase, context);
  if (c.valid && processor < 0) return 'procnum-oor';
  return tables.writeCollection(c.icid, c.valid, processor) ? undefined : 'collection-oor';
}

function mapEvent(c: EventToCollection, pIntid: number, { tables, lpis }: CommandContext): ItsProblem | undefined {
  if (c.deviceId >= tables.devices.entries) return 'device-oor';
  if (!tables.readDevice(c.deviceId)) return 'unmapped-device';
  if (c.eventId >= tables.events) return 'id-oor';
  if (c.icid >= tables.collections.entries) return 'collection-oor';
  if (pIntid < LPI_FIRST || pIntid >= 2 ** lpis.idBits) return 'physical-id-oor';
  return tables.writeEvent(c.deviceId, c.eventId, true, pIntid, c.icid) ? undefined : 'no-memory';
}

function onMovi(c: EventToCollection, tables: ItsTables, lpis: LpiSink): ItsProblem | undefined {
  const problem = tables.lookUp(lpis, c.deviceId, c.eventId);
  if (problem !== undefined) return problem;
  const { pIntid, processorNumber: from } = tables;
  if (!lpis.hasProcessor(from)) return 'procnum-oor';
  if (c.icid >= tables.collections.entries) return 'collection-oor';
  if (!tables.readCollection(c.icid)) return 'unmapped-collection';
  // The ITS wrote no such entry: software did.
  if (!lpis.hasProcessor(tables.processorNumber)) return 'procnum-oor';
  tables.writeEvent(c.deviceId, c.eventId, true, pIntid, c.icid);
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
  const problem = tables.lookUp(lpis, deviceId, eventId);
  // DISCARD removes the entry also when its collection is not mapped: then nothing can be pending through it.
  if (problem !== undefined && !(name === 'DISCARD' && problem === 'unmapped-collection')) return problem;
  if (problem === undefined) {
    if (!lpis.hasProcessor(tables.processorNumber)) return 'procnum-oor';
    if (name === 'INV') lpis.invalidateLpi(tables.processorNumber, tables.pIntid);
    else lpis.clearLpiPending(tables.processorNumber, tables.pIntid);
  }
  if (name === 'DISCARD') tables.writeEvent(deviceId, eventId, false, 0, 0);
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
  if (from < 0 || to < 0) return 'procnum-oor';
  if (from !== to) lpis.moveAllLpis(from, to);
  return undefined;
}
