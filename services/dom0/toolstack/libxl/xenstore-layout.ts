/**
 * Every path that the toolstack writes, with its owner and readers, as a real host shows them (libxl_create.c,
 * libxl_pci.c, libxl_device.c, xen-init-dom0). `n1,r0` is owner domain 1, readable by domain 0.
 * Not modelled: /local/domain/N/device/suspend beyond its empty node; the console's ring page is named here as on a
 * real host, and nobody looks into it.
 */

import type { PciSpec } from '#gen/toolstack.ts';
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import type { XenstoreView } from '#shared/kernel/xenstore-client.ts';
import { deviceNodes } from '../../pciback/nodes.ts';
import type { Attached } from './context.ts';

export interface StoreNode {
  readonly path: string;
  readonly value: string;
  /** Left out: inherited from the parent. */
  readonly perms?: readonly string[];
}

export const backendPath = (domid: number): string => `/local/domain/0/backend/pci/${domid}/0`;
export const frontendPath = (domid: number): string => `/local/domain/${domid}/device/pci/0`;
const consoleBackendPath = (domid: number): string => `/local/domain/0/backend/console/${domid}/0`;

/** `/libxl/pci/0000-03-00-0`: what the toolstack knows about a function, given away or not. */
export function pciInfoPath(sbdf: Sbdf): string {
  return `/libxl/pci/${formatSbdf(sbdf).replaceAll(/[:.]/g, '-')}`;
}

export function* writeNodes(view: XenstoreView, nodes: readonly StoreNode[]): Op<void> {
  for (const { path, value, perms } of nodes) {
    yield* view.write(path, value);
    if (perms !== undefined) yield* view.setPerms(path, perms);
  }
}

/** dom0's own nodes, written once at boot. */
export function dom0Nodes(): StoreNode[] {
  const own: [string, string][] = [
    ['/local/domain/0', ''],
    ['/local/domain/0/control/feature-poweroff', '1'],
    ['/local/domain/0/control/feature-reboot', '1'],
    ['/local/domain/0/control/feature-suspend', '1'],
    ['/local/domain/0/domid', '0'],
    ['/local/domain/0/name', 'Domain-0'],
    ['/local/pool/0/name', 'Pool-0'],
    // libxl makes these when the first domain or device needs them, and leaves them; here they are there from the start.
    ['/vm', ''],
    ['/libxl', ''],
    ['/libxl/pci', ''],
  ];
  return own.map(([path, value]) => ({ path, value, perms: ['n0'] }));
}

export interface DomainNodes {
  readonly domid: number;
  readonly name: string;
  readonly uuid: string;
  readonly memoryKib: number;
  readonly vcpus: number;
  readonly storePort: number;
  readonly storeGfn: number;
  readonly consolePort: number;
  readonly consoleGfn: number;
  /** Seconds since 1970. */
  readonly startTime: number;
}

export function domainNodes(d: DomainNodes): StoreNode[] {
  const dom = `/local/domain/${d.domid}`;
  const vm = `/vm/${d.uuid}`;
  const readable = ['n0', `r${d.domid}`];
  const guestOwned = [`n${d.domid}`];
  const nodes: StoreNode[] = [
    { path: dom, value: '', perms: readable },
    { path: vm, value: '', perms: readable },
    { path: `/libxl/${d.domid}`, value: '', perms: ['n0'] },
    { path: `/libxl/${d.domid}/device`, value: '', perms: ['n0'] },
    { path: `${dom}/vm`, value: vm },
    { path: `${dom}/name`, value: d.name },
  ];
  for (const name of ['cpu', 'memory', 'device', 'control']) {
    nodes.push({ path: `${dom}/${name}`, value: '', perms: readable });
  }
  nodes.push({ path: `${dom}/device/suspend`, value: '', perms: readable });
  const owned = [
    'device/suspend/event-channel',
    'control/shutdown',
    'control/feature-poweroff',
    'control/feature-reboot',
  ];
  owned.push('control/feature-suspend', 'control/sysrq', 'data', 'drivers', 'feature', 'attr', 'error');
  for (const name of owned) nodes.push({ path: `${dom}/${name}`, value: '', perms: guestOwned });
  for (let i = 0; i < d.vcpus; i++) nodes.push({ path: `${dom}/cpu/${i}/availability`, value: 'online' });
  const plain: [string, string][] = [
    ['memory/static-max', `${d.memoryKib}`],
    ['memory/target', `${d.memoryKib}`],
    ['memory/videoram', '0'],
    ['control/platform-feature-multiprocessor-suspend', '1'],
    ['control/platform-feature-xs_reset_watches', '1'],
    ['domid', `${d.domid}`],
    ['store/port', `${d.storePort}`],
    ['store/ring-ref', `${d.storeGfn}`],
  ];
  for (const [name, value] of plain) nodes.push({ path: `${dom}/${name}`, value });
  nodes.push({ path: `${vm}/name`, value: d.name }, { path: `${vm}/uuid`, value: d.uuid });
  nodes.push({ path: `${vm}/start_time`, value: d.startTime.toFixed(2) });
  nodes.push(
    { path: `/libxl/${d.domid}/type`, value: 'pvh' },
    { path: `/libxl/${d.domid}/dm-version`, value: 'qemu_xen' },
  );
  return [...nodes, ...consoleNodes(d)];
}

