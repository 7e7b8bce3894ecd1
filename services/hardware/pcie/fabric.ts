/**
 * All of a board's PCI: one host bridge for each node of the device tree, and below them the functions where the board
 * places them. Board bus numbers only say what hangs below which bridge; on the machine they are what software writes.
 */
import { DMA_PROBE_BYTES } from '#shared/arch/dma-probe.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { assert } from '#shared/core/assert.ts';
import { busOf, segmentOf } from '#shared/ids/sbdf.ts';
import { type Board, type BoardBridge, isBridge, secondaryBusOf } from '../board.ts';
import type { DmaTranslator, Scheduler } from '../bus/transaction.ts';
import { registerBarOf } from './bar.ts';
import { Bridge } from './bridge.ts';
import { DmaProbe } from './functions/dma-probe.ts';
import { Inert } from './functions/inert.ts';
import { HostBridge } from './host-bridge.ts';
import type { PciBus } from './pci-bus.ts';
import { PciFunction, type UpstreamPort } from './pci-function.ts';

export class PcieFabric {
  readonly bridges: readonly HostBridge[];
  readonly #functions = new Map<number, PciFunction>();

  /** `translatorFor` gives the SMMU in front of a bridge. */
  constructor(board: Board, translatorFor: (bridge: BoardBridge) => DmaTranslator, scheduler: Scheduler) {
    this.bridges = board.bridges.map((bridge) => {
      const host = new HostBridge(bridge, translatorFor(bridge));
      const mine = board.functions.filter(
        (fn) =>
          segmentOf(fn.sbdf) === bridge.segment &&
          busOf(fn.sbdf) >= bridge.busRange.first &&
          busOf(fn.sbdf) <= bridge.busRange.last,
      );
      this.#populate(host.root, host, bridge.busRange.first, mine, scheduler);
      return host;
    });
    assert(this.#functions.size === board.functions.length, 'a function of the board hangs below no bridge');
  }

  /** The function that the board places at `boardSbdf`, whatever bus number it has now. */
  functionAt(boardSbdf: number): PciFunction | undefined {
    return this.#functions.get(boardSbdf);
  }

  /** Power goes off and on: everything is as after the construction. */
  reset(): void {
    for (const bridge of this.bridges) bridge.root.reset('power-on');
  }

  inspect(): unknown {
    return { bridges: this.bridges.map((bridge) => bridge.inspect()) };
  }

  #populate(
    bus: PciBus,
    upstream: UpstreamPort,
    number: number,
    functions: readonly BoardFunction[],
    scheduler: Scheduler,
  ): void {
    for (const fn of functions.filter((f) => busOf(f.sbdf) === number)) {
      if (isBridge(fn)) {
        const bridge = new Bridge(fn, upstream);
        this.#add(bus, fn, bridge);
        const below = secondaryBusOf(fn);
        if (below !== 0) this.#populate(bridge.below, bridge, below, functions, scheduler);
      } else this.#add(bus, fn, endpoint(fn, upstream, scheduler));
    }
  }

  #add(bus: PciBus, board: BoardFunction, fn: PciFunction): void {
    bus.add(fn);
    this.#functions.set(board.sbdf, fn);
  }
}

function endpoint(fn: BoardFunction, upstream: UpstreamPort, scheduler: Scheduler): PciFunction {
  return new PciFunction(fn, upstream, (host, bars, msix) => {
    if (fn.model === 'inert') return new Inert();
    const bar = registerBarOf(bars, msix, DMA_PROBE_BYTES);
    assert(bar !== undefined, 'a board was loaded with a dma-probe that has no BAR for its registers');
    return new DmaProbe(bar.index, host, scheduler);
  });
}
