/**
 * Cleaning a function between owners (Linux drivers/pci/pci.c, pci_reset_function; drivers/xen/xen-pciback/pci_stub.c):
 * the first that it can do of a Function Level Reset by its Express or its AF capability, the step from D3hot to D0, and a
 * reset of the bus below its bridge when it is alone there.
 * Then its pin is off (INTX_DISABLE), until a guest has its line: what nobody drives pulls no line that another may have.
 * Reset takes away what firmware and enumeration set in the function, its link and error controls and its ACS too; that
 * is put back (pci_restore_state).
 * A function that stays silent is waited for and then given up: that is told, not fatal, as in Linux.
 * Not modelled: device specific resets. A function with nothing of all these is not reset, which is traced, and its
 * command register and interrupts are cleared all the same.
 */
import { PCI_BRIDGE, PCI_BRIDGE_CTL } from '#shared/arch/pci/bridge-header.ts';
import { PCI_ACS, PCI_AF, PCI_CAP_ID, PCI_EXT_CAP_ID, PCI_PM } from '#shared/arch/pci/capability.ts';
import {
  PCI_EXP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVSTA,
  PCI_EXP_FLAGS,
  PCI_EXP_TYPE,
} from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND, PCI_STD_BARS } from '#shared/arch/pci/header.ts';
import { PCI_MSI, PCI_MSI_FLAGS } from '#shared/arch/pci/msi.ts';
import { PCI_MSIX, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { type Op, sleep } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { type ConfigAccess, findCapability, findExtendedCapability, waitUntilReady } from '#shared/kernel/pci-core.ts';
import { functionsUnder, type PciFunction } from '../kernel/function.ts';

const MS = 1e6;
/** PCIe 5.0, "Function Level Reset": the first access may come so much later. */
const AFTER_RESET_NS = 100 * MS;
/** How long the bus reset bit is held (Linux pci_reset_secondary_bus). */
const BUS_RESET_NS = 2 * MS;
/** A change between D0 and D3hot takes so long (Linux PCI_PM_D3HOT_WAIT). */
const D3HOT_NS = 10 * MS;
const D3HOT = 3;
/** How long DMA under way may take to end. */
const PENDING_POLLS = 4;

export type ResetKind = 'flr' | 'af' | 'pm' | 'bus' | 'none';

/** What of dom0's kernel a reset needs. */
export interface ResetKernel {
  readonly access: ConfigAccess;
  readonly functions: ReadonlyMap<Sbdf, PciFunction>;
  readonly runtime: { trace(event: string, detail: unknown): void };
}

export interface ResetResult {
  readonly kind: ResetKind;
  /** It answers; when not, nothing was put back. */
  readonly ready: boolean;
}

/** What of a function is put back after a reset. */
export interface ConfigSnapshot {
  readonly bars: readonly number[];
  readonly cacheLine: number;
  readonly interruptLine: number;
  /** Controls of the PCI Express capability, by their offset in it. */
  readonly express: ReadonlyMap<number, number>;
  /** ACS Control; -1 without the capability. */
  readonly acs: number;
}

export function* saveConfig(access: ConfigAccess, fn: PciFunction): Op<ConfigSnapshot> {
  const bars: number[] = [];
  for (let i = 0; i < PCI_STD_BARS; i++) bars.push(yield* access.read(fn.sbdf, PCI.BASE_ADDRESS_0 + i * 4, 4));
  const cacheLine = yield* access.read(fn.sbdf, PCI.CACHE_LINE_SIZE, 1);
  const interruptLine = yield* access.read(fn.sbdf, PCI.INTERRUPT_LINE, 1);
  const at = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.EXPRESS);
  const express = new Map<number, number>();
  const flags = at === 0 ? 0 : yield* access.read(fn.sbdf, at + PCI_EXP.FLAGS, 2);
  for (const control of at === 0 ? [] : expressControls(flags)) {
    express.set(control, yield* access.read(fn.sbdf, at + control, 2));
  }
  const acsAt = yield* findExtendedCapability(access, fn.sbdf, PCI_EXT_CAP_ID.ACS);
  const acs = acsAt === 0 ? -1 : yield* access.read(fn.sbdf, acsAt + PCI_ACS.CTRL, 2);
  return { bars, cacheLine, interruptLine, express, acs };
}

/** The controls that an endpoint's capability with these FLAGS has (Linux pci_save_pcie_state). */
function expressControls(flags: number): readonly number[] {
  const type = (flags & PCI_EXP_FLAGS.TYPE_MASK) >>> PCI_EXP_FLAGS.TYPE_SHIFT;
  const first = type === PCI_EXP_TYPE.RC_ENDPOINT ? [PCI_EXP.DEVCTL] : [PCI_EXP.DEVCTL, PCI_EXP.LNKCTL];
  return (flags & PCI_EXP_FLAGS.VERSION_MASK) < 2 ? first : [...first, PCI_EXP.DEVCTL2, PCI_EXP.LNKCTL2];
}

