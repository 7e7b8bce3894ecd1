/** An NVMe controller on a rig, with a driver. */
import { Nvme } from '../../../../../services/hardware/pcie/functions/nvme.ts';
import type { NamespaceShape } from '../../../../../services/hardware/pcie/functions/nvme-namespace-shape.ts';
import { DeviceRig } from '../../../../support/device-rig.ts';
import { MediumPort } from '../../../../support/medium-port.ts';
import { NvmeDriver, type QueuePair } from '../../../../support/nvme-driver.ts';

const BAR = 0;

export interface NvmeRigOptions {
  readonly namespaces?: readonly NamespaceShape[];
  readonly queues?: number;
  readonly vectors?: number;
  /** On a rig of its own when absent. */
  readonly rig?: DeviceRig;
  /** Without media when absent. */
  readonly media?: MediumPort;
}

export interface NvmeRig {
  readonly rig: DeviceRig;
  readonly nvme: Nvme;
  readonly driver: NvmeDriver;
  readonly media: MediumPort;
}

export function nvmeRig({
  namespaces = [{ sizeBytes: 1 << 24, blockBytes: 512 }],
  queues = 8,
  vectors = 9,
  rig = new DeviceRig(),
  media = new MediumPort(rig.scheduler),
}: NvmeRigOptions = {}): NvmeRig {
  const nvme = new Nvme(rig, rig.scheduler, {
    bar: BAR,
    namespaces,
    queues,
    vectors,
    media,
    identity: { vendorId: 0x1b36, subsystemVendorId: 0x1af4, serial: 'CV0001', modelNumber: 'Model', unique: 0x200 },
  });
  nvme.reset();
  const driver = new NvmeDriver({
    read: (offset) => nvme.readBar(BAR, offset, 4),
    write: (offset, value) => nvme.writeBar(BAR, offset, 4, value),
    memory: rig.memory,
    pass: (ns) => rig.pass(ns),
  });
  return { rig, nvme, driver, media };
}

/** Enabled, with I/O queue pair 1 at 0x20000 on vector 1. */
export function nvmeReady(options?: NvmeRigOptions, entries = 16): NvmeRig & { readonly io: QueuePair } {
  const parts = nvmeRig(options);
  parts.driver.enable();
  return { ...parts, io: parts.driver.createPair(1, 0x2_0000, entries, 1) };
}
