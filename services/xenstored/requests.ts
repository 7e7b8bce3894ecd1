/**
 * The table of requests, and those about watches, transactions and domains (docs/misc/xenstore.txt; core.c, watch.c,
 * transaction.c, domain.c and control.c of xenstored).
 * Not modelled: GET_FEATURE, SET_FEATURE, GET_QUOTA, SET_QUOTA (ENOSYS); CONTROL but for check, print and help (EINVAL);
 * the shutdown state of a domain, since Xen does not tell the store: RESUME checks its argument and changes nothing, and
 * @releaseDomain fires on RELEASE only.
 */
import { packStrings, stringsOf, XS } from '#shared/abi/xs-wire.ts';
import type { Connection, Watch } from './connection.ts';
import { XsError } from './error.ts';
import {
  canonical,
  onDirectory,
  onDirectoryPart,
  onGetPerms,
  onMkdir,
  onRead,
  onRm,
  onSetPerms,
  onWrite,
} from './node-requests.ts';
import { domainPath } from './path.ts';
import { exceeds } from './quota.ts';
import { type Daemon, integerOf, OK, oneString, type RequestContext } from './request-context.ts';
import { Transaction } from './transaction.ts';

export interface RequestKind {
  /** Gives the payload of the reply; throws XsError. */
  readonly run: (context: RequestContext) => Uint8Array;
  /** Only dom0 may ask. */
  readonly privileged?: true;
  /** A transaction id in the header means nothing. */
  readonly ignoresTransaction?: true;
}

/** Requests by type. What is not here is ENOSYS. */
export const REQUESTS: ReadonlyMap<number, RequestKind> = new Map<number, RequestKind>([
  [XS.CONTROL, { run: onControl, privileged: true }],
  [XS.DIRECTORY, { run: onDirectory }],
  [XS.READ, { run: onRead }],
  [XS.GET_PERMS, { run: onGetPerms }],
  [XS.WATCH, { run: onWatch, ignoresTransaction: true }],
  [XS.UNWATCH, { run: onUnwatch, ignoresTransaction: true }],
  [XS.TRANSACTION_START, { run: onTransactionStart }],
  [XS.TRANSACTION_END, { run: onTransactionEnd }],
  [XS.INTRODUCE, { run: onIntroduce, privileged: true }],
  [XS.RELEASE, { run: onRelease, privileged: true }],
  [XS.GET_DOMAIN_PATH, { run: onGetDomainPath }],
  [XS.WRITE, { run: onWrite }],
  [XS.MKDIR, { run: onMkdir }],
  [XS.RM, { run: onRm }],
  [XS.SET_PERMS, { run: onSetPerms }],
  [XS.IS_DOMAIN_INTRODUCED, { run: onIsDomainIntroduced, privileged: true }],
  [XS.RESUME, { run: onResume, privileged: true }],
  [XS.SET_TARGET, { run: onSetTarget, privileged: true }],
  [XS.RESET_WATCHES, { run: onResetWatches }],
  [XS.DIRECTORY_PART, { run: onDirectoryPart }],
]);

/** The last domain id that a domain can have (DOMID_FIRST_RESERVED - 1). */
const DOMID_MAX = 0x7fef;

function onWatch(context: RequestContext): Uint8Array {
  const { connection } = context;
  const [text, token, depthText, ...more] = stringsOf(context.payload);
  if (text === undefined || token === undefined || more.length > 0) throw new XsError('EINVAL');
  if (depthText !== undefined && !/^\d{1,9}$/.test(depthText)) throw new XsError('EINVAL');
  const path = canonical(context, text, true);
  if (connection.watches.some((watch) => watch.path === path && watch.token === token)) throw new XsError('EEXIST');
  if (exceeds(connection, 'watches', connection.watches.length + 1)) throw new XsError('E2BIG');
  const watch: Watch = {
    path,
    token,
    prefixLength: path.length - text.length,
    depth: depthText === undefined ? Number.POSITIVE_INFINITY : Number(depthText),
  };
  connection.watches.push(watch);
  context.daemon.fireInitial(connection, watch);
  return OK;
}

