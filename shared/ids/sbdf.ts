/**
 * Segment, bus, device and function of a PCI function, packed as Xen packs them:
 * segment << 16 | bus << 8 | device << 3 | function (xen/include/xen/pci.h).
 */

/** A whole address, 32 bits, unsigned. */
export type Sbdf = number;

export function sbdf(segment: number, bus: number, device: number, fn: number): Sbdf {
  return segment * 0x1_0000 + ((bus << 8) | (device << 3) | fn);
}

export function segmentOf(s: Sbdf): number {
  return s >>> 16;
}

export function busOf(s: Sbdf): number {
  return (s >>> 8) & 0xff;
}

export function deviceOf(s: Sbdf): number {
  return (s >>> 3) & 0x1f;
}

export function functionOf(s: Sbdf): number {
  return s & 7;
}

export function devfnOf(s: Sbdf): number {
  return s & 0xff;
}

/** The requester id: bus, device and function in 16 bits. */
export function ridOf(s: Sbdf): number {
  return s & 0xffff;
}

/** `dddd:bb:ss.f` */
export function formatSbdf(s: Sbdf): string {
  return `${hex(segmentOf(s), 4)}:${hex(busOf(s), 2)}:${hex(deviceOf(s), 2)}.${functionOf(s)}`;
}

/** Parses `[dddd:]bb:ss.f` (hexadecimal); undefined when it is none. */
export function parseSbdf(text: string): Sbdf | undefined {
  const m = /^(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])$/i.exec(text);
  if (m === null) return undefined;
  const device = Number.parseInt(m[3]!, 16);
  if (device > 0x1f) return undefined;
  return sbdf(Number.parseInt(m[1] ?? '0', 16), Number.parseInt(m[2]!, 16), device, Number(m[4]));
}

function hex(n: number, digits: number): string {
  return n.toString(16).padStart(digits, '0');
}
