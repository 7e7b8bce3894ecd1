/**
 * Requests about domains, their features and their quotas (docs/misc/xenstore.txt; domain.c of xenstored).
 * Not modelled: asking Xen whether a domain exists; the limits and features of any number that a domain can have may be
 * set and read, whoever comes to have it. Of the features only WATCHDEPTH changes what a domain can do: the others say
 * what the daemon can.
 */
import { packStrings, stringsOf } from '#shared/abi/xs-wire.ts';
import { type Domain, FEATURE_WATCHDEPTH, SERVER_FEATURES } from './domain.ts';
import { XsError } from './error.ts';
import { domainPath } from './path.ts';
import { type Limits, QUOTA_KINDS, quotaNamed } from './quota.ts';
import { type Daemon, integerOf, OK, oneString, type RequestContext } from './request-context.ts';

/** The last domain id that a domain can have (DOMID_FIRST_RESERVED - 1). */
const DOMID_MAX = 0x7fef;

/** The page comes by the domain's grant, so its frame number is not looked at; the port must be one. */
export function onIntroduce({ daemon, payload }: RequestContext): Uint8Array {
  const [domidText, gfn, port] = stringsOf(payload);
  if (domidText === undefined || gfn === undefined || port === undefined) throw new XsError('EINVAL');
  const domid = integerOf(domidText);
  if (integerOf(port) <= 0 || domid < 0 || domid > DOMID_MAX) throw new XsError('EINVAL');
  daemon.introduce(domid, integerOf(port));
  return OK;
}

export function onRelease({ daemon, payload }: RequestContext): Uint8Array {
  daemon.release(guestIn(daemon, payload));
  return OK;
}

/** A later shutdown of the domain fires @releaseDomain again. */
export function onResume({ daemon, payload }: RequestContext): Uint8Array {
  const domain = guestIn(daemon, payload);
  domain.shutdown = false;
  daemon.noteDomain(domain.domid);
  return OK;
}

export function onGetDomainPath({ payload }: RequestContext): Uint8Array {
  return packStrings(domainPath(integerOf(oneString(payload))));
}

export function onIsDomainIntroduced({ daemon, payload }: RequestContext): Uint8Array {
  return packStrings(daemon.domains.get(integerOf(oneString(payload)))?.introduced === true ? 'T' : 'F');
}

export function onSetTarget({ daemon, payload }: RequestContext): Uint8Array {
  const [domid, target] = stringsOf(payload);
  if (domid === undefined || target === undefined) throw new XsError('EINVAL');
  const from = introduced(daemon, integerOf(domid));
  from.targetDomid = introduced(daemon, integerOf(target)).domid;
  daemon.noteDomain(from.domid);
  return OK;
}

/** Of the caller, or, for dom0, of the domain that it names. */
export function onGetFeature({ connection, daemon, payload }: RequestContext): Uint8Array {
  const [domidText, ...more] = stringsOf(payload);
  if (more.length > 0) throw new XsError('EINVAL');
  if (domidText === undefined || domidText === '') return packStrings(`${connection.domain.features}`);
  if (!connection.domain.privileged) throw new XsError('EACCES');
  return packStrings(`${daemon.domains.get(domidIn(domidText))?.features ?? SERVER_FEATURES}`);
}

/** Before the domain is introduced: later it may have seen what there is. */
export function onSetFeature({ daemon, payload }: RequestContext): Uint8Array {
  const [domidText, maskText, ...more] = stringsOf(payload);
  if (domidText === undefined || maskText === undefined || more.length > 0) throw new XsError('EINVAL');
  const domain = daemon.domainOf(domidIn(domidText));
  const mask = integerOf(maskText);
  if (domain.introduced) throw new XsError('EBUSY');
  if (mask < 0 || (mask & ~SERVER_FEATURES) !== 0) throw new XsError('EINVAL');
  domain.features = mask;
  daemon.noteDomain(domain.domid);
  return OK;
}

export function hasWatchDepth(domain: Domain): boolean {
  return (domain.features & FEATURE_WATCHDEPTH) !== 0;
}

/** Nothing: the names of all quotas; a name: its global limit; a domain and a name: the limit of that domain. */
export function onGetQuota({ daemon, payload }: RequestContext): Uint8Array {
  const strings = stringsOf(payload);
  if (strings.length > 2) throw new XsError('EINVAL');
  if (strings.length === 0) return packStrings(QUOTA_KINDS.map(([, { name }]) => name).join(' '));
  const limits = limitsIn(daemon, strings.length === 2 ? strings[0] : undefined);
  const quota = quotaNamed(strings.at(-1)!);
  if (quota === undefined) throw new XsError('EINVAL');
  return packStrings(`${limits[quota]}`);
}

/** A global limit is what domains start with that are not known yet; 0 means none. */
export function onSetQuota({ daemon, payload }: RequestContext): Uint8Array {
  const strings = stringsOf(payload);
  if (strings.length < 2 || strings.length > 3) throw new XsError('EINVAL');
  const limits = limitsIn(daemon, strings.length === 3 ? strings[0] : undefined);
  const quota = quotaNamed(strings.at(-2)!);
  if (quota === undefined) throw new XsError('EINVAL');
  limits[quota] = integerOf(strings.at(-1)!) >>> 0;
  if (strings.length === 3) daemon.noteDomain(domidIn(strings[0]!));
  else daemon.noteLimits();
  return OK;
}

function limitsIn(daemon: Daemon, domidText: string | undefined): Limits {
  return domidText === undefined ? daemon.domains.limits : daemon.domainOf(domidIn(domidText)).limits;
}

function domidIn(text: string): number {
  const domid = integerOf(text);
  if (domid < 0 || domid > DOMID_MAX) throw new XsError('ENOENT');
  return domid;
}

/** The introduced domain that a payload names, not dom0. */
function guestIn(daemon: Daemon, payload: Uint8Array): Domain {
  const domid = integerOf(oneString(payload));
  if (domid === 0) throw new XsError('EINVAL');
  return introduced(daemon, domid);
}

function introduced(daemon: Daemon, domid: number): Domain {
  const domain = daemon.domains.get(domid);
  if (domain === undefined || !domain.introduced) throw new XsError('ENOENT');
  return domain;
}
