/**
 * `culvert board FILE`: what a device tree offers a machine, or why no machine can be made of it. FILE is a device tree
 * blob, or a board file, whose tree is read as it says. Exit status 1 when the board is refused.
 */
import { readBoard } from '#shared/board/board-file.ts';
import type { BoardDescription, BoardLack } from '#shared/board/description.ts';
import { BoardError, type BoardGic, type BoardRegion, type BoardSmmuV2, type BoardTree } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import type { PciRange, RidMap } from '#shared/fdt/pci-bindings.ts';
import { readBytes } from '#shared/yaml/files.ts';
import { UsageError } from './session.ts';

export interface BoardOptions {
  readonly json?: boolean;
  /** What the board may lack, beside what a board file says. */
  readonly without?: readonly string[];
}

const LACKS: readonly string[] = ['msi', 'smmu'] satisfies BoardLack[];

export interface BoardReport {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Throws UsageError, and FileError for a file that cannot be read. */
export function board(file: string, options: BoardOptions): BoardReport {
  const lacks = options.without ?? [];
  const unknown = lacks.find((lack) => !LACKS.includes(lack));
  if (unknown !== undefined)
    throw new UsageError(`--without ${unknown}: a board has no part "${unknown}" to lack: msi or smmu was expected`);
  const description = descriptionOf(file);
  const without = [...(description.without ?? []), ...(lacks as BoardLack[])];
  let found: BoardTree;
  try {
    found = readBoardTree({ dtb: description.dtb, without });
  } catch (error) {
    if (!(error instanceof BoardError)) throw error;
    if (options.json === true) return { exit: 1, stdout: json({ file, refused: error.message }), stderr: '' };
    return { exit: 1, stdout: '', stderr: `culvert: ${file}: ${error.message}\n` };
  }
  const stdout = options.json === true ? json({ file, ...summaryOf(found) }) : `${textOf(found)}\n`;
  return { exit: 0, stdout, stderr: '' };
}

function descriptionOf(file: string): Pick<BoardDescription, 'dtb' | 'without'> {
  if (/\.ya?ml$/.test(file)) return readBoard(file);
  return { dtb: readBytes(file) };
}

/** The board as plain data. Addresses are numbers; `handle` of an SMMU or ITS is what the rows of maps name. */
function summaryOf(b: BoardTree): object {
  return {
    memory: b.memory,
    cpus: b.mpidrs.map((mpidr) => ({ mpidr })),
    gic: gicSummary(b.gic),
    its: b.itses.map(({ path, phandle, registers, numaNode }) => ({
      path,
      handle: phandle,
      registers,
      numaNode: numaNode ?? null,
    })),
    smmu: b.smmus.map(({ phandle, numaNode, ...rest }) => ({ ...rest, handle: phandle, numaNode: numaNode ?? null })),
    bridges: b.bridges.map((bridge) => ({
      path: bridge.path,
      driver: bridge.driver,
      segment: bridge.segment,
      buses: bridge.busRange,
      configuration: bridge.ecam,
      busShift: bridge.busShift,
      pem: bridge.pem ?? null,
      windows: bridge.ranges,
      iommuMap: bridge.iommuMap,
      msiMap: bridge.msiMap ?? null,
      interruptMap: bridge.interruptMap ?? null,
      numaNode: bridge.numaNode ?? null,
      dmaCoherent: bridge.dmaCoherent,
    })),
    leftOut: b.leftOut,
    numa: b.numa ?? null,
  };
}

function gicSummary(gic: BoardGic): object {
  const { path, version, distributor } = gic;
  if (gic.version === 3) return { path, version, distributor, redistributors: gic.redistributors };
  return { path, version, distributor, cpuInterface: gic.cpuInterface, v2mFrames: gic.v2mFrames };
}

function gicText(gic: BoardGic): string[] {
  const first = `GICv${gic.version}    ${gic.path}: distributor ${region(gic.distributor)}`;
  if (gic.version === 3) return [first, ...gic.redistributors.map((r) => `         redistributors ${region(r)}`)];
  return [
    first,
    `         CPU interface ${region(gic.cpuInterface)}`,
    ...gic.v2mFrames.map(({ path, registers }) => `         v2m frame ${path}: ${region(registers)}, not modelled`),
  ];
}

function textOf(b: BoardTree): string {
  const paths = new Map([...b.smmus, ...b.itses].map((part) => [part.phandle, part.path]));
  const name = (phandle: number): string => paths.get(phandle) ?? hex(phandle);
  const lines = [
    ...b.memory.map((bank) => `RAM      ${region(bank)}`),
    `CPUs     ${b.cpus}: ${runs(b.mpidrs)}`,
    ...gicText(b.gic),
    ...b.itses.map((its) => `ITS      ${its.path}: ${region(its.registers)}${onNode(its.numaNode)}`),
    ...b.smmus.flatMap((smmu) => [
      `SMMU${smmu.kind}   ${smmu.path}: ${region(smmu.registers)}${onNode(smmu.numaNode)}`,
      ...(smmu.kind === 'v2' ? [`         ${v2Details(smmu)}`] : []),
    ]),
  ];
  if (b.itses.length === 0) lines.push('ITS      none: no MSI');
  if (b.smmus.length === 0) lines.push('SMMU     none: DMA is untranslated');
  for (const bridge of b.bridges) {
    const { first, last } = bridge.busRange;
    lines.push(
      `bridge   ${bridge.path}: segment ${bridge.segment}, buses ${bus(first)}-${bus(last)}, ${bridge.driver}${onNode(bridge.numaNode)}`,
      `         configuration ${region(bridge.ecam)}, bus number from bit ${bridge.busShift}`,
      ...(bridge.pem === undefined ? [] : [`         PEM registers ${region(bridge.pem)}`]),
      ...bridge.ranges.map((range) => `         ${windowText(range)}`),
      ...mapText('StreamID', bridge.iommuMap, name),
      ...(bridge.msiMap === undefined
        ? ['         MSI: none reaches an ITS']
        : mapText('DeviceID', bridge.msiMap, name)),
      ...(bridge.interruptMap === undefined ? [] : [`         INTx: ${bridge.interruptMap.rows.length} rows`]),
    );
  }
  for (const other of b.leftOut) lines.push(`left out ${other.path}: ${other.compatible}: ${other.why}`);
  for (const [i, node] of (b.numa?.nodes ?? []).entries()) {
    const distances = b.numa?.distances[i]?.join(' ') ?? '';
    lines.push(
      `NUMA     node ${node.id}: CPUs ${node.cpus.join(' ') || 'none'}, RAM ${node.memory.map(region).join(', ') || 'none'}, distances ${distances}`,
    );
  }
  return lines.join('\n');
}

function mapText(what: string, map: RidMap, name: (phandle: number) => string): string[] {
  if (map.rows.length === 0) return [`         ${what}: none, DMA is untranslated`];
  const masked = (map.mask & 0xffff) === 0xffff ? '' : ` of the id masked with ${hex(map.mask)}`;
  return map.rows.map((row) => {
    const last = row.ridBase + row.length - 1;
    return `         ${what}${masked}: ${hex(row.ridBase)}-${hex(last)} -> ${hex(row.outBase)} at ${name(row.phandle)}`;
  });
}

function windowText(range: PciRange): string {
  const from = { pa: range.cpuBase, sizeBytes: range.sizeBytes };
  const to = range.pciBase === range.cpuBase ? '' : ` -> ${hex(range.pciBase)}`;
  return `${range.space}${range.prefetchable ? ' prefetchable' : ''} ${region(from)}${to}`;
}

function v2Details(smmu: BoardSmmuV2): string {
  const mask = smmu.streamMatchMask === 0 ? '' : `, stream-match-mask ${hex(smmu.streamMatchMask)}`;
  return `${smmu.implementation}: interrupts ${smmu.globalSpis.length} global, ${smmu.contextSpis.length} of context banks${mask}`;
}

/** 0-3, 0x100-0x103: consecutive numbers together. */
function runs(numbers: readonly number[]): string {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < sorted.length; ) {
    let j = i;
    while (sorted[j + 1] === sorted[j]! + 1) j++;
    parts.push(i === j ? hex(sorted[i]!) : `${hex(sorted[i]!)}-${hex(sorted[j]!)}`);
    i = j + 1;
  }
  return parts.join(', ');
}

function region({ pa, sizeBytes }: BoardRegion): string {
  return `${hex(pa)}+${hex(sizeBytes)}`;
}

function onNode(numa: number | undefined): string {
  return numa === undefined ? '' : `, NUMA node ${numa}`;
}

function bus(number: number): string {
  return number.toString(16).padStart(2, '0');
}

function hex(n: number): string {
  return `0x${n.toString(16)}`;
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
