/**
 * Replays the trace of a real xenstored on the store, connection by connection, and compares every reply, every watch
 * event and their order with what the real one sent.
 * A trace does not say everything: not the transaction of a request (taken to be the one that its connection has open,
 * but for a kernel's writes of control/feature-*, which happen beside it), and not what Xen told the daemon (a
 * @releaseDomain that no request explains is taken for the shutdown of the guest whose ring ends next in the trace, the
 * end of a ring for its death).
 */
import { bytesOf, textOf, XS, type XsPacket, xsTypeName } from '#shared/abi/xs-wire.ts';
import { type StoreClient, StoreWithClients } from '#tools/sim/xenstore.ts';
import { align, type Only, type Sent } from './align.ts';
import { TraceError } from './trace.ts';
import { parseXenstoreTrace, type XenstoreTraceItem, type XenstoreTraceMessage } from './xenstore-trace.ts';

export interface XenstoreDifference {
  readonly connection: string;
  /** Where the real daemon sent it; when it did not, the request that made ours, 0 for none. */
  readonly line: number;
  readonly real: string;
  readonly ours: string;
  /** Why neither is wrong, where the trace shows that; else empty. */
  readonly reason: string;
}

export interface XenstoreReplay {
  readonly connections: number;
  readonly requests: number;
  readonly replies: { readonly compared: number; readonly agreed: number };
  readonly events: { readonly compared: number; readonly agreed: number };
  /** Connections on which replies and events came in the same order, and nothing else did. */
  readonly ordersAgreed: number;
  readonly differences: readonly XenstoreDifference[];
}

interface Channel {
  readonly name: string;
  readonly client: StoreClient;
  /** The ring of a domain; -1 for a socket of dom0. */
  readonly ring: number;
  /** Line at which the trace ends it; Infinity: it does not. */
  readonly endsAt: number;
  readonly real: Sent[];
  readonly ours: Sent[];
  /** Open transactions, the oldest first: their ids here and there. */
  readonly open: number[];
  readonly realOpen: string[];
  lastRequestAt: number;
  /** The daemon found that its client had hung up. */
  ignored: boolean;
  shutDown: boolean;
}

const TYPES: Readonly<Record<string, number>> = XS;

/** Replays the text of a trace, one character a byte. Throws TraceError when it is none, or when it has nothing to compare. */
export function replayXenstoreTrace(file: string, text: string): XenstoreReplay {
  const items = parseXenstoreTrace(file, text);
  const replayer = new Replayer(file, items);
  items.forEach((item, i) => {
    replayer.onItem(item, i);
  });
  const result = replayer.result();
  if (result.replies.compared === 0) {
    const end = text.trimEnd().split('\n').length;
    throw new TraceError(
      `${file}:${end}: the trace ends with ${result.requests} requests and no reply to compare: "IN ..." and "OUT ..." lines were expected`,
    );
  }
  return result;
}

class Replayer {
  readonly #file: string;
  readonly #items: readonly XenstoreTraceItem[];
  readonly #store = new StoreWithClients();
  readonly #channels = new Map<string, Channel>();
  readonly #all: Channel[] = [];
  /** The domain of an INTRODUCE that is not answered yet, and who asked for it. */
  #introduced: { readonly domid: number; readonly by: Channel } | undefined;
  #requests = 0;

  constructor(file: string, items: readonly XenstoreTraceItem[]) {
    this.#file = file;
    this.#items = items;
  }

  onItem(item: XenstoreTraceItem, index: number): void {
    if (item.kind === 'create') {
      this.#create(item.connection, index);
      return;
    }
    const channel = this.#channels.get(item.connection);
    if (channel === undefined)
      throw new TraceError(
        `${this.#file}:${item.line}: connection ${item.connection} is not there: a line "CREATE connection ${item.connection}" before it was expected`,
      );
    if (item.kind === 'destroy') this.#destroy(item.connection, channel);
    else if (item.kind === 'ignored') channel.ignored = true;
    else if (item.kind === 'in') this.#in(channel, item);
    else if (item.kind === 'out') this.#out(channel, item);
  }