/**
 * Resets a function and puts its pristine state back: BARs where dom0 placed them, ACS, nothing enabled. One that is silent
 * is waited for before that too, unless it is known not to have come out of its last reset (`wasReady` false).
 */
export function* cleanFunction(
  kernel: ResetKernel,
  fn: PciFunction,
  pristine: ConfigSnapshot,
  wasReady = true,
): Op<ResetResult> {
  const result = yield* clean(kernel, fn, pristine, wasReady);
  kernel.runtime.trace('pciback.reset', { sbdf: formatSbdf(fn.sbdf), ...result });
  return result;
}

function* clean(kernel: ResetKernel, fn: PciFunction, pristine: ConfigSnapshot, wasReady: boolean): Op<ResetResult> {
  const { access } = kernel;
  yield* wake(access, fn);
  // Without an answer there are no capabilities to reset it by.
  const silent = (yield* access.read(fn.sbdf, PCI.COMMAND, 2)) === 0xffff;
  if (silent && !(wasReady && (yield* becomesReady(kernel, fn, 'what its owner did')))) {
    return { kind: 'none', ready: false };
  }
  yield* disable(access, fn);
  const { kind, ready } = yield* reset(kernel, fn);
  if (ready) {
    yield* access.write(fn.sbdf, PCI.COMMAND, 2, PCI_COMMAND.INTX_DISABLE);
    yield* restore(access, fn, pristine);
  }
  if (kind === 'none') yield* disable(access, fn);
  return { kind, ready };
}

function* restore(access: ConfigAccess, fn: PciFunction, pristine: ConfigSnapshot): Op<void> {
  for (const [i, bar] of pristine.bars.entries()) yield* access.write(fn.sbdf, PCI.BASE_ADDRESS_0 + i * 4, 4, bar);
  yield* access.write(fn.sbdf, PCI.CACHE_LINE_SIZE, 1, pristine.cacheLine);
  yield* access.write(fn.sbdf, PCI.INTERRUPT_LINE, 1, pristine.interruptLine);
  const express = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.EXPRESS);
  for (const [control, value] of express === 0 ? [] : pristine.express) {
    const wanted = control === PCI_EXP.DEVCTL ? value & ~PCI_EXP_DEVCTL.INITIATE_FLR : value;
    yield* access.write(fn.sbdf, express + control, 2, wanted);
  }
  if (pristine.acs < 0) return;
  const acs = yield* findExtendedCapability(access, fn.sbdf, PCI_EXT_CAP_ID.ACS);
  if (acs !== 0) yield* access.write(fn.sbdf, acs + PCI_ACS.CTRL, 2, pristine.acs);
}

/** Off: decoding, bus mastering, interrupts by pin and by message. */
function* disable(access: ConfigAccess, fn: PciFunction): Op<void> {
  yield* access.write(fn.sbdf, PCI.COMMAND, 2, PCI_COMMAND.INTX_DISABLE);
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

function* reset(kernel: ResetKernel, fn: PciFunction): Op<ResetResult> {
  return (
    (yield* expressFlr(kernel, fn)) ??
    (yield* afFlr(kernel, fn)) ??
    (yield* pmReset(kernel, fn)) ??
    (yield* busReset(kernel, fn)) ?? { kind: 'none', ready: true }
  );
}

function* expressFlr(kernel: ResetKernel, fn: PciFunction): Op<ResetResult | undefined> {
  const { access } = kernel;
  const at = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.EXPRESS);
  if (at === 0) return undefined;
  if (((yield* access.read(fn.sbdf, at + PCI_EXP.DEVCAP, 4)) & PCI_EXP_DEVCAP_FLR) === 0) return undefined;
  yield* waitForTransactions(kernel, fn, at + PCI_EXP.DEVSTA, PCI_EXP_DEVSTA.TRANSACTIONS_PENDING);
  const devctl = yield* access.read(fn.sbdf, at + PCI_EXP.DEVCTL, 2);
  yield* access.write(fn.sbdf, at + PCI_EXP.DEVCTL, 2, devctl | PCI_EXP_DEVCTL.INITIATE_FLR);
  return { kind: 'flr', ready: yield* becomesReady(kernel, fn, 'FLR') };
}

