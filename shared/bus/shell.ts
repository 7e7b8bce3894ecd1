/**
 * Runs a core on NATS: the only place where wall time and sockets meet a core. It decodes, calls the core and carries
 * out the effects. The simulated world (shared/sim/world.ts) does the same with a queue, a seed and a clock that jumps.
 */
import { performance } from 'node:perf_hooks';
import type { Envelope } from '#gen/bus.ts';
import type { Body, Core, Effect, Nanos, Peer } from '../core/core.ts';
import { decodeEnvelope, encodeEnvelope } from './codec.ts';
import { Bus, type BusMessage } from './nats.ts';
import { INTERFACE_OF, parseSubject, subjectOf, subjectsTo } from './subjects.ts';

/** A peer that lives in the same process and is reached without the bus. */
export type LocalPeer = (message: Body) => Promise<Body>;

export interface ShellOptions {
  readonly url: string;
  readonly creds: string;
  /** How long to wait for the broker at the start. */
  readonly waitMs: number;
  readonly locals?: { readonly [peer: string]: LocalPeer };
  /** Messages and their effects, for `CULVERT_TRACE`. */
  onTrace?(event: string, detail: unknown): void;
  /** The core stopped on an assertion, or the credential was withdrawn: the process should end. */
  onFatal(error: Error): void;
  onStatus?(event: 'refused' | 'disconnect' | 'reconnect', detail: string): void;
}

/**
 * The first id of a process that starts now: higher than any that an earlier process of that name can have used, if that
 * used less than 4096 in each millisecond of its life. Below 2^53 until 2039.
 */
export function idBaseNow(): number {
  return Date.now() * 2 ** 12;
}

export class Shell {
  readonly #self: Peer;
  readonly #core: Core;
  readonly #options: ShellOptions;
  #bus: Bus | undefined;
  #wakeAt: Nanos = Infinity;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #stopped = false;

  constructor(self: Peer, core: Core, options: ShellOptions) {
    this.#self = self;
    this.#core = core;
    this.#options = options;
  }

  /** Connects, subscribes and starts the core. Throws BusUnavailable. */
  async start(): Promise<void> {
    const bus = await Bus.connect({
      url: this.#options.url,
      creds: this.#options.creds,
      name: this.#self,
      waitMs: this.#options.waitMs,
      onStatus: (event, detail) => this.#options.onStatus?.(event, detail),
    });
    this.#bus = bus;
    bus.subscribe(subjectsTo(this.#self), (message) => this.#onMessage(message));
    await bus.flush();
    bus.closed().then(
      (error) => {
        if (!this.#stopped) this.#options.onFatal(error ?? new Error('the connection to the broker ended'));
      },
      (error) => this.#options.onFatal(error as Error),
    );
    this.#run(() => this.#core.start(now()));
  }

  /** Something from outside the bus for the core, as if `from` had sent it. */
  deliver(from: Peer, envelope: Envelope): void {
    this.#run(() => this.#core.receive(now(), from, envelope));
  }

  /** A step of the core that nothing on the bus asked for; its effects are carried out. */
  enter(step: (now: Nanos) => readonly Effect[]): void {
    this.#run(() => step(now()));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    await this.#bus?.flush().catch(() => undefined);
    await this.#bus?.close();
  }

  #onMessage(message: BusMessage): void {
    if (this.#stopped) return;
    const parsed = parseSubject(message.subject);
    if (parsed === undefined) return;
    let envelope: Envelope;
    try {
      envelope = decodeEnvelope(message.data);
    } catch (error) {
      this.#options.onTrace?.('bus.malformed', { from: parsed.from, error: String(error) });
      return;
    }
    // What is in the envelope has to belong to the subject that the broker let it through on.
    const isReply = envelope.inReplyTo !== 0;
    const iface = isReply ? 'reply' : envelope.body === undefined ? 'none' : INTERFACE_OF[envelope.body.$case];
    if (iface !== parsed.iface) {
      this.#options.onTrace?.('bus.wrong_interface', { subject: message.subject, body: envelope.body?.$case });
      return;
    }
    this.#run(() => this.#core.receive(now(), parsed.from, envelope));
  }

  #run(step: () => readonly Effect[]): void {
    if (this.#stopped) return;
    try {
      for (const effect of step()) this.#perform(effect);
    } catch (error) {
      this.#stopped = true;
      this.#options.onFatal(error as Error);
    }
  }

  #perform(effect: Effect): void {
    switch (effect.do) {
      case 'send':
        this.#send(effect.to, effect.envelope);
        return;
      case 'wake':
        this.#wakeBy(effect.at);
        return;
      case 'trace':
        this.#options.onTrace?.(effect.event, effect.detail);
        return;
      default:
        effect satisfies never;
    }
  }

  #send(to: Peer, envelope: Envelope): void {
    const local = this.#options.locals?.[to];
    if (local !== undefined) {
      if (envelope.body !== undefined && envelope.inReplyTo === 0)
        this.#askLocal(to, local, envelope.id, envelope.body);
      return;
    }
    const iface = envelope.inReplyTo !== 0 || envelope.body === undefined ? 'reply' : INTERFACE_OF[envelope.body.$case];
    this.#bus?.publish(subjectOf(to, iface, this.#self), encodeEnvelope(envelope));
  }

  #askLocal(peer: Peer, local: LocalPeer, id: number, message: Body): void {
    local(message).then(
      (answer) => this.deliver(peer, { id: 1, inReplyTo: id, oldestPending: 0, refused: '', body: answer }),
      (error: unknown) => {
        const refused = error instanceof Error ? error.message : String(error);
        this.deliver(peer, { id: 1, inReplyTo: id, oldestPending: 0, refused, body: undefined });
      },
    );
  }

  #wakeBy(at: Nanos): void {
    if (at >= this.#wakeAt) return;
    this.#wakeAt = at;
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    const wake = (): void => {
      this.#wakeAt = Infinity;
      this.#run(() => this.#core.wake(Math.max(now(), at)));
    };
    const waitMs = (at - now()) / 1e6;
    if (waitMs < 0.5) this.#immediate = setImmediate(wake);
    else this.#timer = setTimeout(wake, Math.ceil(waitMs));
  }
}

function now(): Nanos {
  return Math.round(performance.now() * 1e6);
}
