/** Writes the device trees of the boards that are ours: `node tools/boards/make.ts`. The same bytes every time. */
import { writeFileSync } from 'node:fs';
import { buildFdt } from '#shared/fdt/blob.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { numa4its } from './numa-4its.ts';
import { thunderx2015 } from './thunderx-2015.ts';
import { virtGicv2 } from './virt-gicv2.ts';

/** By the name of the file in examples/boards. */
export const BOARDS: Readonly<Record<string, () => FdtNode>> = {
  'thunderx-2015': thunderx2015,
  'numa-4its': numa4its,
  'virt-gicv2': virtGicv2,
};

if (import.meta.main) {
  for (const [name, make] of Object.entries(BOARDS)) {
    const file = new URL(`../../examples/boards/${name}.dtb`, import.meta.url);
    const bytes = buildFdt(make());
    writeFileSync(file, bytes);
    process.stdout.write(`examples/boards/${name}.dtb: ${bytes.length} bytes\n`);
  }
}
