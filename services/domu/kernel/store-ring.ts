/**
 * The way to the store of a guest that was told `xenstore=ring` on its command line: the page and the channel that Xen
 * names in the domain's HVM parameters (Linux drivers/xen/xenbus/xenbus_probe.c, xenbus_init). Without it the guest
 * sends its packets to the daemon over the bus.
 */
import { XEN_PAGE_SIZE } from '#shared/abi/arch-arm.ts';
import { HVM_PARAM } from '#shared/abi/hvm.ts';
import type { Op } from '#shared/core/op.ts';
import type { EventChannels } from '#shared/kernel/event-channels.ts';
import { XenstoreRing } from '#shared/kernel/xenstore-ring.ts';
import type { KernelBase } from './boot.ts';

/** As long as Linux waits for a store that is late (xenbus_probe_thread has no limit; a boot that hangs says nothing). */
const CONNECT_NS = 30e9;

/** Whether a kernel command line asks for the ring. */
export function asksForStoreRing(commandLine: string): boolean {
  return commandLine.split(/\s+/).includes('xenstore=ring');
}

/** Puts the ring under the store client, and waits until it is served. Throws what XenstoreRing.connect throws. */
export function* startStoreRing(base: KernelBase, events: EventChannels): Op<XenstoreRing> {
  const { runtime, cpu, hypercalls, store } = base;
  const gfn = yield* hypercalls.hvm_get_param(HVM_PARAM.STORE_PFN);
  const port = yield* hypercalls.hvm_get_param(HVM_PARAM.STORE_EVTCHN);
  const ring = new XenstoreRing({
    cpu,
    pageIpa: gfn * XEN_PAGE_SIZE,
    notify: () => events.notify(port),
    spawn: (op) => runtime.spawn('store ring', op),
    onWatchEvent: (packet) => store.onWatchEvent(packet),
    trace: (event, detail) => runtime.trace(event, detail),
  });
  events.bind(port, () => ring.onEvent());
  yield* ring.connect(CONNECT_NS);
  store.useTransport(ring);
  return ring;
}
