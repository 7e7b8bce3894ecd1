import { serve } from '#shared/bus/serve.ts';
import { optionalSetting } from '#shared/config.ts';
import { createXenstored } from './core.ts';
import { JournalDisk } from './disk.ts';
import { StoreSockets } from './sockets.ts';

await serve('xenstored', async ({ enter, log }, idBase) => {
  const journalDir = optionalSetting('XENSTORED_JOURNAL');
  const disk = journalDir === undefined ? undefined : await JournalDisk.open(journalDir);
  const { runtime, service } = createXenstored({
    idBase,
    durable: disk !== undefined,
    dom0: optionalSetting('XENSTORED_WITHOUT_DOM0') !== '1',
  });
  const locals = disk === undefined ? {} : { disk: disk.handle.bind(disk) };
  const rundir = optionalSetting('XENSTORED_RUNDIR');
  const end = async (): Promise<void> => disk?.close();
  if (rundir === undefined) return { core: runtime, locals, beforeEnd: end };
  const sockets = new StoreSockets({
    rundir,
    guests: optionalSetting('XENSTORED_GUEST_SOCKETS') === '1',
    service,
    enter: (run) => enter((now) => runtime.enter(now, run)),
    onProblem: (error) => log.error({ err: error }, 'socket'),
  });
  const recovered = (): Promise<void> =>
    new Promise((done) => {
      enter((now) => runtime.enter(now, () => runtime.spawn('ready', service.ready(), done)));
    });
  return {
    core: runtime,
    locals,
    afterStart: () => recovered().then(() => sockets.open()),
    beforeEnd: () => sockets.close().then(end),
  };
});
