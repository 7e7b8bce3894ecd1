/** The table of requests, and those about watches and transactions (docs/misc/xenstore.txt; core.c, watch.c, transaction.c of xenstored). */
import { packStrings, stringsOf, XS } from '#shared/abi/xs-wire.ts';
import { watchKey } from './connection.ts';
import { onControl } from './control.ts';
import {
  hasWatchDepth,
  onGetDomainPath,
  onGetFeature,
  onGetQuota,
  onIntroduce,
  onIsDomainIntroduced,
  onRelease,
  onResume,
  onSetFeature,
  onSetQuota,
  onSetTarget,
} from './domain-requests.ts';
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
import { exceeds } from './quota.ts';
import { OK, oneString, type RequestContext } from './request-context.ts';

export interface RequestKind {
  /** Gives the payload of the reply; throws XsError. */
  readonly run: (context: RequestContext) => Uint8Array;
  /** Only dom0 may ask. */
  readonly privileged?: true;
  /** A transaction id in the header means nothing. */
  readonly ignoresTransaction?: true;
  /** It shows or changes what is known of domains. */
  readonly ofDomains?: true;
}

/** Requests by type. What is not here is ENOSYS. */
export const REQUESTS: ReadonlyMap<number, RequestKind> = new Map<number, RequestKind>([
  [XS.CONTROL, { run: onControl, ofDomains: true, privileged: true }],
  [XS.DIRECTORY, { run: onDirectory }],
  [XS.READ, { run: onRead }],
  [XS.GET_PERMS, { run: onGetPerms }],
  [XS.WATCH, { run: onWatch, ignoresTransaction: true }],
  [XS.UNWATCH, { run: onUnwatch, ignoresTransaction: true }],
  [XS.TRANSACTION_START, { run: onTransactionStart }],
  [XS.TRANSACTION_END, { run: onTransactionEnd }],
  [XS.INTRODUCE, { run: onIntroduce, ofDomains: true, privileged: true }],
  [XS.RELEASE, { run: onRelease, ofDomains: true, privileged: true }],
  [XS.GET_DOMAIN_PATH, { run: onGetDomainPath }],
  [XS.WRITE, { run: onWrite }],
  [XS.MKDIR, { run: onMkdir }],
  [XS.RM, { run: onRm }],
  [XS.SET_PERMS, { run: onSetPerms }],
  [XS.IS_DOMAIN_INTRODUCED, { run: onIsDomainIntroduced, ofDomains: true, privileged: true }],
  [XS.RESUME, { run: onResume, ofDomains: true, privileged: true }],
  [XS.SET_TARGET, { run: onSetTarget, ofDomains: true, privileged: true }],
  [XS.RESET_WATCHES, { run: onResetWatches }],
  [XS.DIRECTORY_PART, { run: onDirectoryPart }],
  [XS.GET_FEATURE, { run: onGetFeature, ofDomains: true }],
  [XS.SET_FEATURE, { run: onSetFeature, ofDomains: true, privileged: true }],
  [XS.GET_QUOTA, { run: onGetQuota, ofDomains: true, privileged: true }],
  [XS.SET_QUOTA, { run: onSetQuota, ofDomains: true, privileged: true }],
]);

function onWatch(context: RequestContext): Uint8Array {
  const { connection, daemon } = context;
  const { domain } = connection;
  const [text, token, depthText, ...more] = stringsOf(context.payload);
  if (text === undefined || token === undefined || more.length > 0) throw new XsError('EINVAL');
  if (depthText !== undefined && (!hasWatchDepth(domain) || !/^\d{1,9}$/.test(depthText))) throw new XsError('EINVAL');
  const path = canonical(context, text, true);
  const key = watchKey(path, token);
  if (connection.watches.has(key)) throw new XsError('EEXIST');
  if (exceeds(domain, 'watches', domain.watches + 1)) throw new XsError('E2BIG');
  const bytes = path.length + token.length + 2;
  if (exceeds(domain, 'memory', daemon.store.memory(domain.domid) + domain.bytes + bytes)) throw new XsError('ENOMEM');
  const depth = depthText === undefined ? Number.POSITIVE_INFINITY : Number(depthText);
  daemon.watch(connection, key, { path, token, prefixLength: path.length - text.length, depth });
  return OK;
}

function onUnwatch(context: RequestContext): Uint8Array {
  const [text, token, ...more] = stringsOf(context.payload);
  if (text === undefined || token === undefined || more.length > 0) throw new XsError('EINVAL');
  const path = canonical(context, text, true);
  if (!context.daemon.unwatch(context.connection, watchKey(path, token))) throw new XsError('ENOENT');
  return OK;
}

function onResetWatches({ connection, daemon }: RequestContext): Uint8Array {
  daemon.resetWatches(connection);
  return OK;
}

function onTransactionStart(context: RequestContext): Uint8Array {
  const { connection, daemon } = context;
  if (context.transaction !== undefined) throw new XsError('EBUSY');
  if (exceeds(connection.domain, 'transactions', connection.domain.transactions + 1)) throw new XsError('ENOSPC');
  return packStrings(`${daemon.openTransaction(connection).id}`);
}

/** Whatever becomes of it, the transaction is gone. */
function onTransactionEnd(context: RequestContext): Uint8Array {
  const { connection, daemon, transaction } = context;
  const how = oneString(context.payload);
  if (how !== 'T' && how !== 'F') throw new XsError('EINVAL');
  if (transaction === undefined) throw new XsError('ENOENT');
  daemon.closeTransaction(connection, transaction);
  if (how === 'F') return OK;
  try {
    const changes = transaction.commit(daemon.domains);
    if (transaction.wrote) daemon.debitWrite(connection.domain);
    for (const change of changes) daemon.fire(change);
  } catch (error) {
    if (error instanceof XsError && error.code === 'EAGAIN') daemon.conflict();
    throw error;
  }
  return OK;
}