function consoleNodes(d: DomainNodes): StoreNode[] {
  const front = `/local/domain/${d.domid}/console`;
  const back = consoleBackendPath(d.domid);
  const record = `/libxl/${d.domid}/device/console/0`;
  const device: [string, string][] = [
    ['frontend', front],
    ['frontend-id', `${d.domid}`],
    ['online', '1'],
    ['state', '1'],
    ['protocol', 'vt100'],
  ];
  return [
    { path: front, value: '', perms: ['n0', `r${d.domid}`] },
    { path: `${front}/backend`, value: back },
    { path: `${front}/backend-id`, value: '0', perms: [`n${d.domid}`, 'r0'] },
    { path: `${front}/limit`, value: '1048576' },
    { path: `${front}/type`, value: 'xenconsoled' },
    { path: `${front}/output`, value: 'pty' },
    { path: `${front}/port`, value: `${d.consolePort}` },
    { path: `${front}/ring-ref`, value: `${d.consoleGfn}` },
    { path: back, value: '', perms: ['n0', `r${d.domid}`] },
    ...device.map(([name, value]) => ({ path: `${back}/${name}`, value })),
    ...device.map(([name, value]) => ({ path: `${record}/${name}`, value })),
    { path: `${record}/backend`, value: back },
  ];
}

/** Removes all that belongs to a domain, and the backend directories that are empty then. */
export function* removeDomainNodes(view: XenstoreView, domid: number, uuid: string): Op<void> {
  yield* removeIfThere(view, `/local/domain/${domid}`);
  if (uuid !== '') yield* removeIfThere(view, `/vm/${uuid}`);
  yield* removeIfThere(view, `/libxl/${domid}`);
  yield* removeWithParents(view, `/local/domain/0/backend/pci/${domid}`);
  yield* removeWithParents(view, `/local/domain/0/backend/console/${domid}`);
  // What pciback had to say about it.
  yield* removeWithParents(view, `/local/domain/0/error/backend/pci/${domid}`);
}

function* removeIfThere(view: XenstoreView, path: string): Op<void> {
  if ((yield* view.readOrUndefined(path)) !== undefined) yield* view.rm(path);
}

/** Directories that go when they are empty: of a domain's devices and backends, and of their records. */
const CLEANED = /^(\/local\/domain\/\d+|\/libxl\/\d+\/device)\/./;

