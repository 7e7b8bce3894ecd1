/**
 * Replays the trace of a real xenstored (`xenstored -T FILE`, plain or gzip) on the store, connection by connection, and
 * compares every reply and every watch event with what the real one sent.
 * A trace does not say everything: not the transaction of a request (taken to be the one that its connection has open,
 * but for a kernel's writes of control/feature-*, which happen beside it), and not what Xen told the daemon (a
 * @releaseDomain that no request explains is taken for the shutdown of the guest, the end of a ring for its death).
 */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { bytesOf, packStrings, textOf, XS, type XsPacket, xsTypeName } from '#shared/abi/xs-wire.ts';
import { type StoreClient, StoreWithClients } from '#tools/sim/xenstore.ts';

export interface Difference {
  readonly connection: string;
  /** Line of the trace; 0 when the real daemon sent no such thing. */
  readonly line: number;
  readonly real: string;
  readonly ours: string;
  readonly reason: string;
}

export interface Replay {
  readonly connections: number;
  readonly requests: number;
  readonly replies: { readonly compared: number; readonly agreed: number };
  readonly events: { readonly compared: number; readonly agreed: number };
  /** Connections on which replies and events came in the same order. */
  readonly ordersAgreed: number;
  readonly differences: readonly Difference[];
}

interface Sent {
  readonly line: number;
  readonly text: string;
  readonly isEvent: boolean;
}

interface Channel {
  readonly name: string;
  readonly client: StoreClient;
  /** The ring of a domain; -1 for a socket of dom0. */
  readonly ring: number;
  readonly real: Sent[];
  readonly ours: Sent[];
  /** Open transactions, the oldest first. */
  readonly open: number[];
}

const LINE = /^(IN|OUT) (0x[0-9a-f]+) \d+ [\d:]+ (\w+) \((.*)\)$/;
const TYPES: Readonly<Record<string, number>> = XS;

/** `culvert replay-xenstore FILE`: prints what agreed and what did not; status 1 when something differs that has no reason. */
export function replayXenstore(file: string): number {
  const raw = readFileSync(file);
  const bytes = raw[0] === 0x1f && raw[1] === 0x8b ? gunzipSync(raw) : raw;
  const { connections, requests, replies, events, ordersAgreed, differences } = replayTrace(textOf(bytes));
  const print = (line: string): boolean => process.stdout.write(`${line}\n`);
  print(`connections  ${connections}, the order of what was sent agrees on ${ordersAgreed}`);
  print(`requests     ${requests}`);
  print(`replies      ${replies.agreed} of ${replies.compared} agree`);
  print(`watch events ${events.agreed} of ${events.compared} agree`);
  for (const { connection, line, real, ours, reason } of differences)
    print(`line ${line}, ${connection}: real "${real}", here "${ours}"${reason === '' ? '' : ` (${reason})`}`);
  return differences.some(({ reason }) => reason === '') ? 1 : 0;
}

/** Replays the text of a trace, one character a byte. */
export function replayTrace(text: string): Replay {
  const replayer = new Replayer();
  text.split('\n').forEach((line, i) => {
    replayer.onLine(line, i + 1);
  });
  return replayer.result();
}

class Replayer {
  readonly #store = new StoreWithClients();
  readonly #channels = new Map<string, Channel>();
  readonly #all: Channel[] = [];
  #introduced = -1;
  #released = 0;
  #requests = 0;

  onLine(line: string, at: number): void {
    const [word, what, address = ''] = line.split(' ');
    if (word === 'CREATE' && what === 'connection') this.#create(address);
    else if (word === 'DESTROY' && what === 'connection') this.#destroy(address);
    const match = LINE.exec(line);
    if (match === null) return;
    const [, way, name, type, body] = match as unknown as [string, string, string, string, string];
    const channel = this.#channels.get(name);
    if (channel === undefined) return;
    if (way === 'IN') this.#in(channel, type, body, at);
    else this.#out(channel, type, body, at);
  }

  result(): Replay {
    this.#collect(0);
    const counts = { replies: { compared: 0, agreed: 0 }, events: { compared: 0, agreed: 0 }, ordersAgreed: 0 };
    const differences: Difference[] = [];
    for (const channel of this.#all) {
      for (const [kind, isEvent] of [
        ['replies', false],
        ['events', true],
      ] as const) {
        const real = channel.real.filter((sent) => sent.isEvent === isEvent);
        const ours = channel.ours.filter((sent) => sent.isEvent === isEvent);
        const { agreed, only } = align(real, ours);
        counts[kind].compared += real.length;
        counts[kind].agreed += agreed;
        for (const pair of only) differences.push({ connection: channel.name, ...pair, reason: reasonOf(pair) });
      }
      if (channel.real.map(({ text }) => text).join('\n') === channel.ours.map(({ text }) => text).join('\n'))
        counts.ordersAgreed++;
    }
    return { connections: this.#all.length, requests: this.#requests, ...counts, differences };
  }

  /** The first connection is dom0's ring; the one that an INTRODUCE makes is the domain's; the others are sockets. */
  #create(address: string): void {
    const ring = this.#all.length === 0 ? 0 : this.#introduced;
    this.#introduced = -1;
    const name = `${ring < 0 ? 'socket' : `ring of d${ring}`} #${this.#all.length}`;
    const client = this.#store.connect(Math.max(ring, 0));
    const channel = { name, client, ring, real: [], ours: [], open: [] };
    this.#channels.set(address, channel);
    this.#all.push(channel);
  }

