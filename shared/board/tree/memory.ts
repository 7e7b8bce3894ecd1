/** RAM, CPUs and the NUMA nodes they belong to (Devicetree Specification, "/memory node"; binding numa-distance-map-v1). */
import type { FdtNode } from '../../fdt/node.ts';
import { BoardError, type BoardNuma, type BoardRegion } from '../parts.ts';
import { numaNodeOf, regionOf } from './nodes.ts';

const PAGE_BYTES = 4096;
const LOCAL_DISTANCE = 10;
/** What Linux takes for a pair that no distance map names. */
const REMOTE_DISTANCE = 20;

/** Affinity (`reg`) of each CPU, in the order of the tree. Throws BoardError when there is none. */
export function mpidrsOf(tree: FdtNode): number[] {
  const mpidrs = cpuNodes(tree).map((n) => n.reg()[0]?.address ?? 0);
  if (mpidrs.length === 0) throw new BoardError('board has no CPU: the device tree has no cpu nodes below /cpus');
  return mpidrs;
}

/** RAM banks by address. Throws BoardError. */
export function memoryOf(tree: FdtNode): BoardRegion[] {
  const nodes = memoryNodes(tree);
  const banks = nodes.flatMap((n) => banksOf(n)).sort((a, b) => a.pa - b.pa);
  if (banks.length === 0)
    throw new BoardError(
      nodes.length === 0
        ? 'board has no memory: the device tree has no memory node; firmware adds it'
        : `board has no memory: ${nodes[0]!.path} has size 0; firmware fills it in`,
    );
  banks.forEach((bank, i) => {
    const before = banks[i - 1];
    if (before !== undefined && before.pa + before.sizeBytes > bank.pa)
      throw new BoardError(`board has memory twice at 0x${bank.pa.toString(16)}`);
    if (bank.pa % PAGE_BYTES !== 0 || bank.sizeBytes % PAGE_BYTES !== 0)
      throw new BoardError(`memory at 0x${bank.pa.toString(16)} is not made of whole pages of ${PAGE_BYTES} bytes`);
  });
  return banks;
}

/** NUMA nodes and the distances between them; undefined when nothing in the tree has a `numa-node-id`. */
export function numaOf(tree: FdtNode, cpus: number): BoardNuma | undefined {
  const ids = [...tree.walk()].filter((n) => n.enabled).flatMap((n) => n.u32('numa-node-id') ?? []);
  if (ids.length === 0) return undefined;
  const sorted = [...new Set(ids)].sort((a, b) => a - b);
  const cpuNode = cpuNodes(tree).map((n) => numaNodeOf(n));
  const nodes = sorted.map((id) => ({
    id,
    memory: memoryNodes(tree)
      .filter((n) => numaNodeOf(n) === id)
      .flatMap((n) => banksOf(n))
      .sort((a, b) => a.pa - b.pa),
    cpus: Array.from({ length: cpus }, (_, i) => i).filter((i) => cpuNode[i] === id),
  }));
  const given = distancesOf(tree);
  const between = (from: number, to: number): number =>
    given.get(`${from} ${to}`) ?? given.get(`${to} ${from}`) ?? (from === to ? LOCAL_DISTANCE : REMOTE_DISTANCE);
  return { nodes, distances: sorted.map((from) => sorted.map((to) => between(from, to))) };
}

/** The triples of `distance-matrix`, by "from to". Throws BoardError. */
function distancesOf(tree: FdtNode): Map<string, number> {
  const distances = new Map<string, number>();
  for (const node of tree.compatibleNodes('numa-distance-map-v1')) {
    const cells = node.cells('distance-matrix');
    if (cells.length % 3 !== 0)
      throw new BoardError(`distance-matrix of ${node.path} is ${cells.length} cells long, not a multiple of 3`);
    for (let at = 0; at < cells.length; at += 3) {
      const [from, to, distance] = cells.slice(at, at + 3);
      if (from === to ? distance !== LOCAL_DISTANCE : distance! <= LOCAL_DISTANCE)
        throw new BoardError(`distance-matrix of ${node.path} says ${distance} from node ${from} to node ${to}`);
      distances.set(`${from} ${to}`, distance!);
    }
  }
  return distances;
}

function cpuNodes(tree: FdtNode): FdtNode[] {
  return (tree.child('cpus')?.children ?? []).filter((n) => n.string('device_type') === 'cpu' && n.enabled);
}

function memoryNodes(tree: FdtNode): FdtNode[] {
  return tree.children.filter((n) => n.string('device_type') === 'memory' && n.enabled);
}

function banksOf(node: FdtNode): BoardRegion[] {
  return node
    .reg()
    .filter((r) => r.sizeBytes > 0)
    .map(regionOf);
}
