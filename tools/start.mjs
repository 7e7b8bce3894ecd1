/** `npm start`: from a fresh clone to two guests with passed-through devices. Arguments replace the example. */
import { join } from 'node:path';
import {
  environment,
  finish,
  installDependencies,
  node24,
  prepareNatsServer,
  ROOT,
  run,
  say,
  seconds,
} from './prepare.mjs';

await finish(async () => {
  await installDependencies();
  const began = performance.now();
  await prepareNatsServer();
  const given = process.argv.slice(2);
  const words = given.length > 0 ? given : ['run', join('examples', 'two-guests.yaml')];
  const main = join(ROOT, 'tools', 'culvert', 'main.ts');
  const status = await run(node24(), [main, ...words], environment());
  say(`culvert ${words.join(' ')}: ${status === 0 ? 'passed' : `failed (status ${status})`} in ${seconds(began)}`);
  return status;
});
