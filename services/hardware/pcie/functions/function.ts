/** What stands behind the BARs of a function, and what the function gives it to live on. */
import type { Address64 } from '#shared/ids/address64.ts';
import type { DmaPort } from '../../bus/transaction.ts';
import type { ResetKind } from '../reset.ts';

/** A device model. It sees its own registers and nothing of configuration space, BAR addresses or other functions. */
export interface DeviceModel {
  readonly name: string;
  /** Aligned 1, 2 or 4 bytes at an offset in BAR `bar`, outside the MSI-X structures. */
  readBar(bar: number, offset: number, size: number): number;
  writeBar(bar: number, offset: number, size: number, value: number): void;
  /** Everything it had under way is gone: nothing started before may have an effect afterwards. */
  reset(kind: ResetKind): void;
  inspect(): unknown;
  /** What it would lose with the process (../../state/saved.ts); a model without state has neither. */
  save?(): unknown;
  load?(state: unknown): void;
}

/** What a model may do outside its registers. Bus Master Enable of every bridge on the way gates it all. */
export interface DeviceHost {
  readonly dma: DmaPort;
  /** Interrupt messages that left the function since its reset. */
  readonly messagesSent: number;
  /** MSI-X or MSI is enabled: `raise` is heard. While false, only `setIntx` is. */
  readonly messageSignalled: boolean;
  /** Raises an interrupt vector: MSI-X when it is enabled, else MSI when that is, else nothing happens. */
  raise(vector: number): void;
  /** The level of the function's pin as the device wants it; a function without a pin has none. */
  setIntx(asserted: boolean): void;
  /** Called within `readBar`: the read ends with a completer abort, or without any completion. */
  refuseRead(how: 'abort' | 'timeout'): void;
  /** Shows in DEVSTA.Transactions Pending, by which software knows when a reset is safe. */
  setTransactionsPending(pending: boolean): void;
}

/** What only a device that breaks the rules does. None of it passes Bus Master Enable or a reset of its own function. */
export interface RogueHost {
  /** The requester id that its requests should carry. */
  readonly rid: number;
  /** A memory request with any requester id and address type, whatever the function's own state. Returns bytes done. */
  rogueRequest(rid: number, addressType: number, address: Address64, data: Uint8Array, write: boolean): number;
  /** Changes bytes of its own configuration space, read-only ones too. */
  rogueConfig(offset: number, sizeBytes: number, value: number): void;
}
