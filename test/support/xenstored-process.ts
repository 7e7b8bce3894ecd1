/** A client of a store's Unix socket. */
import { connect, type Socket } from 'node:net';
import { PacketReader, packPacket, packStrings, textOf, XS } from '#shared/abi/xs-wire.ts';

/** One client; requests are answered in order. */
export class StoreSocket {
  readonly socket: Socket;
  /** Watch events so far, as `path token`. */
  readonly events: string[] = [];
  readonly #waiting: ((reply: string) => void)[] = [];

  private constructor(socket: Socket) {
    this.socket = socket;
    const reader = new PacketReader();
    socket.on('error', () => undefined);
    socket.on('close', () => {
      for (const answer of this.#waiting.splice(0)) answer('closed');
    });
    socket.on('data', (chunk) => {
      reader.feed(chunk, ({ type, payload }) => {
        const text = textOf(payload);
        if (type === XS.WATCH_EVENT) this.events.push(text.slice(0, -1).replace('\0', ' '));
        else this.#waiting.shift()?.(text.replace(/\0$/, '').replaceAll('\0', ','));
      });
    });
  }

  static async connect(path: string): Promise<StoreSocket> {
    const socket = connect(path);
    await new Promise<void>((done, fail) => {
      socket.once('connect', done);
      socket.once('error', fail);
    });
    return new StoreSocket(socket);
  }

  /** The reply's strings with commas between, an error's name, or `closed`. */
  ask(type: number, payload: Uint8Array, txId = 0): Promise<string> {
    if (this.socket.destroyed) return Promise.resolve('closed');
    return new Promise((done) => {
      this.#waiting.push(done);
      this.socket.write(packPacket(type, 1, txId, payload));
    });
  }

  strings(type: number, ...strings: string[]): Promise<string> {
    return this.ask(type, packStrings(...strings));
  }

  end(): void {
    this.socket.destroy();
  }
}
