/**
 * A check of an NVMe controller from inside a guest: writes a pattern to its blocks, reads it back, compares; or one half
 * of it, so that another guest may do the other. What was written is flushed at the end.
 */
import { dmaProbeFill, dmaProbeMismatches } from '#shared/arch/dma-probe.ts';
import { NVME_IO } from '#shared/arch/nvme.ts';
import { Indefinite, type Op, TimedOut } from '#shared/core/op.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';
import type { CpuBus } from '#shared/kernel/cpu-bus.ts';
import type { Pages } from '../kernel/pages.ts';
import { DriverError } from './driver.ts';
import type { NvmeCommand, NvmeCompletion, NvmeDevice } from './nvme.ts';

const PAGE = 4096;
/** Data of one command, and of one group of commands. */
const COMMAND_BYTES = 32 * PAGE;
const GROUP_BYTES = 8 * COMMAND_BYTES;
/** Each command has its PRP list in a part of one page. */
const LIST_BYTES = PAGE / 8;

export interface NvmeCheckOptions {
  readonly lba: number;
  readonly bytes: number;
  readonly seed: number;
  /** Both when absent. */
  readonly only?: 'write' | 'read' | undefined;
}

/**
 * Writes `bytes` of the pattern of `seed` from block `lba` on, reads them back and compares. Buffers are taken from
 * `pages` and given back. Throws DriverError when a command fails.
 */
export function* nvmeCheck(
  device: NvmeDevice,
  cpu: CpuBus,
  pages: Pages,
  { lba, bytes, seed, only }: NvmeCheckOptions,
): Op<unknown> {
  const bufferBytes = Math.min(GROUP_BYTES, Math.ceil(bytes / PAGE) * PAGE);
  const buffer = pages.take(bufferBytes);
  const lists = pages.take(PAGE);
  const before = device.interrupts;
  let mismatches = 0;
  let busy = false;
  try {
    yield* cpu.write(lists, listsFor(buffer));
    for (let done = 0; done < bytes; done += GROUP_BYTES) {
      const part = Math.min(GROUP_BYTES, bytes - done);
      const at = lba + done / device.blockBytes;
      if (only !== 'read') {
        const words = new Int32Array(part / 4);
        dmaProbeFill(words, seed, done / 4);
        yield* cpu.write(buffer, new Uint8Array(words.buffer));
        yield* transfer(device, NVME_IO.WRITE, at, part, buffer, lists);
      }
      if (only === 'write') continue;
      yield* cpu.write(buffer, new Uint8Array(part));
      yield* transfer(device, NVME_IO.READ, at, part, buffer, lists);
      // A copy of its own, aligned; a slice of what the bus gives may be a view.
      const back = new Uint8Array(yield* cpu.read(buffer, part));
      mismatches += dmaProbeMismatches(new Int32Array(back.buffer), seed, done / 4);
    }
    if (only !== 'read') throwFailed(device, yield* device.flush());
  } catch (error) {
    busy = error instanceof TimedOut || error instanceof Indefinite;
    throw error;
  } finally {
    // A controller that is still at it may write there at any time: then the memory stays taken.
    if (!busy) {
      pages.free(lists, PAGE);
      pages.free(buffer, bufferBytes);
    }
  }
  return {
    sbdf: formatSbdf(device.sbdf),
    modelNumber: device.modelNumber,
    blocks: device.blocks,
    blockBytes: device.blockBytes,
    lba,
    bytesWritten: only === 'read' ? 0 : bytes,
    bytesRead: only === 'write' ? 0 : bytes,
    mismatches,
    interrupts: device.interrupts - before,
  };
}

function* transfer(
  device: NvmeDevice,
  opcode: number,
  lba: number,
  bytes: number,
  buffer: number,
  lists: number,
): Op<void> {
  const commands: NvmeCommand[] = [];
  for (let done = 0; done < bytes; done += COMMAND_BYTES) {
    const part = Math.min(COMMAND_BYTES, bytes - done);
    const first = lba + done / device.blockBytes;
    const list = part > 2 * PAGE ? lists + (done / COMMAND_BYTES) * LIST_BYTES : buffer + done + PAGE;
    commands.push({
      opcode,
      nsid: 1,
      prp1: buffer + done,
      prp2: part > PAGE ? list : 0,
      cdw10: first >>> 0,
      cdw11: Math.floor(first / 2 ** 32),
      cdw12: part / device.blockBytes - 1,
    });
  }
  throwFailed(device, yield* device.io(commands));
}

function throwFailed(device: NvmeDevice, completions: readonly NvmeCompletion[]): void {
  for (const { status } of completions) {
    if (status !== 0)
      throw new DriverError(`${formatSbdf(device.sbdf)}: a command ended with 0x${status.toString(16)}`);
  }
}

/** The lists of all commands of a group: the pages of each command but its first. */
function listsFor(buffer: number): Uint8Array {
  const page = new Uint8Array(PAGE);
  const view = new DataView(page.buffer);
  for (let command = 0; command < GROUP_BYTES / COMMAND_BYTES; command++)
    for (let i = 1; i < COMMAND_BYTES / PAGE; i++) {
      const address = buffer + command * COMMAND_BYTES + i * PAGE;
      view.setUint32(command * LIST_BYTES + (i - 1) * 8, address >>> 0, true);
      view.setUint32(command * LIST_BYTES + (i - 1) * 8 + 4, Math.floor(address / 2 ** 32), true);
    }
  return page;
}
