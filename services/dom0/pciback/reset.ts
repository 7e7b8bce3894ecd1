/**
 * Cleaning a function between owners (Linux drivers/pci/pci.c, pci_reset_function; drivers/xen/xen-pciback/pci_stub.c):
 * a Function Level Reset when it can do one, else a reset of the bus below its bridge when it is alone there, else none.
 * Not modelled: resets by D3hot and by AF; a function with nothing else is not reset, which is traced, and its command
 * register and interrupts are cleared all the same.
 */
import { PCI_BRIDGE, PCI_BRIDGE_CTL } from '#shared/arch/pci/bridge-header.ts';
import { PCI_CAP_ID } from '#shared/arch/pci/capability.ts';
import { PCI_EXP, PCI_EXP_DEVCAP_FLR, PCI_EXP_DEVCTL, PCI_EXP_DEVSTA } from '#shared/arch/pci/express.ts';
import { PCI, PCI_STD_BARS, PCI_VENDOR_ABSENT, PCI_VENDOR_NOT_READY } from '#shared/arch/pci/header.ts';
import { PCI_MSI, PCI_MSI_FLAGS } from '#shared/arch/pci/msi.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import { type ConfigAccess, findCapability } from '#shared/kernel/pci-core.ts';
import type { Kernel } from '../kernel/boot.ts';
import { functionsUnder, type PciFunction } from '../kernel/enumerate.ts';

const MS = 1e6;
/** PCIe 5.0, "Function Level Reset": the first access may come so much later. */
const AFTER_RESET_NS = 100 * MS;
/** How long the bus reset bit is held (Linux pci_reset_secondary_bus). */
const BUS_RESET_NS = 2 * MS;
/** How long DMA under way may take to end, and how long a function may stay silent after a reset. */
const PENDING_POLLS = 4;
const READY_POLLS = 60;
const READY_POLL_NS = 1000 * MS;

export type ResetKind = 'flr' | 'bus' | 'none';

/** What of a function is put back after a reset. */
export interface ConfigSnapshot {
  readonly bars: readonly number[];
  readonly cacheLine: number;
  /** -1 without a PCI Express capability. */
  readonly devctl: number;
}

export function* saveConfig(access: ConfigAccess, fn: PciFunction): Op<ConfigSnapshot> {
  const bars: number[] = [];
  for (let i = 0; i < PCI_STD_BARS; i++) bars.push(yield* access.read(fn.sbdf, PCI.BASE_ADDRESS_0 + i * 4, 4));
  const cacheLine = yield* access.read(fn.sbdf, PCI.CACHE_LINE_SIZE, 1);
  const express = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.EXPRESS);
  const devctl = express === 0 ? -1 : yield* access.read(fn.sbdf, express + PCI_EXP.DEVCTL, 2);
  return { bars, cacheLine, devctl };
}

/** Resets a function and puts its pristine state back: BARs where dom0 placed them, nothing enabled. */
export function* cleanFunction(kernel: Kernel, fn: PciFunction, pristine: ConfigSnapshot): Op<ResetKind> {
  const { access } = kernel;
  yield* disable(access, fn);
  const kind = yield* reset(kernel, fn);
  for (const [i, bar] of pristine.bars.entries()) yield* access.write(fn.sbdf, PCI.BASE_ADDRESS_0 + i * 4, 4, bar);
  yield* access.write(fn.sbdf, PCI.CACHE_LINE_SIZE, 1, pristine.cacheLine);
  const express = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.EXPRESS);
  if (express !== 0 && pristine.devctl >= 0) {
    yield* access.write(fn.sbdf, express + PCI_EXP.DEVCTL, 2, pristine.devctl & ~PCI_EXP_DEVCTL.INITIATE_FLR);
  }
  if (kind === 'none') yield* disable(access, fn);
  kernel.runtime.trace('pciback.reset', { sbdf: formatSbdf(fn.sbdf), kind });
  return kind;
}

/** Off: decoding, bus mastering, message interrupts. */
function* disable(access: ConfigAccess, fn: PciFunction): Op<void> {
  yield* access.write(fn.sbdf, PCI.COMMAND, 2, 0);
  const msi = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.MSI);
  if (msi !== 0) yield* clearBits(access, fn, msi + PCI_MSI.FLAGS, PCI_MSI_FLAGS.ENABLE);
  const msix = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.MSIX);
  const msixBits = PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL;
  if (msix !== 0) yield* clearBits(access, fn, msix + PCI_MSIX.FLAGS, msixBits);
}

function* clearBits(access: ConfigAccess, fn: PciFunction, offset: number, bits: number): Op<void> {
  const value = yield* access.read(fn.sbdf, offset, 2);
  if ((value & bits) !== 0) yield* access.write(fn.sbdf, offset, 2, value & ~bits);
}

function* reset(kernel: Kernel, fn: PciFunction): Op<ResetKind> {
  const { access } = kernel;
  const express = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.EXPRESS);
  if (express !== 0) {
    const devcap = yield* access.read(fn.sbdf, express + PCI_EXP.DEVCAP, 4);
    if ((devcap & PCI_EXP_DEVCAP_FLR) !== 0) {
      yield* waitForTransactions(kernel, fn, express);
      const devctl = yield* access.read(fn.sbdf, express + PCI_EXP.DEVCTL, 2);
      yield* access.write(fn.sbdf, express + PCI_EXP.DEVCTL, 2, devctl | PCI_EXP_DEVCTL.INITIATE_FLR);
      yield* waitUntilReady(kernel, fn);
      return 'flr';
    }
  }
  const { parent } = fn;
  if (parent === undefined || functionsUnder([...kernel.functions.values()], parent).length !== 1) return 'none';
  const control = yield* access.read(parent, PCI_BRIDGE.CONTROL, 2);
  yield* access.write(parent, PCI_BRIDGE.CONTROL, 2, control | PCI_BRIDGE_CTL.BUS_RESET);
  yield* sleep(BUS_RESET_NS);
  yield* access.write(parent, PCI_BRIDGE.CONTROL, 2, control & ~PCI_BRIDGE_CTL.BUS_RESET);
  yield* waitUntilReady(kernel, fn);
  return 'bus';
}

/** DMA that was issued before the reset must have landed (Linux pci_wait_for_pending_transaction: 100 + 200 + 400 ms). */
function* waitForTransactions(kernel: Kernel, fn: PciFunction, express: number): Op<void> {
  for (let i = 0; i < PENDING_POLLS; i++) {
    if (i > 0) yield* sleep(AFTER_RESET_NS * 2 ** (i - 1));
    const status = yield* kernel.access.read(fn.sbdf, express + PCI_EXP.DEVSTA, 2);
    if ((status & PCI_EXP_DEVSTA.TRANSACTIONS_PENDING) === 0) return;
  }
  kernel.runtime.trace('pciback.transactions_pending', { sbdf: formatSbdf(fn.sbdf) });
}

function* waitUntilReady(kernel: Kernel, fn: PciFunction): Op<void> {
  yield* sleep(AFTER_RESET_NS);
  for (let i = 0; i < READY_POLLS; i++) {
    const vendor = yield* kernel.access.read(fn.sbdf, PCI.VENDOR_ID, 2);
    if (vendor !== PCI_VENDOR_ABSENT && vendor !== PCI_VENDOR_NOT_READY) return;
    yield* sleep(READY_POLL_NS);
  }
  kernel.runtime.trace('pciback.not_ready', { sbdf: formatSbdf(fn.sbdf) });
}
