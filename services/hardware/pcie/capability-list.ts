/** The capability lists of a dumped configuration space, walked with bounds: a dump may be cut off or broken. */
import { PCI_CAPS_MAX, PCI_EXT_CAP_BASE, PCI_EXT_CAPS_MAX } from '#shared/arch/pci/capability.ts';
import { PCI, PCI_STATUS } from '#shared/arch/pci/header.ts';

export interface Capability {
  readonly id: number;
  readonly offset: number;
  /** Bytes to the next capability behind it, or to the end of the space: no field of it reaches further. */
  readonly roomBytes: number;
}

/** The 16 bits at `at`; bytes beyond the end are zero. */
export function word(config: Uint8Array, at: number): number {
  return (config[at] ?? 0) | ((config[at + 1] ?? 0) << 8);
}

/** Capabilities of the conventional space in list order; none when only the header was dumped. */
export function capabilitiesOf(config: Uint8Array): Capability[] {
  if (config.length <= 64 || (word(config, PCI.STATUS) & PCI_STATUS.CAP_LIST) === 0) return [];
  const found: { id: number; offset: number }[] = [];
  let at = config[PCI.CAPABILITY_LIST]! & 0xfc;
  while (at >= 0x40 && found.length < PCI_CAPS_MAX && config[at] !== 0xff) {
    found.push({ id: config[at]!, offset: at });
    at = config[at + 1]! & 0xfc;
  }
  return withRoom(found, Math.min(config.length, PCI_EXT_CAP_BASE));
}

/** Extended capabilities in list order; none in a space of 256 bytes. */
export function extendedCapabilitiesOf(config: Uint8Array): Capability[] {
  const found: { id: number; offset: number }[] = [];
  let at: number = PCI_EXT_CAP_BASE;
  while (at >= PCI_EXT_CAP_BASE && at + 4 <= config.length && found.length < PCI_EXT_CAPS_MAX) {
    const id = word(config, at);
    const next = word(config, at + 2);
    if ((id === 0 && next === 0) || id === 0xffff) break;
    found.push({ id, offset: at });
    at = (next >>> 4) & 0xffc;
  }
  return withRoom(found, config.length);
}

function withRoom(found: readonly { id: number; offset: number }[], end: number): Capability[] {
  return found.map((c) => {
    const above = found.filter((o) => o.offset > c.offset).map((o) => o.offset);
    return { ...c, roomBytes: Math.min(end, ...above) - c.offset };
  });
}
