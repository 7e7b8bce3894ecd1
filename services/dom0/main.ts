import type { KeyRing } from '#shared/bus/credentials.ts';
import { serve } from '#shared/bus/serve.ts';
import { fileSetting } from '#shared/config.ts';
import { createDom0Core } from './core.ts';
import { KeyKeeper } from './keys.ts';

await serve('d0', (context, idBase) => {
  const keys = new KeyKeeper(JSON.parse(fileSetting('CULVERT_KEY_RING')) as KeyRing, context);
  return {
    core: createDom0Core({ idBase }),
    locals: { keys: (message) => keys.handle(message) },
    beforeEnd: () => keys.close(),
  };
});
