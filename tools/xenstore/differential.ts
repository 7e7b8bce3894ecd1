/** `node tools/xenstore/differential.ts --operations N --seed S`: the store against its model (test/model), which says what it found. */
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';

const program = resolve(import.meta.dirname, '../../test/model/xenstore-differential.ts');
const { status } = spawnSync(process.execPath, [program, ...process.argv.slice(2)], { stdio: 'inherit' });
process.exitCode = status ?? 1;
