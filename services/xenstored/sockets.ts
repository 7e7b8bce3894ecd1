/**
 * Clients over Unix sockets, in the process around the core: `socket` in the run directory for dom0's tools, and, when
 * asked for, `dom<N>.sock` with the rights of each introduced domain N. Who may open a socket is a matter of the file
 * system: the directory and the sockets are the user's alone.
 * A client that does not read is no longer written to. What a chunk of requests causes leaves in one write for each
 * client that hears of it.
 * Not modelled: SO_PEERCRED, `socket_ro`; whoever may open a socket has all rights of its domain.
 */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { PacketReader, type XsPacket, XsProtocolError } from '#shared/abi/xs-wire.ts';
import { Awake } from './awake.ts';
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
  /** Those that were written to, while a chunk is worked on. */
  readonly #written: SocketPort[] = [];
  #inChunk = false;
  readonly #awake = new Awake({ now: () => performance.now(), next: (look) => setImmediate(look) });

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

  /** It is flushed with the end of the chunk, or soon. */
  #onWritten(port: SocketPort): void {
    if (this.#inChunk) this.#written.push(port);
    else process.nextTick(() => port.flush());
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
        connection = service.daemon.attach(domid, new SocketPort(socket, (port) => this.#onWritten(port)));
    });
    if (connection === undefined) {
      socket.destroy();
      return;
    }
    const client = connection;
    const onPacket = (packet: XsPacket): void => service.daemon.receive(client, packet);
    socket.on('data', (chunk) => {
      this.#awake.onChunk();
      this.#inChunk = true;
      enter(() => {
        try {
          reader.feed(chunk, onPacket);
        } catch (error) {
          if (!(error instanceof XsProtocolError)) throw error;
          service.daemon.ignore(client, error.message);
        }
      });
      this.#inChunk = false;
      for (let port = this.#written.pop(); port !== undefined; port = this.#written.pop()) port.flush();
      this.#awake.onDone();
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
  readonly #onWritten: (port: SocketPort) => void;
  /** What leaves with the next `flush`. */
  #packets: Uint8Array[] = [];
  #bytes = 0;

  /** `onWritten` is told of the first packet after a `flush`. */
  constructor(socket: Socket, onWritten: (port: SocketPort) => void) {
    this.#socket = socket;
    this.#onWritten = onWritten;
  }

  get ready(): boolean {
    return this.#bytes < HIGH_WATER_BYTES && this.#socket.writable && !this.#socket.writableNeedDrain;
  }

  write(packet: Uint8Array): void {
    this.#packets.push(packet);
    this.#bytes += packet.length;
    if (this.#packets.length === 1) this.#onWritten(this);
  }

  /** Hands what was written to the socket. */
  flush(): void {
    const whole = Buffer.allocUnsafe(this.#bytes);
    let at = 0;
    for (const packet of this.#packets) {
      whole.set(packet, at);
      at += packet.length;
    }
    this.#packets.length = 0;
    this.#bytes = 0;
    if (this.#socket.writable) this.#socket.write(whole);
  }

  setReading(on: boolean): void {
    if (on) this.#socket.resume();
    else this.#socket.pause();
  }

  close(): void {
    this.#socket.destroy();
  }
}
