/**
 * Who listens where, and who may speak there. A subject is `cv.<to>.<interface>.<from>`: the sender is a token of it,
 * and only that sender's credential may publish there, so that who calls is never a field that a caller fills in.
 */
import type { BodyCase, Peer } from '../core/core.ts';

export const SUBJECT_ROOT = 'cv';

/** Interfaces that requests go to; answers all go to `reply`. `local` messages never leave their process. */
export type Interface =
  | 'cpu'
  | 'el2'
  | 'trap'
  | 'irq'
  | 'hypercall'
  | 'upcall'
  | 'store'
  | 'watch'
  | 'ring'
  | 'domains'
  | 'toolstack'
  | 'console'
  | 'inspect'
  | 'lifecycle'
  | 'hello'
  | 'reply'
  | 'local';

/** The interface of each kind of message. */
export const INTERFACE_OF: Readonly<Record<BodyCase, Interface>> = {
  hello: 'hello',
  cpuAccessRequest: 'cpu',
  cpuAccessReply: 'reply',
  el2Request: 'el2',
  el2Reply: 'reply',
  trapRequest: 'trap',
  trapReply: 'reply',
  interruptPending: 'irq',
  hypercallRequest: 'hypercall',
  hypercallReply: 'reply',
  upcallRequest: 'upcall',
  upcallReply: 'reply',
  domainConnection: 'local',
  domainConnectionReply: 'local',
  domainExcRequest: 'domains',
  domainExcReply: 'reply',
  // Like a hypercall, it is a trap of its own making.
  sysregTrapRequest: 'hypercall',
  sysregTrapReply: 'reply',
  xenstoreRequest: 'store',
  xenstoreReply: 'reply',
  xenstoreWatchEvent: 'watch',
  xenstoreWatchEventReply: 'reply',
  xenstoreRestarted: 'watch',
  xenstoreRestartedReply: 'reply',
  mediaWriteRequest: 'local',
  mediaWriteReply: 'local',
  journalLoadRequest: 'local',
  journalLoadReply: 'local',
  journalAppendRequest: 'local',
  journalAppendReply: 'local',
  storeRingRequest: 'ring',
  storeRingReply: 'reply',
  storeRingEvent: 'ring',
  storeRingEventReply: 'reply',
  createDomainRequest: 'toolstack',
  destroyDomainRequest: 'toolstack',
  listDomainsRequest: 'toolstack',
  pauseDomainRequest: 'toolstack',
  pciAttachRequest: 'toolstack',
  pciDetachRequest: 'toolstack',
  pciListRequest: 'toolstack',
  pciAssignableAddRequest: 'toolstack',
  pciAssignableRemoveRequest: 'toolstack',
  pciAssignableListRequest: 'toolstack',
  toolstackReply: 'reply',
  lspciRequest: 'console',
  lspciReply: 'reply',
  inspectRequest: 'inspect',
  inspectReply: 'reply',
  guestCommandRequest: 'console',
  guestCommandReply: 'reply',
  consoleLine: 'console',
  takeDomainRequest: 'lifecycle',
  takeDomainReply: 'reply',
  grantCredentialRequest: 'lifecycle',
  grantCredentialReply: 'reply',
  mintCredentialRequest: 'local',
  mintCredentialReply: 'local',
  revokeCredentialRequest: 'local',
  revokeCredentialReply: 'local',
};

export function subjectOf(to: Peer, iface: Interface, from: Peer): string {
  return `${SUBJECT_ROOT}.${to}.${iface}.${from}`;
}

/** All that is sent to a peer. */
export function subjectsTo(to: Peer): string {
  return `${SUBJECT_ROOT}.${to}.>`;
}

/** The sender and the interface that a subject names; undefined when it is none of ours. */
export function parseSubject(subject: string): { to: Peer; iface: Interface; from: Peer } | undefined {
  const [root, to, iface, from, more] = subject.split('.');
  if (root !== SUBJECT_ROOT || to === undefined || iface === undefined || from === undefined || more !== undefined)
    return undefined;
  return { to: to as Peer, iface: iface as Interface, from: from as Peer };
}

export interface Permissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/** The queue group of those who take new domains: a request to `vacant` reaches one of them. */
export const TAKERS_GROUP = 'takers';

/** What a peer's credential allows; nothing else gets through the broker. */
export function permissionsOf(peer: Peer): Permissions {
  const mine = `${SUBJECT_ROOT}.${peer}.>`;
  const publish = (...pairs: readonly [to: string, iface: Interface][]): string[] =>
    pairs.map(([to, iface]) => `${SUBJECT_ROOT}.${to}.${iface}.${peer}`);
  switch (peer) {
    case 'hardware':
      return { publish: publish(['*', 'reply'], ['xen', 'trap'], ['xen', 'irq'], ['xen', 'hello']), subscribe: [mine] };
    case 'xen':
      return {
        publish: publish(
          ['*', 'reply'],
          ['hardware', 'el2'],
          ['*', 'upcall'],
          ['xenstored', 'domains'],
          ['d0', 'hello'],
        ),
        subscribe: [mine],
      };
    case 'xenstored':
      return {
        publish: publish(
          ['*', 'reply'],
          ['*', 'watch'],
          ['*', 'hello'],
          // A process of dom0: its loads and stores are dom0's, and so is the kernel below it (docs/decisions/0017).
          ['hardware', 'cpu'],
          ['d0', 'ring'],
        ),
        subscribe: [mine],
      };
    case 'operator':
      return { publish: publish(['*', 'inspect'], ['*', 'console'], ['d0', 'toolstack']), subscribe: [mine] };
    case 'observer':
      return { publish: [], subscribe: [`${SUBJECT_ROOT}.>`] };
    case 'vacant':
      return {
        publish: publish(['d0', 'reply']),
        subscribe: [`${mine} ${TAKERS_GROUP}`, `${SUBJECT_ROOT}.*.lifecycle.d0`],
      };
    default: {
      if (!/^d\d+$/.test(peer)) throw new RangeError(`no credential is made for "${peer}"`);
      const common = publish(
        ['hardware', 'cpu'],
        ['xen', 'hypercall'],
        ['xenstored', 'store'],
        ['xen', 'reply'],
        ['xenstored', 'reply'],
        ['operator', 'reply'],
        ['xen', 'hello'],
      );
      if (peer === 'd0') common.push(...publish(['*', 'lifecycle'], ['xenstored', 'ring']));
      return { publish: common, subscribe: [mine] };
    }
  }
}
