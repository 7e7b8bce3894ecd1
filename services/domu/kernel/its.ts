/**
 * The guest's ITS: shared/kernel/its-driver.ts on the guest's CPU bus, and its one collection. Register accesses
 * fault in stage 2 and go to Xen's virtual ITS; tables and queue are the guest's own memory.
 * Not modelled: more than one collection; every LPI of a guest goes to virtual CPU 0.
 */
import { encodeMapc, encodeSync } from '#shared/arch/gic/its-commands.ts';
import type { Op } from '#shared/core/op.ts';
import { type CpuBus, readOp, writeOp } from '#shared/kernel/cpu-bus.ts';
import { type BusAccess, ItsDriver } from '#shared/kernel/its-driver.ts';
import type { GuestGic } from './gic.ts';
import type { Pages } from './pages.ts';

/** The collection of virtual CPU 0. */
export const ICID_CPU0 = 0;
/** Room for 32 buses: pciback puts functions on bus 0. */
const DEVICE_ID_BITS = 13;

/** The ITS at `base`, started, with collection 0 mapped to this CPU's redistributor. Throws ItsError. */
export function* startIts(cpu: CpuBus, pages: Pages, gic: GuestGic, base: number): Op<ItsDriver> {
  const its = new ItsDriver({
    name: `its@${base.toString(16)}`,
    base,
    deviceIdBitsMax: DEVICE_ID_BITS,
    allocate: (sizeBytes, alignBytes) => pages.allocate(sizeBytes, alignBytes),
    io: {
      run: (accesses: readonly BusAccess[]) =>
        cpu.batch(
          accesses.map((a) => (a.kind === 'read' ? readOp(a.address, a.sizeBytes) : writeOp(a.address, a.data))),
        ),
    },
  });
  yield* its.start();
  const rdbase = rdbaseOf(its, gic);
  yield* its.submit([encodeMapc({ icid: ICID_CPU0, rdbase, valid: true }), encodeSync({ rdbase })]);
  return its;
}

/** RDbase of this CPU's redistributor, for SYNC. */
export function rdbaseOf(its: ItsDriver, gic: GuestGic): number {
  const { frame, processorNumber } = gic.redistributor;
  return its.rdbase(processorNumber, frame);
}
