/** What Identify tells (NVM Express 1.4, "Identify command"): the controller, a namespace, and the lists of namespaces. */
import { NVME_CNS, NVME_CQES, NVME_SQES } from '#shared/arch/nvme.ts';
import {
  NVME_DLFEAT,
  NVME_ID_CTRL,
  NVME_ID_NS,
  NVME_IDENTIFY_BYTES,
  NVME_NIDT,
  NVME_NSATTR_WRITE_PROTECTED,
  NVME_ONCS,
  NVME_VWC,
} from '#shared/arch/nvme-data.ts';
import { NVME_AERL } from './nvme-events.ts';
import { ascii, NVME_ERROR_ENTRIES, putU64 } from './nvme-logs.ts';
import type { NvmeNamespace } from './nvme-namespace.ts';
import { NVME_MQES } from './nvme-registers.ts';

/** log2, in pages of 4 KiB, of the data that one command may move: 1 MiB. */
export const NVME_MDTS = 8;
/** ACL: Abort commands at once, less one. All that arrive are carried out in order, so none is refused. */
const ABORT_LIMIT = 3;
/** Arbitration burst that Identify recommends, log2. */
export const NVME_RAB = 3;
const WCTEMP = 343;
const CCTEMP = 353;
const VERSION = 0x0001_0400;
/** The part of an EUI-64 that stands for a maker; a private one (locally administered). */
const EUI64_PREFIX = 0x02_43_4c_56;

export interface ControllerIdentity {
  readonly vendorId: number;
  readonly subsystemVendorId: number;
  /** At most 20 ASCII characters. */
  readonly serial: string;
  /** At most 40. */
  readonly modelNumber: string;
  readonly firmware: string;
  /** What makes namespace identifiers differ between controllers: 24 bits. */
  readonly unique: number;
}

export function identifyController(who: ControllerIdentity, namespaces: readonly NvmeNamespace[]): Uint8Array {
  const page = new Uint8Array(NVME_IDENTIFY_BYTES);
  const view = new DataView(page.buffer);
  view.setUint16(NVME_ID_CTRL.VID, who.vendorId, true);
  view.setUint16(NVME_ID_CTRL.SSVID, who.subsystemVendorId, true);
  ascii(page, NVME_ID_CTRL.SN, who.serial, 20);
  ascii(page, NVME_ID_CTRL.MN, who.modelNumber, 40);
  ascii(page, NVME_ID_CTRL.FR, who.firmware, 8);
  page[NVME_ID_CTRL.RAB] = NVME_RAB;
  page[NVME_ID_CTRL.MDTS] = NVME_MDTS;
  view.setUint32(NVME_ID_CTRL.VER, VERSION, true);
  page[NVME_ID_CTRL.CNTRLTYPE] = 1;
  page[NVME_ID_CTRL.ACL] = ABORT_LIMIT;
  page[NVME_ID_CTRL.AERL] = NVME_AERL;
  // One firmware slot, read-only.
  page[NVME_ID_CTRL.FRMW] = 1 | (1 << 1);
  // Get Log Page takes an offset and a long length.
  page[NVME_ID_CTRL.LPA] = 1 << 2;
  page[NVME_ID_CTRL.ELPE] = NVME_ERROR_ENTRIES - 1;
  view.setUint16(NVME_ID_CTRL.WCTEMP, WCTEMP, true);
  view.setUint16(NVME_ID_CTRL.CCTEMP, CCTEMP, true);
  page[NVME_ID_CTRL.SQES] = (NVME_SQES << 4) | NVME_SQES;
  page[NVME_ID_CTRL.CQES] = (NVME_CQES << 4) | NVME_CQES;
  view.setUint16(NVME_ID_CTRL.MAXCMD, NVME_MQES + 1, true);
  view.setUint32(NVME_ID_CTRL.NN, namespaces.length, true);
  const { COMPARE, DATASET_MANAGEMENT, WRITE_ZEROES, SAVE_SELECT } = NVME_ONCS;
  view.setUint16(NVME_ID_CTRL.ONCS, COMPARE | DATASET_MANAGEMENT | WRITE_ZEROES | SAVE_SELECT, true);
  // What is in memory only has no medium that it could be lost on the way to.
  const hasCache = namespaces.some(({ cache }) => cache !== undefined);
  page[NVME_ID_CTRL.VWC] = NVME_VWC.FLUSH_ALL | (hasCache ? NVME_VWC.PRESENT : 0);
  const nqn = `nqn.2014-08.org.nvmexpress:culvert:${who.serial.trim()}`;
  for (let i = 0; i < nqn.length; i++) page[NVME_ID_CTRL.SUBNQN + i] = nqn.charCodeAt(i);
  // Power state 0: 5.00 W at most.
  view.setUint16(NVME_ID_CTRL.PSD0, 500, true);
  return page;
}

export function identifyNamespace(namespace: NvmeNamespace, who: ControllerIdentity, nsid: number): Uint8Array {
  const page = new Uint8Array(NVME_IDENTIFY_BYTES);
  const view = new DataView(page.buffer);
  putU64(view, NVME_ID_NS.NSZE, namespace.blocks);
  putU64(view, NVME_ID_NS.NCAP, namespace.blocks);
  putU64(view, NVME_ID_NS.NUSE, namespace.blocksUsed);
  page[NVME_ID_NS.DLFEAT] = NVME_DLFEAT.READS_ZEROES | NVME_DLFEAT.WRITE_ZEROES_DEALLOCATES;
  page[NVME_ID_NS.NSATTR] = namespace.readOnly ? NVME_NSATTR_WRITE_PROTECTED : 0;
  putEui64(view, NVME_ID_NS.EUI64, who, nsid);
  view.setUint32(NVME_ID_NS.LBAF, Math.log2(namespace.blockBytes) << 16, true);
  return page;
}

/** Active namespaces above `after`, in order: 1 to `count`. */
export function activeNamespaces(after: number, count: number): Uint8Array {
  const list = new Uint32Array(NVME_IDENTIFY_BYTES / 4);
  for (let i = 0; i < list.length && after + 1 + i <= count; i++) list[i] = after + 1 + i;
  return new Uint8Array(list.buffer);
}

export function namespaceDescriptors(who: ControllerIdentity, nsid: number): Uint8Array {
  const page = new Uint8Array(NVME_IDENTIFY_BYTES);
  page[0] = NVME_NIDT.EUI64;
  page[1] = 8;
  putEui64(new DataView(page.buffer), 4, who, nsid);
  return page;
}

/** Whether Identify knows the structure. */
export function isKnownCns(cns: number): boolean {
  return (Object.values(NVME_CNS) as number[]).includes(cns);
}

/** Big-endian, as the specification has it for this one. */
function putEui64(view: DataView, at: number, { unique }: ControllerIdentity, nsid: number): void {
  view.setUint32(at, EUI64_PREFIX, false);
  view.setUint32(at + 4, ((unique << 8) | (nsid & 0xff)) >>> 0, false);
}
