/** What the services say of themselves, put together: the counts of a run, and what must be as it was before. */
import type { Peer } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';

/** Part of a service's inspect() tree. */
export type Ask = (peer: Peer, path: string) => Op<unknown>;

type Tree = Record<string, unknown>;

/** One object of counts over all services (documented in docs/reference/scenario.md). */
export function* collectCounts(ask: Ask): Op<Tree> {
  const xen = (yield* ask('xen', '')) as Tree;
  const hardware = (yield* ask('hardware', '')) as Tree;
  const store = (yield* ask('xenstored', '')) as Tree;
  const dom0 = (yield* ask('d0', '')) as Tree;
  const messages: Record<string, number> = {};
  for (const tree of [xen, hardware, store, dom0]) {
    const sent = (tree['runtime'] as { sent?: Record<string, number> } | undefined)?.sent ?? {};
    for (const [kind, n] of Object.entries(sent)) messages[kind] = (messages[kind] ?? 0) + n;
  }
  return {
    xen: xen['counts'],
    hardware: hardware['counts'],
    xenstored: store['counts'],
    dom0: dom0['counts'],
    messages,
  };
}

/** What has to be back after a teardown. */
export function* resourceSnapshot(ask: Ask): Op<Tree> {
  const xen = (yield* ask('xen', '')) as Tree;
  const store = (yield* ask('xenstored', 'tree')) as Tree;
  const dom0 = (yield* ask('d0', '')) as Tree;
  return {
    'SPIs of the machine': yield* ask('hardware', 'gic.distributor.spis'),
    'high lines': yield* ask('hardware', 'highSpis'),
    'pending LPIs': ((yield* ask('hardware', 'gic.pcpus')) as Tree[]).map((pcpu) => pcpu['pendingLpis']),
    "the machine's streams": eachPart(yield* ask('hardware', 'smmu'), streamsLet),
    "the machine's events": eachPart(yield* ask('hardware', 'its'), eventsLet),
    irqs: (xen['irqs'] as Tree[]).map(({ intid, domid }) => ({ intid, domid })),
    domains: xen['domains'],
    frames: xen['frames'],
    devices: xen['devices'],
    its: xen['its'],
    streams: (xen['smmu'] as Tree | undefined)?.['streams'],
    'store nodes': store,
    'MMIO holes': dom0['holes'],
    backends: dom0['backends'],
    assignable: dom0['assignable'],
  };
}

function eachPart(parts: unknown, of: (part: Tree) => Tree): Tree {
  return Object.fromEntries(Object.entries(parts as Record<string, Tree>).map(([name, part]) => [name, of(part)]));
}

/**
 * What an SMMU lets through, by its own tables and registers: entries that do not abort, and copies that outlived theirs.
 * Entries that abort come with a bus's first function and stay; whether a copy is cached depends on who did DMA.
 */
function streamsLet(smmu: Tree): Tree {
  const { streams, streamTable, groups, banks } = smmu as Record<string, Tree | Tree[] | undefined>;
  if (streams !== undefined) {
    const entries = Object.entries(streams as Record<string, Tree>).map(([id, entry]) => [
      id,
      withoutFreshCopies(entry),
    ]);
    return { ...Object.fromEntries(entries), incomplete: (streamTable as Tree)['incomplete'] };
  }
  return {
    groups: (groups as Tree[]).filter((group) => group['type'] !== 'fault'),
    banks: (banks as Tree[]).map(({ FSR: _, ...bank }) => bank),
  };
}

function withoutFreshCopies({ cached, contexts, ...entry }: Tree): Tree {
  return {
    ...entry,
    ...(cached === 'stale' ? { cached } : {}),
    ...(contexts === undefined ? {} : { contexts: eachPart(contexts, withoutFreshCopies) }),
  };
}

/** What an ITS delivers. Where the tables and LPIs were put is the owner's matter. */
function eventsLet({ devices, incomplete }: Tree): Tree {
  const mapped = (device: Tree): Tree =>
    Object.fromEntries((device['mapped'] as Tree[]).map(({ eventId, icid }) => [`event ${eventId}`, icid]));
  return { ...eachPart(devices, mapped), incomplete };
}
