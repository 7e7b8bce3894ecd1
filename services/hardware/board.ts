/**
 * What the machine is built from: the parts that a device tree names, and the PCI functions of a board, read and checked
 * by `loadBoard` (board/load.ts). Nothing lives here.
 */
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import type { BoardChoices } from '#shared/board/choices.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import type { BoardBridge, BoardTree } from '#shared/board/parts.ts';

export type { BoardBridge, BoardGicV2, BoardGicV3, BoardSmmuV2, BoardSmmuV3 } from '#shared/board/parts.ts';
export { BoardError } from '#shared/board/parts.ts';

export interface Board extends BoardTree {
  readonly functions: readonly BoardFunction[];
  /** Where parts are not the machine's defaults. */
  readonly choices: BoardChoices;
}

/** The board's bus below a bridge: what the description says, or what its dump says. */
export function secondaryBusOf(fn: BoardFunction): number {
  return fn.secondaryBus ?? fn.config[PCI_BRIDGE.SECONDARY_BUS]!;
}

export function isBridge(fn: BoardFunction): boolean {
  return (fn.config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK) === PCI_HEADER_TYPE.BRIDGE;
}

/** The bridge that serves a bus of a segment, or undefined. */
export function bridgeServing(bridges: readonly BoardBridge[], segment: number, bus: number): BoardBridge | undefined {
  return bridges.find((b) => b.segment === segment && bus >= b.busRange.first && bus <= b.busRange.last);
}
