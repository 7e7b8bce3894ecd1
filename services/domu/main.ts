import { serve } from '#shared/bus/serve.ts';
import { type TakenDomain, Taker } from '#shared/bus/taker.ts';
import { optionalSetting, readSettings, type Settings } from '#shared/config.ts';
import { peerOf } from '#shared/core/core.ts';
import { createDomuCore } from './core.ts';

/** Waits, as a vacant replica, until the toolstack has built a domain for it. */
function take(settings: Settings): Promise<TakenDomain> {
  return new Promise((resolve, reject) => {
    const onTaken = (domain: TakenDomain): void => {
      void taker.then((t) => t.stop()).then(() => resolve(domain), reject);
    };
    const taker = Taker.start({
      url: settings.natsUrl,
      creds: settings.creds,
      waitMs: settings.brokerWaitMs,
      capacity: 1,
      onTaken,
      onClosed: reject,
    });
    taker.catch(reject);
  });
}

const given = optionalSetting('CULVERT_DOMID');
if (given !== undefined) {
  const domid = Number(given);
  await serve(peerOf(domid), (_context, idBase) => ({ core: createDomuCore({ idBase, domid }) }));
} else {
  const settings = readSettings();
  process.once('SIGTERM', () => process.exit(0));
  const { domid, creds } = await take(settings);
  process.removeAllListeners('SIGTERM');
  await serve(peerOf(domid), (_context, idBase) => ({ core: createDomuCore({ idBase, domid }) }), {
    ...settings,
    creds,
  });
}
