/**
 * The store daemon: who is connected, which request is whose, and the delivery of watch events. A domain is known by
 * the name under which it speaks on the bus, which the broker vouches for; dom0 is connected from the start.
 * Events of one connection go out one at a time, the next when the last was acknowledged, so their order holds. An
 * unprivileged domain that leaves one unread for 20 s is not answered any more, as in current xenstored.
 * Not modelled: a tree that outlives the process; VIRQ_DOM_EXC, so a domain's end is known by RELEASE only.
 */
import {
  packPacket,
  packStrings,
  parsePacket,
  textOf,
  XENSTORE_PAYLOAD_MAX,
  XS,
  type XsErrorName,
  type XsPacket,
  XsProtocolError,
  xsTypeName,
} from '#shared/abi/xs-wire.ts';
import { type Body, body, type Core, domidOf, type Peer, peerOf } from '#shared/core/core.ts';
import { call, Indefinite, type Op, Refused } from '#shared/core/op.ts';
import { type Answer, Runtime, type RuntimeOptions, type Service } from '#shared/core/runtime.ts';
import { Connection, type Watch } from './connection.ts';
import { XsError } from './error.ts';
import { formatPerm, isPrivileged } from './permissions.ts';
import type { Daemon, RequestContext } from './request-context.ts';
import { REQUESTS, type RequestKind } from './requests.ts';
import { removeSubtree, Store } from './store.ts';
import { type Change, initialPath, matchSpecialWatches, matchWatches } from './watch.ts';

const EVENT_TIMEOUT_NS = 20e9;

