/** What stands behind the BARs of a function, and what the function gives it to live on. */
import type { DmaPort } from '../../bus/transaction.ts';

/** A device model. It sees its own registers and nothing of configuration space, BAR addresses or other functions. */
export interface DeviceModel {
  readonly name: string;
  /** Aligned 1, 2 or 4 bytes at an offset in BAR `bar`, outside the MSI-X structures. */
  readBar(bar: number, offset: number, size: number): number;
  writeBar(bar: number, offset: number, size: number, value: number): void;
  /** Everything it had under way is gone: nothing started before may have an effect afterwards. */
  reset(): void;
  inspect(): unknown;
}

/** What a model may do outside its registers. Bus Master Enable of every bridge on the way gates it all. */
export interface DeviceHost {
  readonly dma: DmaPort;
  /** Interrupt messages that left the function since its reset. */
  readonly messagesSent: number;
  /** Raises an interrupt vector: MSI-X when it is enabled, else MSI when that is, else nothing happens. */
  raise(vector: number): void;
  /** Shows in DEVSTA.Transactions Pending, by which software knows when a reset is safe. */
  setTransactionsPending(pending: boolean): void;
}
