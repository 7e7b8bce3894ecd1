/** The machine service of a bundled board, QEMU virt when none is named, spoken to in messages as EL2, a domain and the operator do. */
import type { CpuOp, CpuResult, El2Op, El2Result } from '#gen/hardware.ts';
import { encodeVtcr, MEM_ATTR, S2AP, SHAREABILITY, writeLeaf, writeTable } from '#shared/arch/vmsa.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { type Body, body, type Effect, type Payload, type Peer } from '#shared/core/core.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { createHardwareCore } from '../../../services/hardware/core.ts';

export const RAM = 0x4000_0000;
/** A domain's tables: 40-bit IPAs, two concatenated level 1 tables; the first 2 MiB of IPA have pages. */
export const ROOT = RAM + 0x100_0000;
const LEVEL2 = ROOT + 0x2000;
const LEVEL3 = ROOT + 0x3000;
const NO_DATA = new Uint8Array(0);

export const le = (value: number, sizeBytes = 4): Uint8Array =>
  Uint8Array.from({ length: sizeBytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);
export const number = (bytes: Uint8Array): number => bytes.reduceRight((n, byte) => n * 256 + byte, 0);

export const read = (ipa: number, sizeBytes: number): CpuOp => ({ kind: 1, ipa, sizeBytes, data: NO_DATA });
export const write = (ipa: number, data: Uint8Array): CpuOp => ({ kind: 2, ipa, sizeBytes: 0, data });

export const physRead = (pa: number, sizeBytes: number, pcpu = 0): El2Op => ({
  op: { $case: 'physRead', value: { pa, sizeBytes, pcpu } },
});
export const physWrite = (pa: number, data: Uint8Array, pcpu = 0, valueFromOp = 0): El2Op => ({
  op: { $case: 'physWrite', value: { pa, data, pcpu, valueFromOp } },
});
export const sysregRead = (name: string, pcpu = 0): El2Op => ({ op: { $case: 'sysregRead', value: { pcpu, name } } });
export const sysregWrite = (name: string, value: number, valueFromOp = 0, pcpu = 0): El2Op => ({
  op: { $case: 'sysregWrite', value: { pcpu, name, value, valueFromOp } },
});
export const tlbi = (kind: 1 | 2 | 3, vmid: number, ipa = 0): El2Op => ({
  op: { $case: 'tlbi', value: { kind, vmid, ipa } },
});

export class CoreRig {
  now = 1_000_000;
  readonly core: ReturnType<typeof createHardwareCore>;
  /** Everything that was sent and not answered here, in order. */
  readonly outbox: { readonly to: Peer; readonly id: number; readonly body: Body }[] = [];
  /** Replies by the id of the request. */
  readonly #replies = new Map<number, { body: Body | undefined; refused: string }>();
  #nextId = 1;

  constructor(board = 'examples/boards/qemu-virt.yaml') {
    this.core = createHardwareCore(readBoard(board), { idBase: 0 });
    this.#take(this.core.start(this.now));
  }

  /** Sends a request and gives its id. */
  ask(from: Peer, message: Body): number {
    const id = this.#nextId++;
    this.#take(this.core.receive(this.now, from, { id, inReplyTo: 0, oldestPending: 0, refused: '', body: message }));
    return id;
  }

  /** The answer to request `id`, or undefined while there is none. */
  answer(id: number): { body: Body | undefined; refused: string } | undefined {
    return this.#replies.get(id);
  }

  /** Lets the clock run, timers included. */
  pass(ns: number): void {
    this.now += ns;
    this.#take(this.core.wake(this.now));
  }

  /** Answers what the machine asked of EL2. */
  reply(id: number, message: Body): void {
    const envelope = { id: this.#nextId++, inReplyTo: id, oldestPending: 0, refused: '', body: message };
    this.#take(this.core.receive(this.now, 'xen', envelope));
  }

  /** The next thing of this kind that was sent; it leaves the outbox. */
  sent<C extends Body['$case']>(kind: C): { to: Peer; id: number; value: Payload<C> } | undefined {
    const at = this.outbox.findIndex((m) => m.body.$case === kind);
    if (at < 0) return undefined;
    const [message] = this.outbox.splice(at, 1);
    return { to: message!.to, id: message!.id, value: message!.body.value as Payload<C> };
  }

  el2(...ops: El2Op[]): El2Result[] {
    const answer = this.answer(this.ask('xen', body('el2Request', { ops })));
    return (answer!.body as Extract<Body, { $case: 'el2Reply' }>).value.results;
  }

  /** Starts a batch of a domain; `results` gives its answer. */
  cpu(domid: number, ...ops: CpuOp[]): number {
    return this.ask(`d${domid}`, body('cpuAccessRequest', { vcpu: 0, ops }));
  }

  results(id: number): CpuResult[] | undefined {
    const reply = this.answer(id)?.body;
    return reply?.$case === 'cpuAccessReply' ? reply.value.results : undefined;
  }

  /** Loads a domain's port with the tables at ROOT. */
  loadPort(port: number, vmid: number): void {
    const descriptor = (make: (words: Uint32Array) => void): Uint8Array => {
      const words = new Uint32Array(2);
      make(words);
      return bytesOf(words);
    };
    this.el2(
      physWrite(
        ROOT,
        descriptor((w) => writeTable(w, 0, LEVEL2)),
      ),
      physWrite(
        LEVEL2,
        descriptor((w) => writeTable(w, 0, LEVEL3)),
      ),
      {
        op: {
          $case: 'portWrite',
          value: {
            port,
            hcrEl2Vm: true,
            vtcrEl2: encodeVtcr({ t0sz: 24, sl0: 1, ps: 5, vmid16: true }),
            vttbrEl2Baddr: ROOT,
            vttbrEl2Vmid: vmid,
          },
        },
      },
    );
  }

  /** Maps one page of the first 2 MiB. */
  map(ipa: number, pa: number, s2ap: number = S2AP.readWrite): void {
    const words = new Uint32Array(2);
    writeLeaf(words, 0, 3, pa, { s2ap, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: true });
    this.el2(physWrite(LEVEL3 + (ipa / 0x1000) * 8, bytesOf(words)));
  }

  unmap(ipa: number): void {
    this.el2(physWrite(LEVEL3 + (ipa / 0x1000) * 8, new Uint8Array(8)));
  }

  inspect(path: string): unknown {
    const answer = this.answer(this.ask('operator', body('inspectRequest', { path })));
    const { json, error } = (answer!.body as Extract<Body, { $case: 'inspectReply' }>).value;
    return error === '' ? JSON.parse(json) : error;
  }

  #take(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.do !== 'send') continue;
      const { envelope } = effect;
      if (envelope.inReplyTo !== 0) {
        this.#replies.set(envelope.inReplyTo, { body: envelope.body, refused: envelope.refused });
      } else this.outbox.push({ to: effect.to, id: envelope.id, body: envelope.body! });
    }
  }
}
