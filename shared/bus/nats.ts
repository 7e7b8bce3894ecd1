/** The only file that knows the NATS client. */
import { connect, credsAuthenticator, type NatsConnection, NatsError } from 'nats';

export interface BusMessage {
  readonly subject: string;
  readonly data: Uint8Array;
}

export interface ConnectOptions {
  /** nats://HOST:PORT */
  readonly url: string;
  /** Text of a creds file. */
  readonly creds: string;
  readonly name: string;
  /** Give up the first connection after this long. */
  readonly waitMs: number;
  /** The server refused something that was published or subscribed, or the connection came or went. */
  onStatus(event: 'refused' | 'disconnect' | 'reconnect', detail: string): void;
}

/** A way to the broker is not there, or it does not let us in. One line that says what to do. */
export class BusUnavailable extends Error {
  override name = 'BusUnavailable';
}

export class Bus {
  readonly #nc: NatsConnection;

  private constructor(nc: NatsConnection) {
    this.#nc = nc;
  }

  /** Connects; keeps trying until `waitMs` has passed. Throws BusUnavailable. */
  static async connect(options: ConnectOptions): Promise<Bus> {
    const deadline = Date.now() + options.waitMs;
    for (;;) {
      try {
        const nc = await connect({
          servers: options.url,
          authenticator: credsAuthenticator(new TextEncoder().encode(options.creds)),
          name: options.name,
          noAsyncTraces: true,
          maxReconnectAttempts: -1,
          reconnectTimeWait: 100,
          pingInterval: 5000,
          maxPingOut: 3,
          timeout: Math.max(500, Math.min(5000, deadline - Date.now())),
        });
        if (nc.info?.auth_required !== true) {
          await nc.close();
          throw new BusUnavailable(
            `the NATS server at ${options.url} lets anybody in: start one with the configuration of "culvert keys DIR"`,
          );
        }
        const bus = new Bus(nc);
        bus.#watchStatus(options).catch(() => undefined);
        return bus;
      } catch (error) {
        if (error instanceof BusUnavailable) throw error;
        const code = error instanceof NatsError ? error.code : '';
        if (/AUTH/.test(code) || /authorization/i.test(String(error)))
          throw new BusUnavailable(
            `the NATS server at ${options.url} does not accept the credential of ${options.name}`,
          );
        if (Date.now() >= deadline)
          throw new BusUnavailable(
            `no NATS server answers at ${options.url} (waited ${options.waitMs / 1000} s): is it running, and is that its address?`,
          );
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  async #watchStatus(options: ConnectOptions): Promise<void> {
    for await (const status of this.#nc.status()) {
      if (status.type === 'error') {
        const context = 'permissionContext' in status ? JSON.stringify(status.permissionContext) : '';
        options.onStatus('refused', `${String(status.data)} ${context}`.trim());
      } else if (status.type === 'disconnect' || status.type === 'reconnect') {
        options.onStatus(status.type, String(status.data));
      }
    }
  }

  /** Calls `handler` for each message, in the order of each publisher. */
  subscribe(subject: string, handler: (message: BusMessage) => void, queue?: string): void {
    const callback = (error: unknown, message: BusMessage): void => {
      if (error === null || error === undefined) handler({ subject: message.subject, data: message.data });
    };
    this.#nc.subscribe(subject, queue === undefined ? { callback } : { callback, queue });
  }

  publish(subject: string, data: Uint8Array): void {
    this.#nc.publish(subject, data);
  }

  /** One request with the client's own reply subject; for the server's own services only. */
  async request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    return (await this.#nc.request(subject, data, { timeout: timeoutMs })).data;
  }

  /** Everything published so far has reached the server when it returns. */
  async flush(): Promise<void> {
    await this.#nc.flush();
  }

  async close(): Promise<void> {
    await this.#nc.close();
  }

  /** Resolves when the connection has ended for good. */
  async closed(): Promise<Error | undefined> {
    return (await this.#nc.closed()) ?? undefined;
  }
}
