/**
 * `culvert listen`: every message on the bus as it passes, decoded from the .proto files at run time, so that it also
 * shows what this version's generated code does not know. Its credential may hear everything and say nothing.
 */
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import protobuf from 'protobufjs';
import { Bus } from '#shared/bus/nats.ts';
import { INTERFACE_OF, parseSubject, SUBJECT_ROOT } from '#shared/bus/subjects.ts';
import type { Peer } from '#shared/core/core.ts';
import { readText } from '#shared/yaml/files.ts';
import { credsFileOf, UsageError } from './session.ts';

export interface ListenOptions {
  readonly url?: string;
  readonly creds?: string;
  /** Only messages of or to this peer. */
  readonly peer?: string;
  /** Only this interface: cpu, hypercall, store, ... */
  readonly interface?: string;
  readonly json?: boolean;
  /** End after so many. */
  readonly count?: number;
}

const PROTO = resolve(import.meta.dirname, '../../proto/bus.proto');
const BYTES_SHOWN = 24;
const CONNECT_WAIT_MS = 3000;
/** Who speaks on the bus, beside the domains. */
const PEERS: readonly Peer[] = ['hardware', 'xen', 'xenstored', 'operator', 'vacant', 'keys'];
const INTERFACES: ReadonlySet<string> = new Set(Object.values(INTERFACE_OF).filter((name) => name !== 'local'));

/** A name for --peer as subjects have it. Throws UsageError for one that nobody can have. */
function peerOption(name: string): string {
  if (name === 'dom0') return 'd0';
  if (/^d\d+$/.test(name) || PEERS.some((peer) => peer === name)) return name;
  throw new UsageError(
    `--peer ${name}: nobody on the bus is called so: ${PEERS.join(', ')}, dom0 or d1, d2, ... was expected`,
  );
}

export async function listen(options: ListenOptions): Promise<number> {
  const peer = options.peer === undefined ? undefined : peerOption(options.peer);
  if (options.interface !== undefined && !INTERFACES.has(options.interface))
    throw new UsageError(`--interface ${options.interface}: one of ${[...INTERFACES].join(', ')} was expected`);
  const { url, creds: operator } = credsFileOf(options);
  const file = join(dirname(operator), 'observer.creds');
  if (!existsSync(file)) throw new UsageError(`no observer credential at ${file}`);
  const root = new protobuf.Root();
  root.resolvePath = (_from, to) => join(dirname(PROTO), to.split('/').at(-1) ?? to);
  const envelope = (await root.load(PROTO)).lookupType('culvert.Envelope');
  const bus = await Bus.connect({
    url,
    creds: readText(file),
    name: 'observer',
    waitMs: CONNECT_WAIT_MS,
    onStatus: () => undefined,
  });
  const started = performance.now();
  let left = options.count ?? Infinity;
  let finish: () => void = () => undefined;
  const finished = new Promise<void>((done) => {
    finish = done;
  });
  process.once('SIGINT', finish);
  process.once('SIGTERM', finish);
  bus.subscribe(`${SUBJECT_ROOT}.>`, ({ subject, data }) => {
    const parsed = parseSubject(subject);
    if (parsed === undefined || left <= 0) return;
    if (peer !== undefined && peer !== parsed.to && peer !== parsed.from) return;
    if (options.interface !== undefined && options.interface !== parsed.iface) return;
    const message = envelope.toObject(envelope.decode(data), { longs: Number, enums: String, oneofs: true });
    const kind = String(message['body'] ?? `refused: ${String(message['refused'] ?? '')}`);
    const ms = (performance.now() - started).toFixed(1);
    const content = JSON.stringify(message[kind] ?? {}, shortBytes);
    const line =
      options.json === true
        ? JSON.stringify(
            {
              ms: Number(ms),
              ...parsed,
              id: message['id'],
              inReplyTo: message['inReplyTo'] ?? 0,
              kind,
              content: message[kind],
            },
            shortBytes,
          )
        : `${ms.padStart(10)} ${parsed.from} > ${parsed.to} ${parsed.iface} ${kind} ${content}`;
    process.stdout.write(`${line}\n`);
    left--;
    if (left <= 0) finish();
  });
  await bus.flush();
  await finished;
  await bus.close();
  return 0;
}

/** Bytes as hexadecimal, long ones cut. */
function shortBytes(_key: string, value: unknown): unknown {
  const bytes = value as { type?: unknown; data?: unknown };
  if (typeof value !== 'object' || value === null || bytes.type !== 'Buffer' || !Array.isArray(bytes.data))
    return value;
  const hex = Buffer.from(bytes.data.slice(0, BYTES_SHOWN) as number[]).toString('hex');
  return bytes.data.length > BYTES_SHOWN ? `${hex}... (${bytes.data.length} bytes)` : hex;
}
