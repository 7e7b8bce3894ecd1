/** A host in containers for tests: docker compose with a project, a port and a credentials folder of its own. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { getContainerRuntimeClient } from 'testcontainers';
import { body, type Peer } from '#shared/core/core.ts';
import { call } from '#shared/core/op.ts';
import { asOperator } from '#tools/culvert/session.ts';

const run = promisify(execFile);
const ROOT = resolve(import.meta.dirname, '../..');
const OUTPUT_MAX = 16 * 1024 * 1024;

export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class ComposedHost {
  readonly #dir = mkdtempSync(join(tmpdir(), 'culvert-compose-'));
  readonly #project = `culvert-test-${process.pid}`;
  #url = '';

  get credsFile(): string {
    return join(this.#dir, 'operator.creds');
  }

  get url(): string {
    return this.#url;
  }

  get #env(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      COMPOSE_PROJECT_NAME: this.#project,
      CULVERT_COMPOSE_DIR: this.#dir,
      CULVERT_NATS_PORT: '0',
    };
  }

  /** docker compose WORDS; throws with what it printed where it fails. */
  async compose(...words: string[]): Promise<string> {
    const { stdout } = await run('docker', ['compose', ...words], { cwd: ROOT, env: this.#env, maxBuffer: OUTPUT_MAX });
    return stdout;
  }

  /** The command of the README; where it fails, the error holds what the containers wrote. */
  async up(): Promise<void> {
    await this.compose('build');
    try {
      await this.compose('up', '--wait');
    } catch (error) {
      const logs = await this.compose('logs', '--no-color', '--tail', '20').catch(String);
      throw new Error(`docker compose up --wait failed:\n${(error as { stderr?: string }).stderr}\n${logs}`);
    }
    this.#url = `nats://${(await this.compose('port', 'nats', '4222')).trim()}`;
  }

  async down(): Promise<void> {
    await this.compose('down', '--volumes', '--timeout', '3');
    rmSync(this.#dir, { recursive: true, force: true });
  }

  /** npx culvert --url ... WORDS, from outside of the containers. */
  async culvert(...words: string[]): Promise<CommandResult> {
    const given = ['--no-install', 'culvert', '--url', this.#url, '--creds', this.credsFile, ...words];
    try {
      const { stdout, stderr } = await run('npx', given, { cwd: ROOT, env: this.#env, maxBuffer: OUTPUT_MAX });
      return { status: 0, stdout, stderr };
    } catch (error) {
      const failed = error as { code?: number; stdout: string; stderr: string };
      if (typeof failed.code !== 'number') throw error;
      return { status: failed.code, stdout: failed.stdout, stderr: failed.stderr };
    }
  }

  /** The same, for a command that has to work. Returns what it printed. */
  async must(...words: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.culvert(...words);
    if (status !== 0) throw new Error(`culvert ${words.join(' ')}: status ${status}\n${stdout}${stderr}`);
    return stdout;
  }

  /** Part of what a service says of itself, asked as the operator. */
  async inspect(peer: Peer, path: string): Promise<unknown> {
    const target = { url: this.#url, creds: readFileSync(this.credsFile, 'utf8') };
    const reply = await asOperator(target, () => call(peer, body('inspectRequest', { path }), 'inspectReply'));
    if (reply.error !== '') throw new Error(reply.error);
    return JSON.parse(reply.json) as unknown;
  }

  async containers(service: string): Promise<string[]> {
    return (await this.compose('ps', '--quiet', service)).trim().split('\n');
  }

  /** The id of the container whose process is domain `domid`: its log lines carry the name `dN`. */
  async containerOf(domid: number): Promise<string> {
    for (const id of await this.containers('domu')) {
      const { stdout, stderr } = await run('docker', ['logs', id], { env: this.#env, maxBuffer: OUTPUT_MAX });
      if (`${stdout}${stderr}`.includes(`"name":"d${domid}"`)) return id;
    }
    throw new Error(`no container is domain ${domid}`);
  }

  async kill(id: string): Promise<void> {
    const { container } = await getContainerRuntimeClient();
    await container.dockerode.getContainer(id).kill({ signal: 'SIGKILL' });
  }

  /** How often the engine has started it again. */
  async restarts(id: string): Promise<number> {
    const { container } = await getContainerRuntimeClient();
    return (await container.dockerode.getContainer(id).inspect()).RestartCount;
  }

  async start(id: string): Promise<void> {
    const { container } = await getContainerRuntimeClient();
    await container.dockerode.getContainer(id).start();
  }

  /** What lies in /keys of the service's container. */
  async keysIn(service: string): Promise<string[]> {
    return (await this.compose('exec', '-T', service, 'ls', '/keys')).trim().split('\n');
  }
}
