/**
 * Clients over Unix sockets, in the process around the core: `socket` in the run directory for dom0's tools, and, when
 * asked for, `dom<N>.sock` with the rights of each introduced domain N. Who may open a socket is a matter of the file
 * system: the directory and the sockets are the user's alone.
 * A client that does not read is no longer written to; a chunk of requests is answered in one write.
 * Not modelled: SO_PEERCRED, `socket_ro`; whoever may open a socket has all rights of its domain.
 */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { PacketReader, XsProtocolError } from '#shared/abi/xs-wire.ts';
import type { ClientPort, Connection } from './connection.ts';
import type { XenstoredService } from './core.ts';

/** Clients of one socket at once; more are not accepted. */
const CLIENTS_MAX = 1024;
/** Bytes that are handed to the socket before it has to be read. */
const HIGH_WATER_BYTES = 64 * 1024;
/** sun_path without its NUL. */
const SOCKET_PATH_MAX = 107;

export interface StoreSocketsOptions {
  readonly rundir: string;
  /** A socket for each introduced domain as well. */
  readonly guests: boolean;
  readonly service: XenstoredService;
  /** Runs a step of the core. */
  enter(run: () => void): void;
  onProblem(error: Error): void;
}

export class StoreSockets {
  readonly #options: StoreSocketsOptions;
  readonly #servers = new Map<number, Server>();
  readonly #clients = new Set<Socket>();

  constructor(options: StoreSocketsOptions) {
    this.#options = options;
  }

  /** Listens. Rejects when the directory or a socket cannot be made; one that was left behind is replaced. */
  async open(): Promise<void> {
    const { rundir, guests, service, onProblem } = this.#options;
    mkdirSync(rundir, { recursive: true, mode: 0o700 });
    await this.#listen(0, 'socket');
    if (!guests) return;
    const introduced = [...service.daemon.domains.all()].filter((domain) => domain.introduced && !domain.privileged);
    for (const { domid } of introduced) await this.#listen(domid, `dom${domid}.sock`);
    service.onDomain = (domid, there) => {
      if (there) this.#listen(domid, `dom${domid}.sock`).catch(onProblem);
      else this.#endServer(domid);
    };
  }

  async close(): Promise<void> {
    this.#options.service.onDomain = undefined;
    for (const domid of [...this.#servers.keys()]) this.#endServer(domid);
    for (const client of this.#clients) client.destroy();
  }

  async #listen(domid: number, name: string): Promise<void> {
    const path = join(this.#options.rundir, name);
    if (Buffer.byteLength(path) > SOCKET_PATH_MAX) throw new Error(`${path} is too long for a socket`);
    rmSync(path, { force: true });
    const server = createServer({ highWaterMark: HIGH_WATER_BYTES }, (socket) => this.#onClient(domid, socket));
    server.maxConnections = CLIENTS_MAX;
    this.#servers.set(domid, server);
    await new Promise<void>((done, fail) => {
      server.once('error', fail);
      server.listen(path, done);
    });
    server.on('error', this.#options.onProblem);
    chmodSync(path, 0o600);
  }

  #endServer(domid: number): void {
    this.#servers.get(domid)?.close();
    this.#servers.delete(domid);
  }

  #onClient(domid: number, socket: Socket): void {
    const { service, enter } = this.#options;
    const reader = new PacketReader();
    let connection: Connection | undefined;
    this.#clients.add(socket);
    enter(() => {
      if (service.daemon.domains.get(domid)?.introduced === true)
        connection = service.daemon.attach(domid, new SocketPort(socket));
    });
    if (connection === undefined) {
      socket.destroy();
      return;
    }
    const client = connection;
    socket.on('data', (chunk) => {
      enter(() => {
        try {
          reader.feed(chunk, (packet) => service.daemon.receive(client, packet));
        } catch (error) {
          if (!(error instanceof XsProtocolError)) throw error;
          service.daemon.ignore(client, error.message);
        }
      });
    });
    socket.on('drain', () => enter(() => service.daemon.resume(client)));
    // What went wrong with one client is told by `close`, which follows.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#clients.delete(socket);
      enter(() => service.daemon.detach(client));
    });
  }
}

class SocketPort implements ClientPort {
  readonly #socket: Socket;
  #corked = false;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  get ready(): boolean {
    return this.#socket.writable && !this.#socket.writableNeedDrain;
  }

  write(packet: Uint8Array): void {
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#socket.write(packet);
  }

  setReading(on: boolean): void {
    if (on) this.#socket.resume();
    else this.#socket.pause();
  }

  close(): void {
    this.#socket.destroy();
  }
}
