/**
 * The process around one service: settings in, the core handed to a shell, log lines, signals, health, an end that
 * says why. Every `main.ts` is a call of this.
 */
import { createServer } from 'node:http';
import pino from 'pino';
import { ConfigError, numberSetting, readSettings, type Settings } from '../config.ts';
import type { Core, Peer } from '../core/core.ts';
import { BusUnavailable } from './nats.ts';
import { idBaseNow, type LocalPeer, Shell } from './shell.ts';

/** Exit statuses of a service. */
export const EXIT = { ok: 0, failed: 1, config: 78, unavailable: 69, assertion: 70 } as const;

export type Log = pino.Logger;

export interface ServeContext {
  readonly settings: Settings;
  readonly log: Log;
  /** Tells the core something that did not come over the bus. */
  deliver: Shell['deliver'];
  /** Runs a step of the core that nothing on the bus asked for. */
  enter: Shell['enter'];
  /** Ends the process in order. */
  end(status: number): void;
}

export interface Serving {
  readonly core: Core;
  readonly locals?: { readonly [peer: string]: LocalPeer };
  /** Runs once the shell is connected. */
  afterStart?(): Promise<void>;
  /** Runs before the process ends. */
  beforeEnd?(): Promise<void>;
}

/**
 * Runs the service `self` until a signal ends it. `build` makes the core from the settings (those of the environment
 * unless they are given); what it throws ends the process.
 */
export async function serve(
  self: Peer,
  build: (context: ServeContext, idBase: number) => Serving | Promise<Serving>,
  given?: Settings,
): Promise<void> {
  const log = pino(
    { name: self, level: process.env['CULVERT_LOG'] ?? 'info' },
    pino.destination({ dest: 2, sync: true }),
  );
  let shell: Shell | undefined;
  let serving: Serving | undefined;
  let ending = false;
  const end = (status: number): void => {
    if (ending) return;
    ending = true;
    setTimeout(() => process.exit(status), 2000).unref();
    Promise.resolve(serving?.beforeEnd?.())
      .then(() => shell?.stop())
      .then(
        () => process.exit(status),
        () => process.exit(status || EXIT.failed),
      );
  };
  process.on('SIGTERM', () => end(EXIT.ok));
  process.on('SIGINT', () => end(EXIT.ok));
  try {
    const settings = given ?? readSettings();
    const context: ServeContext = {
      settings,
      log,
      deliver: (from, envelope) => shell?.deliver(from, envelope),
      enter: (step) => shell?.enter(step),
      end,
    };
    serving = await build(context, idBaseNow());
    const { core, locals } = serving;
    shell = new Shell(self, core, {
      url: settings.natsUrl,
      creds: settings.creds,
      waitMs: settings.brokerWaitMs,
      ...(locals === undefined ? {} : { locals }),
      onTrace: (event, detail) => log.debug({ event, detail }),
      onStatus: (event, detail) => (event === 'refused' ? log.error({ event, detail }) : log.info({ event, detail })),
      onFatal: (error) => {
        log.fatal({ err: error }, 'stopped');
        end(EXIT.assertion);
      },
    });
    await shell.start();
    await serving.afterStart?.();
    serveHealth(self, core, log);
    log.info('started');
  } catch (error) {
    if (error instanceof ConfigError) {
      process.stderr.write(`${self}: ${error.message}\n`);
      end(EXIT.config);
    } else if (error instanceof BusUnavailable) {
      process.stderr.write(`${self}: ${error.message}\n`);
      end(EXIT.unavailable);
    } else {
      log.fatal({ err: error }, 'did not start');
      end(EXIT.failed);
    }
  }
}

/**
 * When CULVERT_HEALTH_PORT is set, answers GET / on loopback: 200 when the core says that it does its job
 * (`ready: true` in its inspect tree), else 503 with what it lacks.
 */
function serveHealth(self: Peer, core: Core, log: Log): void {
  const port = numberSetting('CULVERT_HEALTH_PORT', 0);
  if (port === 0) return;
  createServer((_request, response) => {
    const { ready } = core.inspect() as { ready?: unknown };
    response.writeHead(ready === true ? 200 : 503).end(`${self} ${ready === true ? 'ready' : 'not ready'}\n`);
  })
    .on('error', (error) => log.error({ err: error }, 'no health port'))
    .listen(port, '127.0.0.1');
}
