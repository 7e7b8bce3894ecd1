/**
 * The functions of a board: each has a place in the tree of buses, and a dump that a machine can be made of.
 * Not modelled: what is behind a CardBus bridge (header type 2); it is an endpoint with one BAR. Virtual functions as
 * functions of a board: they appear when their physical function enables them.
 */
import { DMA_PROBE_BYTES } from '#shared/arch/dma-probe.ts';
import { NIC_BYTES } from '#shared/arch/nic.ts';
import { PCI_EXT_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_HEADER_TYPE } from '#shared/arch/pci/header.ts';
import { PCI_SRIOV } from '#shared/arch/pci/sriov.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { busOf, devfnOf, formatSbdf, segmentOf } from '#shared/ids/sbdf.ts';
import { type BoardBridge, BoardError, bridgeServing, isBridge, secondaryBusOf } from '../board.ts';
import { barShapesOf, msixShapeOf, registerBarOf } from '../pcie/bar.ts';
import { extendedCapabilitiesOf } from '../pcie/capability-list.ts';
import { nvmeRegisterBytes } from '../pcie/functions/nvme-model.ts';

/** Throws BoardError for a function that has no place, or whose dump cannot be modelled. */
export function checkFunctions(functions: readonly BoardFunction[], bridges: readonly BoardBridge[]): void {
  const at = new Map<number, BoardFunction>();
  for (const fn of functions) {
    const name = formatSbdf(fn.sbdf);
    if (at.has(fn.sbdf)) throw new BoardError(`board has two functions at ${name}`);
    at.set(fn.sbdf, fn);
    checkDump(fn, name);
    if (!bridges.some((b) => b.segment === segmentOf(fn.sbdf)))
      throw new BoardError(`function ${name} is on segment ${segmentOf(fn.sbdf)}, which no host bridge serves`);
    const bridge = bridgeServing(bridges, segmentOf(fn.sbdf), busOf(fn.sbdf));
    if (bridge === undefined)
      throw new BoardError(
        `function ${name} is on bus ${hexBus(busOf(fn.sbdf))}, which no host bridge of its segment serves`,
      );
    if (bridge.driver === 'thunder-pem' && busOf(fn.sbdf) === bridge.busRange.first && devfnOf(fn.sbdf) !== 0)
      throw new BoardError(`function ${name} is on the root bus of a PEM, where only a root port at device 0 can be`);
  }
  const above = new Map<number, BoardFunction>();
  for (const fn of functions.filter(isBridge)) {
    const below = secondaryBusOf(fn);
    const key = segmentOf(fn.sbdf) * 256 + below;
    const other = above.get(key);
    if (below === 0) continue; // a port with no bus of its own in this board: nothing hangs below it
    if (other !== undefined)
      throw new BoardError(
        `bridges ${formatSbdf(other.sbdf)} and ${formatSbdf(fn.sbdf)} both lead to bus ${hexBus(below)}`,
      );
    above.set(key, fn);
  }
  for (const fn of functions) checkPath(fn, above, bridges);
}

/** Follows the bridges above a function up to its root bus. */
function checkPath(
  fn: BoardFunction,
  above: ReadonlyMap<number, BoardFunction>,
  bridges: readonly BoardBridge[],
): void {
  const segment = segmentOf(fn.sbdf);
  const root = bridgeServing(bridges, segment, busOf(fn.sbdf))!.busRange.first;
  let bus = busOf(fn.sbdf);
  for (let hops = 0; bus !== root; hops++) {
    const bridge = above.get(segment * 256 + bus);
    if (bridge === undefined || hops > 255)
      throw new BoardError(`function ${formatSbdf(fn.sbdf)} is on bus ${hexBus(bus)}, which hangs below no bridge`);
    bus = busOf(bridge.sbdf);
  }
}

function checkDump(fn: BoardFunction, name: string): void {
  const { config } = fn;
  if (![64, 256, 4096].includes(config.length))
    throw new BoardError(`function ${name} has ${config.length} bytes of configuration space, not 64, 256 or 4096`);
  const vendor = config[PCI.VENDOR_ID]! | (config[PCI.VENDOR_ID + 1]! << 8);
  if (config.every((byte) => byte === 0xff))
    throw new BoardError(`function ${name} has a dump of all ones: it did not answer when it was dumped`);
  if (vendor === 0xffff || vendor === 0)
    throw new BoardError(
      `function ${name} has no vendor id: the dump is empty, or of a virtual function, which appears when its physical function enables it`,
    );
  const type = config[PCI.HEADER_TYPE]! & PCI_HEADER_TYPE.MASK;
  if (type > PCI_HEADER_TYPE.CARDBUS)
    throw new BoardError(`function ${name} has header type ${type}; 0 to 2 are modelled`);
  let shapes: ReturnType<typeof barShapesOf>;
  try {
    shapes = barShapesOf(fn);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BoardError(`function ${name}: ${error.message}`, { cause: error });
  }
  const msix = msixShapeOf(config);
  for (const bar of msix === undefined ? [] : [msix.tableBar, msix.pbaBar]) {
    if (!shapes.some((s) => s.index === bar && s.kind.startsWith('mem')))
      throw new BoardError(`function ${name} has its MSI-X structures in BAR ${bar}, which is no memory BAR`);
  }
  checkVfs(fn, name);
  const bytes = registerBytesOf(fn);
  if (bytes === 0) return;
  if (type !== PCI_HEADER_TYPE.NORMAL) throw new BoardError(`function ${name} is a bridge and cannot be a ${fn.model}`);
  if (registerBarOf(shapes, msix, bytes) === undefined)
    throw new BoardError(
      `function ${name} cannot be a ${fn.model}: no memory BAR has ${bytes} bytes free at its start`,
    );
}

function checkVfs(fn: BoardFunction, name: string): void {
  if (fn.vfs === undefined) return;
  const sriov = extendedCapabilitiesOf(fn.config).find(({ id }) => id === PCI_EXT_CAP_ID.SRIOV);
  if (sriov === undefined || sriov.roomBytes < PCI_SRIOV.BYTES)
    throw new BoardError(`function ${name} has no SR-IOV capability and cannot have virtual functions`);
  const at = sriov.offset + PCI_SRIOV.TOTAL_VF;
  const total = fn.config[at]! | (fn.config[at + 1]! << 8);
  if (fn.vfs > total) throw new BoardError(`function ${name} can have ${total} virtual functions, not ${fn.vfs}`);
}

/** Bytes of registers that the model of a function needs at the start of a memory BAR. */
function registerBytesOf(fn: BoardFunction): number {
  switch (fn.model) {
    case 'dma-probe':
      return DMA_PROBE_BYTES;
    case 'nic':
      return NIC_BYTES;
    case 'nvme':
      return nvmeRegisterBytes(fn);
    case 'inert':
      return 0;
  }
}

function hexBus(bus: number): string {
  return bus.toString(16).padStart(2, '0');
}
