/**
 * The physical address map of a board: every address belongs to one part.
 * On a ThunderX the SMMU, the GIC and the configuration windows themselves stand inside a window of a host bridge: there
 * they answer, and the window is what is left around them. Anything else that overlaps is a mistake in the tree.
 */
import type { PciRange } from '../../fdt/pci-bindings.ts';
import { type BoardBridge, BoardError, type BoardGic, type BoardRegion, type BoardSmmu } from '../parts.ts';

interface Part extends BoardRegion {
  readonly name: string;
}

interface Window extends Part {
  readonly bridge: BoardBridge;
  readonly range: PciRange;
}

/** The bridges with the windows that are left to them. Throws BoardError for parts that overlap or are empty. */
export function mapOf(
  memory: readonly BoardRegion[],
  gic: BoardGic,
  smmus: readonly BoardSmmu[],
  bridges: readonly BoardBridge[],
): BoardBridge[] {
  const ram = memory.map((r) => ({ name: 'memory', ...r }));
  const blocks: Part[] = [
    { name: gic.path, ...gic.distributor },
    ...(gic.version === 3 ? gic.redistributors : [gic.cpuInterface]).map((r) => ({ name: gic.path, ...r })),
    ...[...gic.its, ...smmus].map(({ path, registers }) => ({ name: path, ...registers })),
    ...bridges.map((b) => ({
      name: `${b.driver === 'thunder-pem' ? 'configuration' : 'ECAM'} of ${b.path}`,
      ...b.ecam,
    })),
    ...bridges.flatMap((b) => (b.pem === undefined ? [] : [{ name: `registers of ${b.path}`, ...b.pem }])),
  ];
  const windows = bridges.flatMap((bridge) =>
    bridge.ranges
      .filter((range) => range.space !== 'config')
      .map((range) => ({
        name: `${range.space} window of ${bridge.path}`,
        pa: range.cpuBase,
        sizeBytes: range.sizeBytes,
        bridge,
        range,
      })),
  );
  checkApart([...ram, ...blocks]);
  for (const window of windows) {
    if (window.sizeBytes === 0) throw new BoardError(`${window.name} is empty at ${hex(window.pa)}`);
    checkApart([...ram, window]);
  }
  return bridges.map((bridge) => ({
    ...bridge,
    ranges: bridge.ranges.flatMap((range) => {
      const window = windows.find((w) => w.range === range);
      return window === undefined ? [range] : rest(window, insideOf(window, blocks, windows));
    }),
  }));
}

/** What stands inside a window, by address. Throws BoardError for what stands across its edge, or has its place. */
function insideOf(window: Window, blocks: readonly Part[], windows: readonly Window[]): Part[] {
  const inside: Part[] = [];
  for (const part of [...blocks, ...windows]) {
    if (part === window || !overlap(part, window)) continue;
    const contained = part.pa >= window.pa && end(part) <= end(window);
    const contains = window.pa >= part.pa && end(window) <= end(part);
    const isWindow = windows.includes(part as Window);
    if (contained && !(contains && isWindow)) inside.push(part);
    else if (!(contains && isWindow && !contained)) throw overlapping(part, window);
  }
  return inside.sort((a, b) => a.pa - b.pa);
}

/** The pieces of a window around what stands in it. */
function rest(window: Window, inside: readonly Part[]): PciRange[] {
  const pieces: PciRange[] = [];
  const add = (from: number, to: number): void => {
    if (to <= from) return;
    const { range } = window;
    pieces.push({ ...range, cpuBase: from, pciBase: range.pciBase + (from - window.pa), sizeBytes: to - from });
  };
  let from = window.pa;
  for (const part of inside) {
    add(from, part.pa);
    from = Math.max(from, end(part));
  }
  add(from, end(window));
  return pieces;
}

function checkApart(parts: readonly Part[]): void {
  const sorted = [...parts].sort((a, b) => a.pa - b.pa);
  sorted.forEach((part, i) => {
    const below = sorted[i - 1];
    if (below !== undefined && overlap(below, part)) throw overlapping(below, part);
    if (part.sizeBytes === 0) throw new BoardError(`${part.name} is empty at ${hex(part.pa)}`);
  });
}

function overlap(a: Part, b: Part): boolean {
  return a.pa < end(b) && b.pa < end(a);
}

function overlapping(a: Part, b: Part): BoardError {
  const [low, high] = a.pa <= b.pa ? [a, b] : [b, a];
  return new BoardError(`${low.name} and ${high.name} overlap at ${hex(high.pa)}`);
}

function end(part: Part): number {
  return part.pa + part.sizeBytes;
}

function hex(n: number): string {
  return `0x${n.toString(16)}`;
}