export class XenstoredService implements Service, Daemon {
  readonly store = new Store();
  readonly connections = new Map<number, Connection>();
  readonly counts = { transactions: 0, conflicts: 0, watchEvents: 0 };
  readonly #operations = new Map<string, number>();
  readonly #errors = new Map<XsErrorName, number>();
  readonly #runtime: Runtime;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.connections.set(0, new Connection(0));
  }

  onRequest(from: Peer, message: Body): Answer {
    if (message.$case === 'inspectRequest' && from === 'operator') return this.#inspectReply(message.value.path);
    const domid = domidOf(from);
    if (message.$case !== 'xenstoreRequest' || domid < 0)
      throw new Refused(`xenstored does not take ${message.$case} of ${from}`);
    const connection = this.connections.get(domid);
    if (connection === undefined) throw new Refused(`domain ${domid} is not introduced`);
    if (connection.ignored !== '') throw new Refused(`domain ${domid} is ignored: ${connection.ignored}`);
    return body('xenstoreReply', { packet: this.#answer(connection, message.value.packet) });
  }

  introduce(domid: number): void {
    const known = this.connections.get(domid);
    if (known !== undefined) {
      known.reset();
      return;
    }
    this.connections.set(domid, new Connection(domid));
    this.#fireSpecial('@introduceDomain', domid);
  }

  /** Ends a connection. What the domain owns goes, and its rights to other nodes; then @releaseDomain fires. */
  release(connection: Connection): void {
    const { domid } = connection;
    connection.closed = true;
    connection.reset();
    this.connections.delete(domid);
    this.#runtime.forget(peerOf(domid));
    for (const other of this.connections.values()) {
      if (other.targetDomid === domid) other.targetDomid = -1;
      for (const transaction of other.transactions.values()) transaction.forgetDomain(domid);
    }
    this.#forgetDomain(domid);
    this.#fireSpecial('@releaseDomain', domid);
  }

  fire(change: Change): void {
    matchWatches(this.connections.values(), this.store, change, (connection, path, token) => {
      this.#queue(connection, path, token);
      this.#startDelivery(connection);
    });
  }

  fireInitial(connection: Connection, watch: Watch): void {
    this.#queue(connection, initialPath(watch), watch.token);
    // The reply to WATCH goes first: it leaves when this request is done.
    this.#runtime.at(this.#runtime.now, () => this.#startDelivery(connection));
  }

  print(text: string): void {
    this.#runtime.trace('xenstored.print', text);
  }

  inspect(): object {
    const tree: Record<string, { value: string; perms: string }> = {};
    const special: Record<string, string> = {};
    for (const [path, node] of this.store.entries()) {
      const perms = node.perms.map(formatPerm).join(',');
      if (path.startsWith('@')) special[path] = perms;
      else tree[path] = { value: textOf(node.value), perms };
    }
    const connections = [...this.connections.values()].map((connection) => ({
      domid: connection.domid,
      watches: connection.watches.length,
      transactions: connection.transactions.size,
      eventsWaiting: connection.eventsWaiting,
      nodesOwned: this.store.owned(connection.domid),
      ignored: connection.ignored,
    }));
    return {
      ready: true,
      tree,
      special,
      connections,
      counts: {
        operations: Object.fromEntries(this.#operations),
        errors: Object.fromEntries(this.#errors),
        ...this.counts,
      },
    };
  }

  #answer(connection: Connection, bytes: Uint8Array): Uint8Array {
    let packet: XsPacket;
    try {
      packet = parsePacket(bytes);
    } catch (error) {
      if (!(error instanceof XsProtocolError)) throw error;
      this.#ignore(connection, error.message);
      throw new Refused(`domain ${connection.domid} is ignored: ${error.message}`);
    }
    const { type, reqId, txId } = packet;
    const name = xsTypeName(type);
    this.#operations.set(name, (this.#operations.get(name) ?? 0) + 1);
    try {
      const payload = this.#run(connection, packet);
      if (payload.length > XENSTORE_PAYLOAD_MAX) throw new XsError('E2BIG');
      return packPacket(type, reqId, txId, payload);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      this.#errors.set(error.code, (this.#errors.get(error.code) ?? 0) + 1);
      return packPacket(XS.ERROR, reqId, txId, packStrings(error.code));
    }
  }

  #run(connection: Connection, packet: XsPacket): Uint8Array {
    const kind = REQUESTS.get(packet.type);
    if (kind === undefined) throw new XsError('ENOSYS');
    if (kind.privileged && !isPrivileged(connection)) throw new XsError('EACCES');
    return kind.run(this.#contextOf(connection, packet, kind));
  }

  #contextOf(connection: Connection, packet: XsPacket, kind: RequestKind): RequestContext {
    const txId = kind.ignoresTransaction ? 0 : packet.txId;
    const transaction = connection.transactions.get(txId);
    if (txId !== 0 && transaction === undefined) throw new XsError('ENOENT');
    return {
      daemon: this,
      connection,
      payload: packet.payload,
      transaction,
      tree: transaction ?? this.store,
      changed: (change) => {
        if (transaction === undefined) this.fire(change);
        else transaction.queueEvent(change.path, change.exact);
      },
    };
  }

  /** Removes what a domain owned, with all below it, and its entries elsewhere: a later domain of that number has no claim to them. */
  #forgetDomain(domid: number): void {
    for (const [path, node] of [...this.store.entries()]) {
      if (this.store.get(path) === undefined) continue; // went with a node above it
      if (node.perms[0]!.domid === domid && path !== '/' && !path.startsWith('@')) {
        removeSubtree(this.store, path, (removed, old) => {
          this.fire({ path: removed, exact: removed !== path, node: old });
        });
      }
    }
    for (const [path, node] of [...this.store.entries()]) {
      const perms = node.perms.filter((perm, i) => i === 0 || perm.domid !== domid);
      if (perms.length !== node.perms.length) this.store.put(path, { ...node, perms });
    }
  }

  #fireSpecial(name: '@introduceDomain' | '@releaseDomain', domid: number): void {
    matchSpecialWatches(this.connections.values(), this.store, name, domid, (connection, path, token) => {
      this.#queue(connection, path, token);
      this.#startDelivery(connection);
    });
  }

  #queue(connection: Connection, path: string, token: string): void {
    if (connection.queueEvent(path, token)) this.counts.watchEvents++;
  }

  #startDelivery(connection: Connection): void {
    if (connection.delivering || connection.closed || connection.eventsWaiting === 0) return;
    connection.delivering = true;
    this.#runtime.spawn(`events of d${connection.domid}`, this.#deliver(connection));
  }

  *#deliver(connection: Connection): Op<void> {
    for (let packet = connection.takeEvent(); packet !== undefined; packet = connection.takeEvent()) {
      yield* this.#deliverOne(connection, packet);
    }
    connection.delivering = false;
  }

  *#deliverOne(connection: Connection, packet: Uint8Array): Op<void> {
    const event = body('xenstoreWatchEvent', { packet });
    for (;;) {
      try {
        yield* call(peerOf(connection.domid), event, 'xenstoreWatchEventReply', { deadlineNs: EVENT_TIMEOUT_NS });
        return;
      } catch (error) {
        if (error instanceof Refused) return; // it has no use for it
        if (!(error instanceof Indefinite)) throw error;
        if (connection.closed) return;
        // dom0 may be starting again: what it has not read waits for it.
        if (isPrivileged(connection)) continue;
        this.#ignore(connection, 'a watch event was not read within 20 s');
        return;
      }
    }
  }

  #ignore(connection: Connection, why: string): void {
    connection.ignored = why;
    connection.reset();
    this.#runtime.trace('xenstored.ignored', { domid: connection.domid, why });
  }

  #inspectReply(path: string): Body {
    let at: unknown = this.#runtime.inspect();
    for (const key of path === '' ? [] : path.split('.')) {
      const known = typeof at === 'object' && at !== null && Object.hasOwn(at, key);
      if (!known) return body('inspectReply', { json: '', error: `xenstored has no ${path}` });
      at = (at as Record<string, unknown>)[key];
    }
    return body('inspectReply', { json: JSON.stringify(at), error: '' });
  }
}

export function createXenstoredCore(options: RuntimeOptions): Core {
  const runtime = new Runtime({ ...options, announceTo: ['d0'] });
  runtime.attach(new XenstoredService(runtime));
  return runtime;
}
