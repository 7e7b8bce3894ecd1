/**
 * A real store daemon and store rings in plain memory, in the simulated world: dom0's kernel, Xen and the machine are
 * stand-ins that carry events and accesses and nothing else. A guest has a kernel with the ring driver, or is a test
 * that reads and writes its page itself.
 */
import { CpuFault, CpuOpKind } from '#gen/hardware.ts';
import { evtchn_port_arg } from '#shared/abi/event-channel.ts';
import {
  ringBytes,
  ringPieces,
  ringUsed,
  XENSTORE_CONNECTION,
  XENSTORE_RING_SIZE,
  XS_RING,
  XS_RING_WORD,
  xs_ring_words,
} from '#shared/abi/xs-ring.ts';
import { PacketReader, packPacket, packStrings, textOf, XS, type XsPacket, xsTypeName } from '#shared/abi/xs-wire.ts';
import { type Body, body, domidOf, type Payload, type Peer, peerOf } from '#shared/core/core.ts';
import { type Op, Refused, sleep } from '#shared/core/op.ts';
import { Runtime, type Service } from '#shared/core/runtime.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { XenstoreClient } from '#shared/kernel/xenstore-client.ts';
import { XenstoreRing } from '#shared/kernel/xenstore-ring.ts';
import { World } from '#shared/sim/world.ts';
import { createXenstored, type XenstoredService } from '../../services/xenstored/core.ts';

/** Where a guest sees its page. */
const GUEST_PAGE = 0x3900_1000;
/** Where dom0 sees the page of domain N: N pages further. */
const DOM0_PAGES = 0x8000_0000;
const GUEST_PORT = 1;
const LIMIT_NS = 600e9;
const NO_DATA = new Uint8Array(0);

/** The page of one guest, as the guest itself handles it. */
export class GuestPage {
  readonly bytes = new Uint8Array(4096);
  readonly #view = new DataView(this.bytes.buffer);
  readonly #reader = new PacketReader();

  constructor() {
    this.set('connection', XENSTORE_CONNECTION.RECONNECT);
  }

  get words() {
    return xs_ring_words.decode(this.bytes, XS_RING.words);
  }

  set(word: keyof typeof XS_RING_WORD, value: number): void {
    this.#view.setUint32(XS_RING_WORD[word], value >>> 0, true);
  }

  /** Puts as much into the request ring as there is room for; gives how much that was. */
  put(data: Uint8Array): number {
    const { req_prod, req_cons } = this.words;
    const count = Math.min(data.length, XENSTORE_RING_SIZE - ringUsed(req_prod, req_cons));
    for (const piece of ringPieces(req_prod, data.subarray(0, count)))
      this.bytes.set(piece.data, XS_RING.req + piece.at);
    this.set('req_prod', req_prod + count);
    return count;
  }

  /** Takes at most `max` bytes of the response ring; gives the packets that are whole now. */
  take(max = XENSTORE_RING_SIZE): XsPacket[] {
    const { rsp_prod, rsp_cons } = this.words;
    const count = Math.min(max, ringUsed(rsp_prod, rsp_cons));
    const ring = this.bytes.subarray(XS_RING.rsp, XS_RING.rsp + XENSTORE_RING_SIZE);
    const packets: XsPacket[] = [];
    this.#reader.feed(ringBytes(ring, rsp_cons, count), (packet) => packets.push(packet));
    this.set('rsp_cons', rsp_cons + count);
    return packets;
  }
}

/** A kernel of which a test runs operations. */
class TestKernel implements Service {
  readonly runtime: Runtime;
  readonly store: XenstoreClient;
  readonly starts: (() => void)[] = [];
  readonly #answer: (from: Peer, message: Body) => Body | undefined;

  constructor(idBase: number, answer: (from: Peer, message: Body) => Body | undefined) {
    this.runtime = new Runtime({ idBase });
    this.store = new XenstoreClient(this.runtime);
    this.#answer = answer;
    this.runtime.attach(this);
  }

  onRequest(from: Peer, message: Body): Body | undefined {
    if (message.$case !== 'consoleLine') return this.#answer(from, message);
    for (const start of this.starts.splice(0)) start();
    return undefined;
  }

  inspect(): unknown {
    return {};
  }
}

export class RingWorld {
  readonly world: World;
  readonly pages = new Map<number, GuestPage>();
  /** Notifications of each guest by the daemon. */
  readonly notified = new Map<number, number>();
  /** Calls of the daemon to dom0's kernel, in order. */
  readonly asked: string[] = [];
  /** Runs before each batch of accesses: what a guest does to its page meanwhile. */
  beforeAccess: (from: Peer) => void = () => undefined;
  /** Addresses outside of a page that somebody used. */
  readonly strays: number[] = [];
  /** What dom0's kernel refuses. */
  refuse: (what: string) => boolean = () => false;
  service: XenstoredService;
  readonly dom0: TestKernel;
  readonly #kernels = new Map<number, TestKernel>();
  #nextId = 1;
  #lives = 0;

