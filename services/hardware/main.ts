import { readBoard } from '#shared/board/board-file.ts';
import { mediaOf } from '#shared/board/description.ts';
import { serve } from '#shared/bus/serve.ts';
import { setting } from '#shared/config.ts';
import { createHardwareCore } from './core.ts';
import { MediaFiles } from './media-files.ts';

await serve('hardware', async ({ log }, idBase) => {
  const board = readBoard(setting('CULVERT_BOARD'));
  const core = createHardwareCore(board, { idBase });
  const files = await MediaFiles.open(
    mediaOf(board).map(({ medium }) => medium),
    (file, error) => log.error({ file, err: error }, 'a disk of the machine did not take what was written'),
  );
  return { core, locals: { media: files.handle.bind(files) }, beforeEnd: () => files.close() };
});
