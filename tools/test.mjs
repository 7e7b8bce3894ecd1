/** `npm test`: prepares as `npm start` does, then runs the tests. Arguments go to vitest. */
import { join } from 'node:path';
import { environment, finish, installDependencies, node24, prepareNatsServer, ROOT, run } from './prepare.mjs';

await finish(async () => {
  await installDependencies();
  await prepareNatsServer();
  const given = process.argv.slice(2);
  const settings = environment();
  // With cached code the coverage of functions is less exact.
  if (given.some((word) => word.startsWith('--coverage'))) settings.NODE_COMPILE_CACHE = '';
  return run(node24(), [join(ROOT, 'node_modules', 'vitest', 'vitest.mjs'), 'run', ...given], settings);
});
