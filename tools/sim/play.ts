/** Plays a scenario in the simulated world. */
import type { BoardDescription } from '#shared/board/description.ts';
import { Runtime } from '#shared/core/runtime.ts';
import type { WorldOptions } from '#shared/sim/world.ts';
import { Operator, type ScenarioResult } from '../scenario/runner.ts';
import type { Scenario } from '../scenario/schema.ts';
import { SimulatedHost } from './host.ts';

export interface SimulatedResult extends ScenarioResult {
  readonly seed: number;
  readonly traceHash: string;
  readonly messages: number;
}

/** Virtual time a scenario may take. */
const LIMIT_NS = 600e9;

export function playSimulated(
  scenario: Scenario,
  board: BoardDescription,
  options: WorldOptions,
  report: (line: string) => void,
): SimulatedResult {
  const host = new SimulatedHost(board, options);
  const runtime = new Runtime({ idBase: 0 });
  const operator = new Operator(runtime, scenario, { report, kill: (domid) => host.end(domid) });
  host.world.add('operator', runtime);
  host.world.run(() => operator.result !== undefined, LIMIT_NS);
  return {
    ...operator.result!,
    seed: options.seed,
    traceHash: host.world.traceHash,
    messages: host.world.messages,
  };
}
