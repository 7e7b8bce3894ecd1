/** `culvert inspect`: what a service of a running host holds now, as a tree. */
import { body, type Peer, peerOf } from '#shared/core/core.ts';
import { call, type Op } from '#shared/core/op.ts';
import { asOperator, findTarget, UsageError } from './session.ts';

export interface InspectOptions {
  readonly url?: string;
  readonly creds?: string;
  readonly json?: boolean;
}

/** Prints the part of `service`'s tree at `path` (dots between its steps; all of it when empty). */
export async function inspect(service: string, path: string, options: InspectOptions): Promise<number> {
  const json = await asOperator(findTarget(options), function* () {
    const peer = yield* peerNamed(service);
    const reply = yield* call(peer, body('inspectRequest', { path }), 'inspectReply');
    if (reply.error !== '') throw new UsageError(reply.error);
    return reply.json;
  });
  const tree: unknown = JSON.parse(json);
  process.stdout.write(options.json === true ? `${JSON.stringify(tree, null, 2)}\n` : formatTree(tree));
  return 0;
}

/** `hardware`, `xen`, `xenstored`, `dom0`, or a domain by name or number. */
function* peerNamed(service: string): Op<Peer> {
  if (service === 'hardware' || service === 'xen' || service === 'xenstored') return service;
  if (service === 'dom0') return 'd0';
  const { domains } = yield* call('d0', body('listDomainsRequest', {}), 'toolstackReply');
  const found = domains.find((d) => d.name === service || String(d.domid) === service || `d${d.domid}` === service);
  if (found === undefined)
    throw new UsageError(`there is no service or domain "${service}": hardware, xen, xenstored, dom0 or a domain`);
  return peerOf(found.domid);
}

/** Names of members that hold an address, or bits of a register. */
const HEXADECIMAL =
  /^(pa|ipa|iova|base|end|root|baddr|ttb|address|vtcr|ap1r0|cr0|pendingTable|configurationTable)$|(Pa|Ipa|Base)$/;

/** A tree as indented lines, one value a line; arrays of plain values on one line. */
export function formatTree(tree: unknown): string {
  if (!isBranch(tree)) return `${formatLeaf('', tree)}\n`;
  const lines: string[] = [];
  addLines(lines, tree, '');
  return lines.length === 0 ? '(nothing)\n' : `${lines.join('\n')}\n`;
}

function addLines(lines: string[], branch: object, indent: string): void {
  for (const [key, value] of Object.entries(branch)) {
    if (!isBranch(value)) lines.push(`${indent}${key}: ${formatLeaf(key, value)}`);
    else if (Array.isArray(value) && value.every((item) => !isBranch(item))) {
      lines.push(`${indent}${key}: ${value.length === 0 ? '-' : value.map((item) => formatLeaf(key, item)).join(' ')}`);
    } else if (isRow(value)) lines.push(`${indent}${key}: ${formatRow(value)}`);
    else if (Object.keys(value).length === 0) lines.push(`${indent}${key}: -`);
    else {
      lines.push(`${indent}${key}`);
      addLines(lines, value, `${indent}  `);
    }
  }
}

/** A small object of plain values goes on one line. */
function isRow(branch: object): boolean {
  const values = Object.values(branch);
  return !Array.isArray(branch) && values.length > 0 && values.length <= 8 && values.every((value) => !isBranch(value));
}

function formatRow(branch: object): string {
  return Object.entries(branch)
    .map(([key, value]) => `${key}=${formatLeaf(key, value)}`)
    .join(' ');
}

function formatLeaf(key: string, value: unknown): string {
  if (typeof value === 'number' && HEXADECIMAL.test(key)) return `0x${value.toString(16)}`;
  return value === '' ? '""' : String(value);
}

function isBranch(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
