/** The NICs that a board puts behind a function and its virtual functions: BAR, addresses, wire. */
import { NIC_BYTES } from '#shared/arch/nic.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import type { Scheduler } from '../../bus/transaction.ts';
import { type BarShape, type MsixShape, registerBarOf } from '../bar.ts';
import type { DeviceHost } from './function.ts';
import { Nic } from './nic.ts';
import type { NicWires } from './nic-wire.ts';

const DEFAULTS = { wire: 'wire0', queues: 4 };
/** A locally administered address: this byte, segment, bus and function as three, and two for the VF. */
const MAC_FIRST_BYTE = 0x02 * 2 ** 40;

/** The permanent address of `fn` when its board gives none. */
function defaultMac(sbdf: number): number {
  return MAC_FIRST_BYTE + (sbdf % 2 ** 24) * 0x1_0000;
}

/**
 * Makes the NICs of one board function: the first is the physical function's, the n-th after it VF n's. Undefined when
 * no memory BAR has room for the registers.
 */
export function nicMaker(
  fn: BoardFunction,
  scheduler: Scheduler,
  wires: NicWires,
): (host: DeviceHost, bars: readonly BarShape[], msix: MsixShape | undefined) => Nic | undefined {
  const { wire, queues } = fn.nic ?? DEFAULTS;
  const mac = fn.nic?.mac ?? defaultMac(fn.sbdf);
  let made = 0;
  return (host, bars, msix) => {
    const vf = made++;
    const bar = registerBarOf(bars, msix, NIC_BYTES);
    if (bar === undefined) return undefined;
    return new Nic(host, scheduler, { bar: bar.index, mac: mac + vf, queues, vf, wire: wires.named(wire) });
  };
}
