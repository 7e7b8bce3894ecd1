/** Real input that does not come with the project: tests run over it when it is there. */

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import type { FdtRegion } from '#shared/fdt/node.ts';

const BESIDE = resolve(import.meta.dirname, '../../../shared/data');

/** The folder (CULVERT_DATA, or `shared/data` beside the checkout), or undefined when there is none. */
export const data = folder();
/** For titles of tests that need it, which are skipped then. */
export const because = data === undefined ? ' (skipped: there is no folder shared/data beside the checkout)' : '';

function folder(): string | undefined {
  const given = process.env['CULVERT_DATA'];
  if (given === undefined || given === '') return existsSync(BESIDE) ? BESIDE : undefined;
  if (!existsSync(given)) throw new Error(`CULVERT_DATA is ${given}, which does not exist`);
  return given;
}

/** RAM of an AMD Overdrive, which is in no device tree of the kernel: firmware adds it. */
export const OVERDRIVE_RAM = { address: 0x80_0000_0000, sizeBytes: 0x8000_0000 };

/** A device tree with a bank of memory more, as firmware adds it. */
export function withMemory(dtb: Uint8Array, bank: FdtRegion): Uint8Array {
  const tree = parseFdt(dtb);
  tree
    .addChild(`memory@${bank.address.toString(16)}`)
    .setStrings('device_type', 'memory')
    .setReg(bank);
  return buildFdt(tree);
}