function* afFlr(kernel: ResetKernel, fn: PciFunction): Op<ResetResult | undefined> {
  const { access } = kernel;
  const at = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.AF);
  if (at === 0) return undefined;
  const needed = PCI_AF.CAP_TP | PCI_AF.CAP_FLR;
  if (((yield* access.read(fn.sbdf, at + PCI_AF.CAP, 1)) & needed) !== needed) return undefined;
  yield* waitForTransactions(kernel, fn, at + PCI_AF.STATUS, PCI_AF.STATUS_TP);
  yield* access.write(fn.sbdf, at + PCI_AF.CTRL, 1, PCI_AF.CTRL_FLR);
  return { kind: 'af', ready: yield* becomesReady(kernel, fn, 'AF_FLR') };
}

/** Resets a function whose configuration does not survive D3hot. */
function* pmReset(kernel: ResetKernel, fn: PciFunction): Op<ResetResult | undefined> {
  const { access } = kernel;
  const at = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.PM);
  if (at === 0) return undefined;
  const control = yield* access.read(fn.sbdf, at + PCI_PM.CTRL, 2);
  if ((control & PCI_PM.CTRL_NO_SOFT_RESET) !== 0) return undefined;
  for (const state of [D3HOT, 0]) yield* setPowerState(access, fn, at, control, state);
  return { kind: 'pm', ready: yield* becomesReady(kernel, fn, 'PM D3hot->D0') };
}

function* busReset(kernel: ResetKernel, fn: PciFunction): Op<ResetResult | undefined> {
  const { access } = kernel;
  const { parent } = fn;
  if (parent === undefined || functionsUnder([...kernel.functions.values()], parent).length !== 1) return undefined;
  const control = yield* access.read(parent, PCI_BRIDGE.CONTROL, 2);
  yield* access.write(parent, PCI_BRIDGE.CONTROL, 2, control | PCI_BRIDGE_CTL.BUS_RESET);
  yield* sleep(BUS_RESET_NS);
  yield* access.write(parent, PCI_BRIDGE.CONTROL, 2, control & ~PCI_BRIDGE_CTL.BUS_RESET);
  return { kind: 'bus', ready: yield* becomesReady(kernel, fn, 'bus reset') };
}

/** Out of the power state that its owner left it in; all that is done to it here is for D0. */
function* wake(access: ConfigAccess, fn: PciFunction): Op<void> {
  const at = yield* findCapability(access, fn.sbdf, PCI_CAP_ID.PM);
  if (at === 0) return;
  const control = yield* access.read(fn.sbdf, at + PCI_PM.CTRL, 2);
  if ((control & PCI_PM.CTRL_STATE_MASK) !== 0) yield* setPowerState(access, fn, at, control, 0);
}

function* setPowerState(access: ConfigAccess, fn: PciFunction, at: number, control: number, state: number): Op<void> {
  // PME_Status is cleared by a one: it stays as it is.
  const kept = control & ~(PCI_PM.CTRL_STATE_MASK | PCI_PM.CTRL_PME_STATUS);
  yield* access.write(fn.sbdf, at + PCI_PM.CTRL, 2, kept | state);
  yield* sleep(D3HOT_NS);
}

/**
 * DMA that was issued before the reset must have landed (Linux pci_wait_for_pending: 100 + 200 + 400 ms). `bit` of the
 * register at `offset` says that some has not.
 */
function* waitForTransactions(kernel: ResetKernel, fn: PciFunction, offset: number, bit: number): Op<void> {
  for (let i = 0; i < PENDING_POLLS; i++) {
    if (i > 0) yield* sleep(AFTER_RESET_NS * 2 ** (i - 1));
    if (((yield* kernel.access.read(fn.sbdf, offset, 1)) & bit) === 0) return;
  }
  kernel.runtime.trace('pciback.transactions_pending', { sbdf: formatSbdf(fn.sbdf) });
}

/** Whether the function answers again. A slow one is told of, and so is one that is given up. */
function* becomesReady(kernel: ResetKernel, fn: PciFunction, after: string): Op<boolean> {
  const sbdf = formatSbdf(fn.sbdf);
  const { runtime, access } = kernel;
  yield* sleep(AFTER_RESET_NS);
  const slow = (): void => runtime.trace('pciback.slow_reset', { sbdf, text: `not ready yet after ${after}; waiting` });
  // The vendor id of a virtual function is all ones at any time.
  const probeAt = fn.physfn === undefined ? PCI.VENDOR_ID : PCI.COMMAND;
  const { ready, waitedNs } = yield* waitUntilReady(access, fn.sbdf, slow, probeAt);
  const ms = Math.round(waitedNs / MS);
  if (!ready) runtime.trace('pciback.not_ready', { sbdf, text: `not ready ${ms}ms after ${after}; giving up` });
  return ready;
}
