/**
 * All of a board's PCI: one host bridge for each node of the device tree, and below them the functions where the board
 * places them. Board bus numbers only say what hangs below which bridge; on the machine they are what software writes.
 */
import { DMA_PROBE_BYTES } from '#shared/arch/dma-probe.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { assert } from '#shared/core/assert.ts';
import { busOf, segmentOf } from '#shared/ids/sbdf.ts';
import { type Board, type BoardBridge, isBridge, secondaryBusOf } from '../board.ts';
import type { MediaPort } from '../bus/media.ts';
import type { DmaTranslator, Scheduler } from '../bus/transaction.ts';
import type { Saved } from '../state/saved.ts';
import { registerBarOf } from './bar.ts';
import { Bridge } from './bridge.ts';
import { functionParts } from './function-parts.ts';
import { DmaProbe } from './functions/dma-probe.ts';
import { Inert } from './functions/inert.ts';
import { nicMaker } from './functions/nic-model.ts';
import { NicWires } from './functions/nic-wire.ts';
import { nvmeMaker } from './functions/nvme-model.ts';
import { HostBridge } from './host-bridge.ts';
import { type IntxSink, WiredOr } from './intx.ts';
import type { PciBus } from './pci-bus.ts';
import { type ModelFactory, PciFunction } from './pci-function.ts';
import { Route } from './route.ts';
import { PhysicalFunction } from './sriov.ts';

export class PcieFabric implements Saved {
  readonly bridges: readonly HostBridge[];
  readonly route = new Route();
  readonly #functions = new Map<number, PciFunction>();
  readonly #wires = new NicWires();
  readonly #media: MediaPort;
  /** SPIs, ORed over all bridges. */
  readonly #spis: WiredOr;

  /**
   * `translatorFor` gives the SMMU in front of a bridge; `intx` takes the levels of the SPIs that pins lead to; without
   * `media` no medium takes anything.
   */
  constructor(
    board: Board,
    translatorFor: (bridge: BoardBridge) => DmaTranslator,
    scheduler: Scheduler,
    intx: IntxSink = { set: () => {} },
    media: MediaPort = { write: (_medium, _pieces, _sync, done) => scheduler.after(0, () => done(false)) },
  ) {
    this.#media = media;
    this.#spis = new WiredOr((spi, level) => intx.set(spi, level));
    this.bridges = board.bridges.map((bridge) => {
      const sink = { set: (spi: number, level: boolean): void => this.#spis.change(spi, level) };
      const host = new HostBridge(bridge, translatorFor(bridge), this.route, scheduler, sink);
      const mine = new Map<number, BoardFunction[]>();
      for (const fn of board.functions) {
        const bus = busOf(fn.sbdf);
        if (segmentOf(fn.sbdf) !== bridge.segment || bus < bridge.busRange.first || bus > bridge.busRange.last)
          continue;
        const there = mine.get(bus);
        if (there === undefined) mine.set(bus, [fn]);
        else there.push(fn);
      }
      this.#populate(host.root, bridge.busRange.first, mine, scheduler);
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
    for (const bridge of this.bridges) {
      bridge.pem?.reset();
      bridge.root.reset('power-on');
    }
  }

  /** SPIs that a pin holds high now. */
  get highSpis(): readonly number[] {
    return this.#spis.high();
  }

  save(): unknown {
    return { route: this.route.save(), spis: this.#spis.save(), bridges: this.bridges.map((bridge) => bridge.save()) };
  }

  load(state: unknown): void {
    const { route, spis, bridges } = state as { route: unknown; spis: unknown; bridges: readonly unknown[] };
    this.route.load(route);
    this.#spis.load(spis);
    this.bridges.forEach((bridge, i) => {
      bridge.load(bridges[i]);
    });
  }

  inspect(): unknown {
    return {
      ...this.route.inspect(),
      highSpis: this.highSpis,
      bridges: this.bridges.map((bridge) => bridge.inspect()),
    };
  }

  #populate(
    bus: PciBus,
    number: number,
    functions: ReadonlyMap<number, readonly BoardFunction[]>,
    scheduler: Scheduler,
  ): void {
    for (const fn of functions.get(number) ?? []) {
      if (isBridge(fn)) {
        const bridge = new Bridge(fn, bus);
        bus.add(bridge, true);
        this.#functions.set(fn.sbdf, bridge);
        const below = secondaryBusOf(fn);
        if (below !== 0) this.#populate(bridge.below, below, functions, scheduler);
      } else {
        const endpoint = endpointOf(fn, bus, scheduler, this.#wires, this.#media);
        bus.add(endpoint);
        this.#functions.set(fn.sbdf, endpoint);
      }
    }
  }
}

function endpointOf(
  fn: BoardFunction,
  bus: PciBus,
  scheduler: Scheduler,
  wires: NicWires,
  media: MediaPort,
): PciFunction {
  const parts = functionParts(fn);
  const nic = nicMaker(fn, scheduler, wires);
  const nvme = nvmeMaker(fn, scheduler, media);
  const model: ModelFactory = (host, bars, msix) => {
    if (fn.model === 'inert') return new Inert();
    if (fn.model === 'nvme') return nvme(host, bars, msix) ?? new Inert();
    if (fn.model === 'nic') return nic(host, bars, msix) ?? new Inert();
    const bar = registerBarOf(bars, msix, DMA_PROBE_BYTES);
    // A VF whose PF has no such VF BAR has nothing behind it.
    if (bar === undefined) return new Inert();
    return new DmaProbe(bar.index, host, scheduler);
  };
  return parts.fields.sriov >= 0 ? new PhysicalFunction(fn, bus, model, parts) : new PciFunction(fn, bus, model, parts);
}
