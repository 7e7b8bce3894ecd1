/** A host that `culvert up` started in a place of its own, with what a test needs to work on it as its operator. */
import { cpSync, readFileSync } from 'node:fs';
import { body, type Peer, peerOf } from '#shared/core/core.ts';
import { call } from '#shared/core/op.ts';
import { asOperator, type Target } from '#tools/culvert/session.ts';
import { EXAMPLES, Workplace } from './culvert.ts';

const COMMAND_NS = 60e9;
const POLL_MS = 50;
const BOOT_MS = 20_000;

export class HostUp {
  readonly place = new Workplace();
  #target: Target | undefined;

  /** Starts it, with both functions of the example guests in the pool; on a board of its own when one is given. */
  async start(board?: string, functions: readonly string[] = ['0000:01:00.0', '0000:02:00.0']): Promise<void> {
    cpSync(`${EXAMPLES}/guests`, this.place.path('.'), { recursive: true });
    await this.must('up', ...(board === undefined ? [] : ['--board', board]));
    const { url, creds } = JSON.parse(readFileSync(this.place.path('.culvert/host/host.json'), 'utf8')) as Target;
    this.#target = { url, creds: readFileSync(creds, 'utf8') };
    for (const bdf of functions) await this.must('xl', 'pci-assignable-add', bdf);
  }

  async stop(): Promise<void> {
    await this.place.culvert(['down']);
    this.place.remove();
  }

  get url(): string {
    return this.#target!.url;
  }

  /** Runs a command that has to succeed. */
  async must(...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.place.culvert(args);
    if (status !== 0) throw new Error(`culvert ${args.join(' ')} ended with ${status}: ${stderr}`);
    return stdout;
  }

  /** Creates one of the example guests and waits until its driver has its function; gives the domid. */
  async create(name: string): Promise<number> {
    await this.must('xl', 'create', `${name}.cfg`);
    const domid = (await this.domids()).get(name)!;
    const end = performance.now() + BOOT_MS;
    for (;;) {
      const devices = (await this.inspect(peerOf(domid), 'devices').catch(() => [])) as { driver: string }[];
      if (devices.some((device) => device.driver !== '')) return domid;
      if (performance.now() > end) throw new Error(`${name} has no driver for its function`);
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
  }

  async domids(): Promise<Map<string, number>> {
    const reply = await asOperator(this.#target!, () => call('d0', body('listDomainsRequest', {}), 'toolstackReply'));
    return new Map(reply.domains.map((d) => [d.name, d.domid]));
  }

  async inspect(peer: Peer, path: string): Promise<unknown> {
    const reply = await asOperator(this.#target!, () => call(peer, body('inspectRequest', { path }), 'inspectReply'));
    if (reply.error !== '') throw new Error(reply.error);
    return JSON.parse(reply.json);
  }

  async guest(domid: number, command: string, args: object, deadlineNs = COMMAND_NS): Promise<Record<string, unknown>> {
    const request = body('guestCommandRequest', { command, args: JSON.stringify(args) });
    const options = { deadlineNs };
    const reply = await asOperator(this.#target!, () => call(peerOf(domid), request, 'guestCommandReply', options));
    if (reply.error !== '') throw new Error(reply.error);
    return JSON.parse(reply.result) as Record<string, unknown>;
  }

  /** The text of a domain's credential, as only its own process has it. */
  credsOf(domid: number): string {
    return readFileSync(this.place.path(`.culvert/host/creds/d${domid}.creds`), 'utf8');
  }

  /** The process of a domain. */
  pidOf(domid: number): number {
    return this.#pidAfter(`started a process for domain ${domid}`);
  }

  get hardwarePid(): number {
    return this.#pidAfter('started hardware');
  }

  #pidAfter(words: string): number {
    const log = readFileSync(this.place.path('.culvert/host/supervisor.log'), 'utf8');
    return Number(new RegExp(`${words} \\(pid (\\d+)\\)`).exec(log)![1]);
  }
}
