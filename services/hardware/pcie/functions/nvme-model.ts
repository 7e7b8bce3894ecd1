/**
 * The NVMe controller that a board puts behind a function: its BAR, its namespaces and its names.
 * Not modelled: secondary controllers; behind a virtual function of an NVMe controller there is nothing.
 */
import { NVME_DOORBELLS } from '#shared/arch/nvme.ts';
import { PCI } from '#shared/arch/pci/header.ts';
import type { BoardFunction, NvmeOptions } from '#shared/board/description.ts';
import type { MediaPort } from '../../bus/media.ts';
import type { Scheduler } from '../../bus/transaction.ts';
import { type BarShape, type MsixShape, registerBarOf } from '../bar.ts';
import type { DeviceHost } from './function.ts';
import { Nvme } from './nvme.ts';

/** What a function without MSI-X may use: as many messages as MSI can have. */
const MSI_VECTORS = 32;
/** A namespace for a board that says nothing. */
const DEFAULTS: NvmeOptions = { namespaces: [{ sizeBytes: 2 ** 30, blockBytes: 512 }], queues: 64 };
const MODEL_NUMBER = 'Culvert NVMe controller';

/** Bytes that the registers and doorbells of a function's controller take at the start of their BAR. */
export function nvmeRegisterBytes(fn: BoardFunction): number {
  return NVME_DOORBELLS + 8 * ((fn.nvme ?? DEFAULTS).queues + 1);
}

/**
 * Makes the controller of one board function: the first call's. Undefined when no memory BAR has room for the registers,
 * and for virtual functions, which come after the physical one.
 */
export function nvmeMaker(
  fn: BoardFunction,
  scheduler: Scheduler,
  media: MediaPort,
): (host: DeviceHost, bars: readonly BarShape[], msix: MsixShape | undefined) => Nvme | undefined {
  const { namespaces, queues, serial } = fn.nvme ?? DEFAULTS;
  let made = 0;
  return (host, bars, msix) => {
    const bar = registerBarOf(bars, msix, nvmeRegisterBytes(fn));
    if (made++ > 0 || bar === undefined) return undefined;
    return new Nvme(host, scheduler, {
      bar: bar.index,
      namespaces,
      media,
      queues,
      vectors: msix?.vectors ?? MSI_VECTORS,
      identity: {
        vendorId: word(fn.config, PCI.VENDOR_ID),
        subsystemVendorId: word(fn.config, PCI.SUBSYSTEM_VENDOR_ID),
        serial: serial ?? `CV${fn.sbdf.toString(16).padStart(8, '0')}`,
        modelNumber: MODEL_NUMBER,
        unique: fn.sbdf & 0xff_ffff,
      },
    });
  };
}

function word(config: Uint8Array, at: number): number {
  return (config[at] ?? 0) | ((config[at + 1] ?? 0) << 8);
}