  #destroy(address: string): void {
    const channel = this.#channels.get(address);
    if (channel === undefined) return;
    this.#channels.delete(address);
    if (channel.ring > 0) this.#store.domainExc(channel.ring, true);
    else this.#store.disconnect(channel.client);
    this.#collect(0);
  }

  #in(channel: Channel, typeName: string, body: string, at: number): void {
    this.#requests++;
    const type = TYPES[typeName] ?? Number(typeName);
    const strings = body.split(' ');
    if (typeName === 'INTRODUCE') this.#introduced = Number(strings[0]);
    const besides = channel.ring >= 0 && typeName === 'WRITE' && body.startsWith('control/feature-');
    const outside = besides || typeName === 'TRANSACTION_START';
    const tx = outside ? 0 : (channel.open[0] ?? 0);
    if (typeName === 'TRANSACTION_END') channel.open.shift();
    const space = body.indexOf(' ');
    const payload =
      typeName === 'WRITE'
        ? bytesOf(`${body.slice(0, space)}\0${body.slice(space + 1)}`)
        : packStrings(...strings.slice(0, -1));
    this.#store.pass(1e6);
    this.#store.send(channel.client, type, payload, tx);
    this.#collect(at);
    if (typeName === 'TRANSACTION_START')
      channel.open.push(Number.parseInt(channel.ours.at(-1)!.text.split(' ')[1]!, 10));
  }

  #out(channel: Channel, type: string, body: string, at: number): void {
    channel.real.push({ line: at, text: `${type} ${body}`, isEvent: type === 'WATCH_EVENT' });
    if (type !== 'WATCH_EVENT' || !body.startsWith('@releaseDomain')) return;
    const told = (sent: readonly Sent[]): number =>
      sent.filter(({ text }) => text.startsWith('WATCH_EVENT @rel')).length;
    if (told(channel.real) <= told(channel.ours)) return;
    for (const { ring } of this.#all) if (ring > 0 && ring > this.#released) this.#shutdown(ring);
  }

  #shutdown(domid: number): void {
    this.#released = domid;
    this.#store.domainExc(domid, false);
    this.#collect(0);
  }

  #collect(line: number): void {
    for (const { client, ours } of this.#all) {
      for (const packet of client.take())
        ours.push({ line, text: textIn(packet), isEvent: packet.type === XS.WATCH_EVENT });
    }
  }
}

function textIn(packet: XsPacket): string {
  return `${xsTypeName(packet.type)} ${textOf(packet.payload).replaceAll('\0', ' ')}`;
}

type Pair = Pick<Difference, 'line' | 'real' | 'ours'>;

/** Walks two lists side by side; where they part, looks a little ahead for where they meet again. */
function align(real: readonly Sent[], ours: readonly Sent[]): { agreed: number; only: Pair[] } {
  const only: Pair[] = [];
  let agreed = 0;
  let i = 0;
  let j = 0;
  while (i < real.length || j < ours.length) {
    if (real[i]?.text === ours[j]?.text) {
      agreed++;
      i++;
      j++;
      continue;
    }
    const skipReal = real.slice(i, i + 8).findIndex(({ text }) => text === ours[j]?.text);
    const skipOurs = ours.slice(j, j + 8).findIndex(({ text }) => text === real[i]?.text);
    const here = { line: real[i]?.line ?? 0, real: real[i]?.text ?? '', ours: ours[j]?.text ?? '' };
    if (skipOurs > 0 && (skipReal < 0 || skipOurs <= skipReal))
      only.push({ ...here, line: 0, real: '', ours: ours[j++]!.text });
    else if (skipReal > 0) only.push({ ...here, real: real[i++]!.text, ours: '' });
    else {
      only.push(here);
      i++;
      j++;
    }
  }
  return { agreed, only };
}

/** Why two may differ without either being wrong. */
function reasonOf({ real, ours }: Pair): string {
  if (real === '' && ours.startsWith('WATCH_EVENT'))
    return 'the real client had not read the same event before, so it was merged';
  if (real === '') return 'the real client hung up before it was answered';
  if (real.startsWith('TRANSACTION_START') && ours.startsWith('TRANSACTION_START')) return 'another id';
  return '';
}
