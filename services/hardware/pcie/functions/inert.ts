/**
 * A function with nothing behind its BARs.
 * Not modelled: the device; its registers read as zero and drop writes, it does no DMA and raises no interrupt.
 */
import type { DeviceModel } from './function.ts';

export class Inert implements DeviceModel {
  readonly name = 'inert';

  readBar(): number {
    return 0;
  }

  writeBar(): void {}

  reset(): void {}

  inspect(): unknown {
    return {};
  }
}
