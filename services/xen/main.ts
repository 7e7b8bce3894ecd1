import { serve } from '#shared/bus/serve.ts';
import { watchDomains } from './broker.ts';
import { createXenCore } from './core.ts';

await serve('xen', (context, idBase) => ({
  core: createXenCore({ idBase }),
  afterStart: () => watchDomains(context),
}));