  result(): XenstoreReplay {
    this.#collect(0);
    const counts = { replies: { compared: 0, agreed: 0 }, events: { compared: 0, agreed: 0 }, ordersAgreed: 0 };
    const differences: XenstoreDifference[] = [];
    for (const channel of this.#all) {
      const matched: (readonly [real: Sent, ours: Sent])[] = [];
      for (const [kind, isEvent] of [
        ['replies', false],
        ['events', true],
      ] as const) {
        const real = channel.real.filter((sent) => sent.isEvent === isEvent);
        const ours = channel.ours.filter((sent) => sent.isEvent === isEvent);
        const { pairs, only } = align(real, ours);
        counts[kind].compared += real.length;
        counts[kind].agreed += pairs.filter(([a, b]) => a.text === b.text).length;
        for (const one of only) differences.push(told(channel, one, reasonOf(channel, one, pairs)));
        for (const [a, b] of pairs)
          if (a.text !== b.text) differences.push(told(channel, { real: a, ours: b }, a.taken ? '' : 'another id'));
        matched.push(...pairs);
      }
      const swapped = firstSwapped(matched);
      if (swapped !== undefined) differences.push(told(channel, swapped, ''));
      if (keysOf(channel.real) === keysOf(channel.ours)) counts.ordersAgreed++;
    }
    return { connections: this.#all.length, requests: this.#requests, ...counts, differences };
  }

  /** The first connection is dom0's ring; the one that an INTRODUCE makes is the domain's; the others are sockets. */
  #create(address: string, index: number): void {
    const ring = this.#all.length === 0 ? 0 : (this.#introduced?.domid ?? -1);
    this.#introduced = undefined;
    const end = this.#items.find((item, i) => i > index && item.kind === 'destroy' && item.connection === address);
    const channel: Channel = {
      name: `${ring < 0 ? 'socket' : `ring of d${ring}`} #${this.#all.length}`,
      client: this.#store.connect(Math.max(ring, 0)),
      ring,
      endsAt: end?.line ?? Infinity,
      real: [],
      ours: [],
      open: [],
      realOpen: [],
      lastRequestAt: 0,
      ignored: false,
      shutDown: false,
    };
    this.#channels.set(address, channel);
    this.#all.push(channel);
  }

