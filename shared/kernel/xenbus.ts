/**
 * The handshake of a xenbus device, as either end of it runs it (Linux drivers/xen/xenbus/xenbus_client.c;
 * xen/include/public/io/xenbus.h). A device is two directories that name each other; each end writes `state` in its
 * own and watches the other's.
 * Not modelled: probing by bus, suspend and resume; the kernel that uses it decides which nodes are devices.
 */

import { parseXenbusState, XenbusState, type XenbusStateName, xenbusStateName } from '../abi/xenbus.ts';
import type { Nanos } from '../core/core.ts';
import type { Op } from '../core/op.ts';
import { Changes, type XenstoreClient, type XenstoreView } from './xenstore-client.ts';

/**
 * A handshake as a table: our state, what the other end became, what we do, the state that follows. What is not in
 * it is ignored or an error, as the kernel that owns the table says.
 */
export type Transitions<Action extends string> = Readonly<
  Partial<Record<XenbusStateName, Readonly<Partial<Record<XenbusStateName, readonly [Action, XenbusStateName]>>>>>
>;

/** The row of a table for the two states; undefined when it has none. */
export function transition<Action extends string>(
  table: Transitions<Action>,
  own: XenbusState,
  other: XenbusState,
): { readonly action: Action; readonly next: XenbusState } | undefined {
  const row = table[xenbusStateName(own)]?.[xenbusStateName(other)];
  return row === undefined ? undefined : { action: row[0], next: XenbusState[row[1]] };
}

/** One end of a device. Call `open` before anything else, and `close` when the device goes. */
export class XenbusDevice {
  readonly store: XenstoreClient;
  /** Our directory, absolute or relative to our own domain's, such as `device/pci/0`. */
  readonly nodePath: string;
  readonly #otherendNode: 'backend' | 'frontend';
  readonly #changes = new Changes();
  #otherendPath = '';
  #otherendId = -1;
  #state: XenbusState = XenbusState.Unknown;

  /** `otherend` is what the other end is to us: a frontend gives `backend`. */
  constructor(store: XenstoreClient, nodePath: string, otherend: 'backend' | 'frontend') {
    this.store = store;
    this.nodePath = nodePath;
    this.#otherendNode = otherend;
  }

  /** The other end's directory and domain, known after `open`. */
  get otherendPath(): string {
    return this.#otherendPath;
  }

  get otherendId(): number {
    return this.#otherendId;
  }

  /** Our state as we last read or wrote it. */
  get state(): XenbusState {
    return this.#state;
  }

  /**
   * Reads who the other end is and our own state, and watches the other's state; `onChange` is called at every change of
   * it that is noticed, and once at first. Throws ENOENT when the nodes that name the other end are absent.
   */
  *open(onChange?: () => void): Op<void> {
    this.#otherendPath = yield* this.store.read(`${this.nodePath}/${this.#otherendNode}`);
    this.#otherendId = Number(yield* this.store.read(`${this.nodePath}/${this.#otherendNode}-id`));
    yield* this.ownState();
    yield* this.store.watch(`${this.#otherendPath}/state`, this.#token(), () => {
      this.#changes.note();
      onChange?.();
    });
  }

  *close(): Op<void> {
    yield* this.store.unwatch(`${this.#otherendPath}/state`, this.#token());
  }

  /** Our state as it stands in the store: Unknown when the toolstack removed the node. */
  *ownState(): Op<XenbusState> {
    this.#state = parseXenbusState(yield* this.store.readOrUndefined(`${this.nodePath}/state`));
    return this.#state;
  }

  *otherendState(): Op<XenbusState> {
    return parseXenbusState(yield* this.store.readOrUndefined(`${this.#otherendPath}/state`));
  }

  /**
   * Writes our state, unless it is that already, or the node is gone: writing it then would bring back a device
   * that the toolstack has removed. Returns whether the node is there.
   */
  *switchState(state: XenbusState): Op<boolean> {
    if (state === this.#state) return true;
    const path = `${this.nodePath}/state`;
    const present = yield* this.store.transaction(function* (tx) {
      if ((yield* tx.readOrUndefined(path)) === undefined) return false;
      yield* tx.write(path, `${state}`);
      return true;
    });
    if (present) this.#state = state;
    return present;
  }

  /** Waits until the other end's state is one of `states` and gives it. Throws TimedOut after `ns`. */
  *waitForOtherState(states: readonly XenbusState[], ns: Nanos): Op<XenbusState> {
    return yield* this.#waitForOther((state) => states.includes(state), ns);
  }

  /** Waits until the other end's state is not `from` and gives it. Throws TimedOut after `ns`. */
  *waitForOtherChange(from: XenbusState, ns: Nanos): Op<XenbusState> {
    return yield* this.#waitForOther((state) => state !== from, ns);
  }

  /** A node of the other end's directory; undefined when absent. */
  *readOther(name: string, view: XenstoreView = this.store): Op<string | undefined> {
    return yield* view.readOrUndefined(`${this.#otherendPath}/${name}`);
  }

  /** Writes why the device cannot go on, as "errno text" below our domain's `error`. `errno` is positive. */
  *error(errno: number, text: string): Op<void> {
    yield* this.store.write(`error/${this.#nodename()}/error`, `${errno} ${text}`);
  }

  /** `error`, and closes: what xenbus_dev_fatal does. */
  *fatal(errno: number, text: string): Op<void> {
    yield* this.error(errno, text);
    yield* this.switchState(XenbusState.Closing);
  }

  *#waitForOther(wanted: (state: XenbusState) => boolean, ns: Nanos): Op<XenbusState> {
    const deadline = this.store.now + ns;
    for (;;) {
      const seen = this.#changes.count;
      const state = yield* this.otherendState();
      if (wanted(state)) return state;
      yield* this.#changes.since(seen, deadline - this.store.now);
    }
  }

  /** Our directory without the domain's own prefix, as Linux calls a device. */
  #nodename(): string {
    return this.nodePath.replace(/^\/local\/domain\/\d+\//, '');
  }

  #token(): string {
    return `xenbus:${this.nodePath}`;
  }
}