function onUnwatch(context: RequestContext): Uint8Array {
  const { connection } = context;
  const [text, token, ...more] = stringsOf(context.payload);
  if (text === undefined || token === undefined || more.length > 0) throw new XsError('EINVAL');
  const path = canonical(context, text, true);
  const at = connection.watches.findIndex((watch) => watch.path === path && watch.token === token);
  if (at < 0) throw new XsError('ENOENT');
  connection.watches.splice(at, 1);
  return OK;
}

function onResetWatches(context: RequestContext): Uint8Array {
  context.connection.resetWatches();
  return OK;
}

function onTransactionStart(context: RequestContext): Uint8Array {
  const { connection, daemon } = context;
  if (context.transaction !== undefined) throw new XsError('EBUSY');
  if (exceeds(connection, 'transactions', connection.transactions.size + 1)) throw new XsError('ENOSPC');
  const id = connection.newTransactionId();
  connection.transactions.set(id, new Transaction(id, daemon.store, connection.domid));
  daemon.counts.transactions++;
  return packStrings(`${id}`);
}

/** Whatever becomes of it, the transaction is gone. */
function onTransactionEnd(context: RequestContext): Uint8Array {
  const { connection, daemon, transaction } = context;
  const how = oneString(context.payload);
  if (how !== 'T' && how !== 'F') throw new XsError('EINVAL');
  if (transaction === undefined) throw new XsError('ENOENT');
  connection.transactions.delete(transaction.id);
  if (how === 'F') return OK;
  try {
    for (const change of transaction.commit()) daemon.fire(change);
  } catch (error) {
    if (error instanceof XsError && error.code === 'EAGAIN') daemon.counts.conflicts++;
    throw error;
  }
  return OK;
}

/** The page comes with the domain, so its frame number is not looked at; the port must be one. */
function onIntroduce({ daemon, payload }: RequestContext): Uint8Array {
  const [domidText, gfn, port] = stringsOf(payload);
  if (domidText === undefined || gfn === undefined || port === undefined) throw new XsError('EINVAL');
  const domid = integerOf(domidText);
  if (integerOf(port) <= 0 || domid < 0 || domid > DOMID_MAX) throw new XsError('EINVAL');
  daemon.introduce(domid);
  return OK;
}

function onRelease({ daemon, payload }: RequestContext): Uint8Array {
  daemon.release(guestIn(daemon, payload));
  return OK;
}

function onResume({ daemon, payload }: RequestContext): Uint8Array {
  guestIn(daemon, payload);
  return OK;
}

function onGetDomainPath({ payload }: RequestContext): Uint8Array {
  return packStrings(domainPath(integerOf(oneString(payload))));
}

function onIsDomainIntroduced({ daemon, payload }: RequestContext): Uint8Array {
  return packStrings(daemon.connections.has(integerOf(oneString(payload))) ? 'T' : 'F');
}

function onSetTarget({ daemon, payload }: RequestContext): Uint8Array {
  const [domid, target] = stringsOf(payload);
  if (domid === undefined || target === undefined) throw new XsError('EINVAL');
  const from = connected(daemon, integerOf(domid));
  from.targetDomid = connected(daemon, integerOf(target)).domid;
  return OK;
}

function onControl({ daemon, payload }: RequestContext): Uint8Array {
  const [command, argument, ...more] = stringsOf(payload);
  switch (command) {
    case 'check':
      for (const line of daemon.store.check()) daemon.print(line);
      return OK;
    case 'print':
      if (argument === undefined || more.length > 0) throw new XsError('EINVAL');
      daemon.print(argument);
      return OK;
    case 'help':
      return packStrings('check\nhelp\nprint\t<string>');
    default:
      throw new XsError('EINVAL');
  }
}

/** The connection of the domain that a payload names, not dom0's. */
function guestIn(daemon: Daemon, payload: Uint8Array): Connection {
  const domid = integerOf(oneString(payload));
  if (domid === 0) throw new XsError('EINVAL');
  return connected(daemon, domid);
}

function connected(daemon: Daemon, domid: number): Connection {
  const connection = daemon.connections.get(domid);
  if (connection === undefined) throw new XsError('ENOENT');
  return connection;
}
