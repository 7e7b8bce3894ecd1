/**
 * Tells Xen which domains' connections come and go, as the broker sees them (design: "Xen learns of it from the
 * broker"). The events carry the JWT that the server verified, so that a client's own words play no part.
 */
import { CONNECT_EVENTS, DISCONNECT_EVENTS, domidOfJwt } from '#shared/bus/credentials.ts';
import { Bus } from '#shared/bus/nats.ts';
import type { ServeContext } from '#shared/bus/serve.ts';
import { fileSetting } from '#shared/config.ts';
import { body } from '#shared/core/core.ts';

/** A connection that is back within this was a hiccup of the network, not the end of the domain. */
const RECONNECT_GRACE_MS = 1000;

interface AccountEvent {
  readonly client?: { readonly jwt?: string; readonly id?: number };
}

export async function watchDomains(context: ServeContext): Promise<void> {
  const { settings, log, deliver } = context;
  const bus = await Bus.connect({
    url: settings.natsUrl,
    creds: fileSetting('CULVERT_BROKER_CREDS'),
    name: 'xen.broker',
    waitMs: settings.brokerWaitMs,
    onStatus: (event, detail) => log.info({ event, detail }),
  });
  /** The connection that is a domain's, by the server's number for it: a second one of the same domain does not count. */
  const connectionOf = new Map<number, number>();
  const ending = new Set<number>();
  let id = 0;
  const tell = (domid: number, connected: boolean): void =>
    deliver('broker', {
      id: ++id,
      inReplyTo: 0,
      oldestPending: id,
      refused: '',
      body: body('domainConnection', { domid, connected }),
    });
  const onEvent = (data: Uint8Array, connected: boolean): void => {
    const { client } = JSON.parse(new TextDecoder().decode(data)) as AccountEvent;
    const domid = client?.jwt === undefined ? -1 : domidOfJwt(client.jwt);
    if (domid < 0 || client?.id === undefined) return;
    if (connected) {
      if (connectionOf.has(domid)) return;
      connectionOf.set(domid, client.id);
      if (!ending.has(domid)) tell(domid, true);
      return;
    }
    if (connectionOf.get(domid) !== client.id) return;
    connectionOf.delete(domid);
    // What comes and goes meanwhile (somebody who only tries the credential) does not prolong it.
    if (ending.has(domid)) return;
    ending.add(domid);
    setTimeout(() => {
      ending.delete(domid);
      if (!connectionOf.has(domid)) tell(domid, false);
    }, RECONNECT_GRACE_MS);
  };
  bus.subscribe(CONNECT_EVENTS, (message) => onEvent(message.data, true));
  bus.subscribe(DISCONNECT_EVENTS, (message) => onEvent(message.data, false));
  await bus.flush();
}