/** libxl__xs_path_cleanup: removes a path, and the parents that this leaves empty, below the domain's own directory. */
export function* removeWithParents(view: XenstoreView, path: string): Op<void> {
  yield* removeIfThere(view, path);
  for (let at = parentOf(path); CLEANED.test(at); at = parentOf(at)) {
    if ((yield* view.readOrUndefined(at)) === undefined) continue;
    if ((yield* view.directory(at)).length > 0) return;
    yield* view.rm(at);
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'));
}

/** Both directories of a guest's PCI device, as its first function finds them. */
export function pciDeviceNodes(domid: number, domainName: string): StoreNode[] {
  const [front, back] = [frontendPath(domid), backendPath(domid)];
  return [
    { path: front, value: '', perms: [`n${domid}`, 'r0'] },
    { path: `${front}/backend`, value: back },
    { path: `${front}/backend-id`, value: '0' },
    { path: `${front}/state`, value: '1' },
    { path: back, value: '', perms: ['n0', `r${domid}`] },
    { path: `${back}/frontend`, value: front },
    { path: `${back}/frontend-id`, value: `${domid}` },
    { path: `${back}/online`, value: '1' },
    { path: `${back}/domain`, value: domainName },
    { path: `${back}/state`, value: '1' },
  ];
}

/** The nodes of function number `index` in the backend directory. */
export function pciEntryNodes(domid: number, index: number, device: Attached, spec: PciSpec): StoreNode[] {
  const back = backendPath(domid);
  const bdf = formatSbdf(device.sbdf);
  const flag = (on: boolean): string => (on ? '1' : '0');
  const opts =
    `msitranslate=${flag(spec.msitranslate)},power_mgmt=${flag(spec.powerMgmt)},` +
    `permissive=${flag(spec.permissive)},rdm_policy=${spec.rdmPolicy || 'strict'}`;
  const entries: [string, string][] = [
    [`key-${index}`, bdf],
    [`dev-${index}`, bdf],
  ];
  if (spec.vslot >= 0) entries.push([`vdevfn-${index}`, device.vdevfn.toString(16)]);
  if (spec.name !== '') entries.push([`name-${index}`, spec.name]);
  entries.push([`opts-${index}`, opts], ...deviceNodes(index, device.vdevfn, device.bars, device.intx));
  entries.push([`state-${index}`, '1'], ['num_devs', `${index + 1}`]);
  return entries.map(([name, value]) => ({ path: `${back}/${name}`, value }));
}

/** The index of a function in the backend directory, and how many it lists; index -1 when it is not there. */
export function* findPciEntry(view: XenstoreView, domid: number, sbdf: Sbdf): Op<{ index: number; count: number }> {
  const back = backendPath(domid);
  const count = Number((yield* view.readOrUndefined(`${back}/num_devs`)) ?? 0);
  for (let index = 0; index < count; index++) {
    if ((yield* view.readOrUndefined(`${back}/dev-${index}`)) === formatSbdf(sbdf)) return { index, count };
  }
  return { index: -1, count };
}

/**
 * Takes entry `index` out of the backend directory and moves the later ones down; the last one takes both directories with
 * it. `root-N` is not of a function and stays.
 */
export function* removePciEntry(view: XenstoreView, domid: number, index: number, count: number): Op<void> {
  const back = backendPath(domid);
  if (count <= 1) {
    yield* removeWithParents(view, back);
    yield* removeWithParents(view, frontendPath(domid));
    return;
  }
  const moves: { name: string; at: number }[] = [];
  for (const node of yield* view.directory(back)) {
    const m = /^(.+)-(\d+)$/.exec(node);
    if (m !== null && m[1] !== 'root' && Number(m[2]) >= index) moves.push({ name: m[1]!, at: Number(m[2]) });
  }
  moves.sort((a, b) => a.at - b.at);
  for (const { name, at } of moves) {
    if (at > index) yield* view.write(`${back}/${name}-${at - 1}`, yield* view.read(`${back}/${name}-${at}`));
    yield* view.rm(`${back}/${name}-${at}`);
  }
  yield* view.write(`${back}/num_devs`, `${count - 1}`);
}

/** The toolstack's own record of what it gave to a guest and where (T19). */
export function recordNodes(domid: number, device: Attached): StoreNode[] {
  const path = recordPath(domid, device.sbdf);
  const perms = ['n0'];
  const hex = (n: number): string => `0x${n.toString(16)}`;
  return [
    { path, value: '', perms },
    { path: `${path}/guest-sbdf`, value: formatSbdf(device.vdevfn) },
    ...(device.intx === 0 ? [] : [{ path: `${path}/intx`, value: `${device.intx}` }]),
    ...device.bars.map((b) => ({
      path: `${path}/bar-${b.index}`,
      value: `ipa=${hex(b.ipa)},pa=${hex(b.pa)},size=${hex(b.sizeBytes)}`,
    })),
  ];
}

export function recordPath(domid: number, sbdf: Sbdf): string {
  return `/libxl/${domid}/device/pci/${formatSbdf(sbdf).replaceAll(/[:.]/g, '-')}`;
}