  #destroy(address: string, channel: Channel): void {
    this.#channels.delete(address);
    if (channel.ring <= 0) this.#store.disconnect(channel.client);
    // One that a RELEASE has ended is gone here already.
    else if (!channel.client.closed) this.#store.domainExc(channel.ring, true);
    this.#collect(0);
  }

  #in(channel: Channel, { type: typeName, body, line }: XenstoreTraceMessage): void {
    this.#requests++;
    channel.lastRequestAt = line;
    const type = TYPES[typeName];
    if (type === undefined)
      throw new TraceError(
        `${this.#file}:${line}: "${typeName}" is no request: one such as READ or WRITE was expected`,
      );
    if (typeName === 'INTRODUCE') this.#introduced = { domid: Number(body.split(' ')[0]), by: channel };
    const besides = channel.ring >= 0 && typeName === 'WRITE' && body.startsWith('control/feature-');
    const outside = besides || typeName === 'TRANSACTION_START';
    const tx = outside ? 0 : (channel.open[0] ?? 0);
    if (typeName === 'TRANSACTION_END') {
      channel.open.shift();
      channel.realOpen.shift();
    }
    const payload = typeName === 'WRITE' ? body.replace(' ', '\0') : body.replaceAll(' ', '\0');
    this.#store.pass(1e6);
    this.#store.send(channel.client, type, bytesOf(payload), tx);
    this.#collect(line);
    const reply = channel.ours.findLast(({ isEvent }) => !isEvent)?.text;
    if (typeName === 'TRANSACTION_START' && reply?.startsWith(typeName))
      channel.open.push(Number.parseInt(reply.split(' ')[1]!, 10));
  }

  #out(channel: Channel, { type, body, line }: XenstoreTraceMessage): void {
    const isEvent = type === 'WATCH_EVENT';
    if (this.#introduced?.by === channel && !isEvent) this.#introduced = undefined;
    const taken = type === 'TRANSACTION_START' && channel.realOpen.includes(body);
    if (type === 'TRANSACTION_START') channel.realOpen.push(body);
    channel.real.push(sent(channel.real, line, `${type} ${body}`, isEvent, taken));
    if (!isEvent || !body.startsWith('@releaseDomain')) return;
    const releases = (list: readonly Sent[]): number =>
      list.filter(({ text }) => text.startsWith('WATCH_EVENT @releaseDomain')).length;
    if (releases(channel.real) > releases(channel.ours)) this.#shutDownNext(line);
  }

  /** Of the guests that the trace shows gone later on, the one that goes first. */
  #shutDownNext(line: number): void {
    const dying = [...this.#channels.values()].filter(
      ({ ring, shutDown, endsAt }) => ring > 0 && !shutDown && endsAt < Infinity,
    );
    const next = dying.sort((a, b) => a.endsAt - b.endsAt)[0];
    if (next === undefined) return;
    next.shutDown = true;
    this.#store.domainExc(next.ring, false);
    this.#collect(line);
  }

  #collect(line: number): void {
    for (const { client, ours } of this.#all) {
      for (const packet of client.take()) ours.push(sent(ours, line, textIn(packet), packet.type === XS.WATCH_EVENT));
    }
  }
}

function sent(list: readonly Sent[], line: number, text: string, isEvent: boolean, taken = false): Sent {
  const key = text.replace(/^(TRANSACTION_START) \d+ ?$/, '$1');
  return { line, place: list.length, text, key, isEvent, taken };
}

function textIn(packet: XsPacket): string {
  return `${xsTypeName(packet.type)} ${textOf(packet.payload).replaceAll('\0', ' ')}`;
}

function keysOf(list: readonly Sent[]): string {
  return list.map(({ key }) => key).join('\n');
}

function told({ name }: Channel, { real, ours }: Only, reason: string): XenstoreDifference {
  return {
    connection: name,
    line: real?.line ?? ours?.line ?? 0,
    real: real?.text ?? '',
    ours: ours?.text ?? '',
    reason,
  };
}

/** Why what came only here may have come, when the trace shows it. */
function reasonOf(channel: Channel, { real, ours }: Only, pairs: readonly (readonly [Sent, Sent])[]): string {
  if (real !== undefined || ours === undefined) return '';
  const { ignored, lastRequestAt } = channel;
  const silent = channel.real.every(({ line }) => line < lastRequestAt);
  if (ignored && silent && ours.line === lastRequestAt) return 'the real client hung up before it was answered';
  const merged = pairs.some(([a, b]) => b.text === ours.text && b.line > 0 && Math.max(b.line, ours.line) < a.line);
  if (ours.isEvent && ours.line > 0 && merged)
    return 'the real client had not read the same event before, so it was merged';
  return '';
}

/** Two that came in another order than here, in words. */
function firstSwapped(pairs: readonly (readonly [real: Sent, ours: Sent])[]): Only | undefined {
  const inOrder = [...pairs].sort(([a], [b]) => a.place - b.place);
  for (const [i, [real, ours]] of inOrder.entries()) {
    const before = inOrder[i - 1];
    if (before === undefined || before[1].place < ours.place) continue;
    const [first, second] = [before[0].text, real.text];
    return {
      real: { ...real, text: `${first}, then ${second}` },
      ours: { ...ours, text: `${second}, then ${first}` },
    };
  }
  return undefined;
}