  constructor(seed = 1) {
    this.world = new World({ seed });
    this.service = this.startDaemon();
    this.world.add('hardware', this.#machine().runtime);
    this.world.add('xen', this.#xen().runtime);
    this.dom0 = new TestKernel(0, (from, message) => this.#dom0(from, message));
    this.world.add('d0', this.dom0.runtime);
    this.#kernels.set(0, this.dom0);
  }

  /** A new daemon in the place of the last, which knew nothing. */
  startDaemon(): XenstoredService {
    const { runtime, service } = createXenstored({ idBase: ++this.#lives * 2 ** 32 });
    this.world.add('xenstored', runtime);
    this.service = service;
    return service;
  }

  /** A new daemon that knows which domains there are and nothing else. */
  restartDaemon(...domids: readonly number[]): void {
    const { runtime, service } = createXenstored({ idBase: ++this.#lives * 2 ** 32 });
    for (const domid of domids) service.daemon.reconnect(service.daemon.domainOf(domid));
    this.world.add('xenstored', runtime);
    this.service = service;
  }

  /** A guest whose page the test handles; introduced, and its ring open. */
  bareGuest(domid: number): GuestPage {
    const page = new GuestPage();
    this.pages.set(domid, page);
    this.introduce(domid);
    return page;
  }

  /** Introduces a domain, perhaps again, and gives it its home in the store. */
  introduce(domid: number): void {
    const home = `/local/domain/${domid}`;
    this.run(0, this.dom0.store.introduce(domid, GUEST_PAGE / 4096, GUEST_PORT));
    this.run(0, this.dom0.store.mkdir(home));
    this.run(0, this.dom0.store.setPerms(home, [`n${domid}`]));
    this.pass(10e6);
  }

  /** A guest with the ring driver under its store client. */
  kernelGuest(domid: number): { store: XenstoreClient; ring: XenstoreRing } {
    const page = new GuestPage();
    this.pages.set(domid, page);
    const hypercalls = new Hypercalls();
    const kernel = new TestKernel(2 ** 40, () => {
      ring.onEvent();
      return body('upcallReply', {});
    });
    const ring = new XenstoreRing({
      cpu: new CpuBus(),
      pageIpa: GUEST_PAGE,
      notify: () => hypercalls.evtchn_send(GUEST_PORT),
      spawn: (op) => kernel.runtime.spawn('store ring', op),
      onWatchEvent: (packet) => kernel.store.onWatchEvent(packet),
      trace: () => undefined,
    });
    this.world.add(peerOf(domid), kernel.runtime);
    this.#kernels.set(domid, kernel);
    kernel.store.useTransport(ring);
    return { store: kernel.store, ring };
  }

  /** Runs an operation of a kernel to its end. */
  run<T>(domid: number, op: Op<T>): T {
    const outcome = this.start(domid, op);
    this.world.run(() => outcome.done, LIMIT_NS);
    if (outcome.error !== undefined) throw outcome.error;
    return outcome.value as T;
  }

  /** Starts an operation of a kernel. */
  start<T>(domid: number, op: Op<T>): { done: boolean; value?: T; error?: unknown } {
    const outcome: { done: boolean; value?: T; error?: unknown } = { done: false };
    const kernel = this.#kernels.get(domid)!;
    const end = (result: { value?: T; error?: unknown }): void => {
      Object.assign(outcome, result, { done: true });
    };
    kernel.starts.push(() =>
      kernel.runtime.spawn(
        'test',
        op,
        (value) => end({ value }),
        (error) => end({ error }),
      ),
    );
    this.#post('operator', peerOf(domid), body('consoleLine', { text: '' }));
    return outcome;
  }

  pass(ns: number): void {
    this.run(0, sleep(ns));
  }

  /** The guest sends on its channel. */
  event(domid: number): void {
    this.#post('d0', 'xenstored', body('storeRingEvent', { port: portOf(domid) }));
  }

  /** Puts bytes into a bare guest's ring, in the pieces given and then as there is room, and gives all that comes back. */
  converse(domid: number, bytes: Uint8Array, chunks: readonly number[] = []): string[] {
    const page = this.pages.get(domid)!;
    const heard: string[] = [];
    let at = 0;
    for (let turn = 0; ; turn++) {
      const chunk = chunks[turn] ?? bytes.length;
      const put = page.put(bytes.subarray(at, at + chunk));
      at += put;
      this.event(domid);
      this.pass(5e6);
      const before = page.words.rsp_cons;
      heard.push(...page.take().map(say));
      const nothing = put === 0 && page.words.rsp_cons === before;
      if (nothing && turn >= chunks.length) return heard;
    }
  }

  #post(from: Peer, to: Peer, message: Body): void {
    const id = this.#nextId++;
    // Not below what the sender's own requests have: a test speaks in its name.
    this.world.post(from, to, { id: 2 ** 45 + id, inReplyTo: 0, oldestPending: 0, refused: '', body: message });
  }

  #dom0(from: Peer, message: Body): Body | undefined {
    if (message.$case === 'xenstoreWatchEvent') {
      this.dom0.store.onWatchEvent(message.value.packet);
      return body('xenstoreWatchEventReply', {});
    }
    if (message.$case !== 'storeRingRequest' || from !== 'xenstored') return undefined;
    const { what } = message.value;
    const $case = what!.$case;
    if (this.refuse($case)) throw new Refused(`no ${$case}`);
    switch (what!.$case) {
      case 'map': {
        const { domid } = what!.value;
        this.asked.push(`map ${domid}`);
        return body('storeRingReply', { ipa: DOM0_PAGES + domid * 4096, port: 0, exists: false });
      }
      case 'bind': {
        const { domid, remotePort } = what!.value;
        this.asked.push(`bind ${domid} ${remotePort}`);
        this.event(domid);
        return body('storeRingReply', { ipa: 0, port: portOf(domid), exists: false });
      }
      case 'unmap':
        this.asked.push(`unmap ${what!.value.domid}`);
        break;
      case 'notify': {
        const domid = what!.value.port - portOf(0);
        this.notified.set(domid, (this.notified.get(domid) ?? 0) + 1);
        if (this.world.has(peerOf(domid)))
          this.#post('xen', peerOf(domid), body('upcallRequest', { vcpu: 0, what: interrupt }));
      }
    }
    return body('storeRingReply', { ipa: 0, port: 0, exists: false });
  }

  #machine(): TestKernel {
    return new TestKernel(0, (from, message) => {
      if (message.$case !== 'cpuAccessRequest') return undefined;
      this.beforeAccess(from);
      return body('cpuAccessReply', { results: message.value.ops.map((op) => this.#access(from, op)) });
    });
  }

  #access(from: Peer, op: Payload<'cpuAccessRequest'>['ops'][number]): Payload<'cpuAccessReply'>['results'][number] {
    const domid = from === 'xenstored' ? Math.floor((op.ipa - DOM0_PAGES) / 4096) : domidOf(from);
    const at = from === 'xenstored' ? (op.ipa - DOM0_PAGES) % 4096 : op.ipa - GUEST_PAGE;
    const { bytes } = this.pages.get(domid) ?? { bytes: NO_DATA };
    const end = at + Math.max(op.sizeBytes, op.data.length);
    if (at < 0 || end > bytes.length) {
      this.strays.push(op.ipa);
      return { fault: CpuFault.CPU_FAULT_EXTERNAL_ABORT, data: NO_DATA };
    }
    if (op.kind === CpuOpKind.CPU_OP_KIND_READ)
      return { fault: CpuFault.CPU_FAULT_UNSPECIFIED, data: bytes.slice(at, at + op.sizeBytes) };
    bytes.set(op.data, at);
    return { fault: CpuFault.CPU_FAULT_UNSPECIFIED, data: NO_DATA };
  }

  #xen(): TestKernel {
    return new TestKernel(0, (from, message) => {
      if (message.$case !== 'hypercallRequest') return undefined;
      const { arg } = message.value;
      if (evtchn_port_arg.decode(arg).port === GUEST_PORT) this.event(domidOf(from));
      return body('hypercallReply', { result: 0, arg });
    });
  }
}

const interrupt = { $case: 'interrupts' as const, value: { intids: [31] } };
const portOf = (domid: number): number => 100 + domid;

/** `READ value`, as a test reads it. */
function say({ type, payload }: XsPacket): string {
  return `${xsTypeName(type)} ${textOf(payload).replace(/\0$/, '').replaceAll('\0', ' ')}`;
}

export const packetOf = (type: number, ...strings: string[]): Uint8Array =>
  packPacket(type, 1, 0, packStrings(...strings));
export const writePacket = (path: string, value: string): Uint8Array =>
  packPacket(
    XS.WRITE,
    1,
    0,
    Uint8Array.from(`${path}\0${value}`, (c) => c.charCodeAt(0)),
  );

export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
