/** What a machine asks of its interrupt controller, whatever its version. */
import type { Saved } from '../state/saved.ts';

export interface InterruptController extends Saved {
  reset(): void;
  /** The level of a wired interrupt; an INTID that is no SPI here is ignored. */
  setSpiLine(intid: number, high: boolean): void;
  /** Whether this CPU would get an interrupt by acknowledging one now. */
  hasInterrupt(pcpu: number): boolean;
  inspect(): unknown;
}

/** What it tells the machine. */
export interface CpuHooks {
  /** A CPU has an interrupt to take. May be called again while it still has. */
  signal(pcpu: number): void;
  /** A CPU has asked for an interrupt, whether it got one or not. */
  acknowledged?(pcpu: number): void;
}

/** An edge on a wired interrupt. */
export function pulseSpi(gic: Pick<InterruptController, 'setSpiLine'>, intid: number): void {
  gic.setSpiLine(intid, true);
  gic.setSpiLine(intid, false);
}
