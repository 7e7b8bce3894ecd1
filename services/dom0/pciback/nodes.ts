/**
 * The nodes of a backend directory that are this project's own, as the toolstack writes them and pciback reads them once,
 * on attach (T18; later drafts called them BAR-k-IPA and so on). N is the index of the device, k that of the BAR's
 * (lower) register; numbers are hexadecimal with 0x.
 *   BAR-k-IPA-N    where the guest sees the BAR
 *   BAR-k-PA-N     where the machine has it
 *   BAR-k-SIZE-N   bytes
 *   BAR-k-FLAGS-N  bit 0: 64-bit register pair, bit 1: prefetchable
 *   intx-N         decimal: the INTID of the SPI that its pin leads to in the guest; absent when it has no INTx
 *   guest-sbdf-N   the address on the guest's bus that Xen was told in assign_device
 */
import type { Op } from '#shared/core/op.ts';
import { formatSbdf, parseSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import type { XenstoreView } from '#shared/kernel/xenstore-client.ts';
import type { VirtualBar } from './config-fields.ts';

export interface PlacedBar extends VirtualBar {
  readonly pa: number;
}

const WIDE = 1;
const PREFETCHABLE = 2;

/** `intx` is 0 for none. */
export function deviceNodes(
  index: number,
  guestSbdf: Sbdf,
  bars: readonly PlacedBar[],
  intx: number,
): [name: string, value: string][] {
  const nodes: [string, string][] = [[`guest-sbdf-${index}`, formatSbdf(guestSbdf)]];
  if (intx !== 0) nodes.push([`intx-${index}`, `${intx}`]);
  for (const bar of bars) {
    const flags = (bar.wide ? WIDE : 0) | (bar.prefetchable ? PREFETCHABLE : 0);
    nodes.push(
      [`BAR-${bar.index}-IPA-${index}`, hex(bar.ipa)],
      [`BAR-${bar.index}-PA-${index}`, hex(bar.pa)],
      [`BAR-${bar.index}-SIZE-${index}`, hex(bar.sizeBytes)],
      [`BAR-${bar.index}-FLAGS-${index}`, hex(flags)],
    );
  }
  return nodes;
}

/** What the nodes of device `index` below `path` say. A BAR without all its nodes is absent; `intx` is 0 for none. */
export function* readDeviceNodes(
  view: XenstoreView,
  path: string,
  index: number,
): Op<{ guestSbdf: Sbdf | undefined; bars: PlacedBar[]; intx: number }> {
  const names = new Set(yield* view.directoryOrEmpty(path));
  const bars: PlacedBar[] = [];
  for (let k = 0; k < 6; k++) {
    const wanted = ['IPA', 'PA', 'SIZE', 'FLAGS'].map((what) => `BAR-${k}-${what}-${index}`);
    if (!wanted.every((name) => names.has(name))) continue;
    const values: number[] = [];
    for (const name of wanted) values.push(Number(yield* view.read(`${path}/${name}`)));
    const [ipa, pa, sizeBytes, flags] = values as [number, number, number, number];
    if (!values.every(Number.isSafeInteger) || sizeBytes <= 0) continue;
    bars.push({ index: k, ipa, pa, sizeBytes, wide: (flags & WIDE) !== 0, prefetchable: (flags & PREFETCHABLE) !== 0 });
  }
  const name = `guest-sbdf-${index}`;
  const guestSbdf = names.has(name) ? parseSbdf(yield* view.read(`${path}/${name}`)) : undefined;
  const line = `intx-${index}`;
  const intx = names.has(line) ? Number(yield* view.read(`${path}/${line}`)) : 0;
  return { guestSbdf, bars, intx: Number.isSafeInteger(intx) ? intx : 0 };
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
