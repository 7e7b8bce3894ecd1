import { readBoard } from '#shared/board/board-file.ts';
import { serve } from '#shared/bus/serve.ts';
import { setting } from '#shared/config.ts';
import { createHardwareCore } from './core.ts';

await serve('hardware', (_context, idBase) => ({
  core: createHardwareCore(readBoard(setting('CULVERT_BOARD')), { idBase }),
}));
