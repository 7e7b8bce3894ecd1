/** A machine's host bridge as dom0's enumeration wants it, without Xen between them. */
import { assert } from 'vitest';
import type { BoardBridge } from '#shared/board/parts.ts';
import type { Op } from '#shared/core/op.ts';
import { busOf, devfnOf, segmentOf } from '#shared/ids/sbdf.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import type { enumerate } from '../../services/dom0/kernel/enumerate.ts';
import type { Machine } from '../../services/hardware/machine.ts';

/** The bridge as dom0 reads it from the device tree. */
export function hostOf(bridge: BoardBridge): Parameters<typeof enumerate>[1] {
  return {
    path: bridge.path,
    segment: bridge.segment,
    ecam: { address: bridge.ecam.pa, sizeBytes: bridge.ecam.sizeBytes },
    busShift: bridge.busShift,
    pem: bridge.pem?.pa,
    firstBus: bridge.busRange.first,
    lastBus: bridge.busRange.last,
    ranges: bridge.ranges,
    interruptMap: bridge.interruptMap,
    msiMap: bridge.msiMap,
  };
}

/** Configuration space below the bridge, through its ECAM. */
export function accessThrough(machine: Machine, bridge: BoardBridge): ConfigAccess {
  const at = (sbdf: number, offset: number): number => {
    assert.equal(segmentOf(sbdf), bridge.segment);
    return bridge.ecam.pa + (busOf(sbdf) - bridge.busRange.first) * 0x10_0000 + devfnOf(sbdf) * 0x1000 + offset;
  };
  return {
    read: (sbdf, offset, size) => ready(machine.bus.read(at(sbdf, offset), size) ? machine.bus.low : 0xffff_ffff),
    write: (sbdf, offset, size, value) => ready(void machine.bus.write(at(sbdf, offset), size, value)),
  };
}

/** An operation that is over at once. */
// biome-ignore lint/correctness/useYield: it has nothing to wait for
export function* ready<T>(value: T): Op<T> {
  return value;
}
