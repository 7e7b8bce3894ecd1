import { serve } from '#shared/bus/serve.ts';
import { createXenstoredCore } from './core.ts';

await serve('xenstored', (_context, idBase) => ({ core: createXenstoredCore({ idBase }) }));
