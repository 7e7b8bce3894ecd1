#!/usr/bin/env node
/** The command `culvert`, for any Node from 20: hands over to tools/culvert/main.ts on the project's Node 24. */
import { join } from 'node:path';
import { environment, finish, missingPackages, node24, PrepareError, ROOT, run } from './prepare.mjs';

await finish(() => {
  const missing = missingPackages(false);
  if (missing.length > 0)
    throw new PrepareError(`dependencies are not installed (${missing[0]} ...); run: npm ci --prefix ${ROOT}`);
  const main = join(ROOT, 'tools', 'culvert', 'main.ts');
  return run(node24(), [main, ...process.argv.slice(2)], environment(), 'inherit', process.cwd());
});
