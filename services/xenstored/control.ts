/**
 * CONTROL: what an administrator asks the daemon itself (control.c of xenstored); replies read as xenstored's do.
 * Not modelled: live-update, logfile, memreport; software sees EINVAL. `log` goes to the service's own trace.
 */
import { packStrings, stringsOf } from '#shared/abi/xs-wire.ts';
import type { Domain } from './domain.ts';
import { XsError } from './error.ts';
import { QUOTA_KINDS, quotaNamed } from './quota.ts';
import { type Daemon, integerOf, OK, type RequestContext } from './request-context.ts';

type Command = readonly [parameters: string, run: (daemon: Daemon, args: readonly string[]) => Uint8Array];

const COMMANDS: Readonly<Record<string, Command>> = {
  check: ['', check],
  log: ['on|off', log],
  print: ['<string>', print],
  quota: ['[set <name> <val>|<domid>]', quota],
  'quota-soft': ['[set <name> <val>]', quotaSoft],
  help: ['', help],
};

export function onControl({ daemon, payload }: RequestContext): Uint8Array {
  const [name = '', ...args] = stringsOf(payload);
  if (!Object.hasOwn(COMMANDS, name)) throw new XsError('EINVAL');
  return COMMANDS[name]![1](daemon, args);
}

function check(daemon: Daemon, args: readonly string[]): Uint8Array {
  if (args.length > 0) throw new XsError('EINVAL');
  for (const line of daemon.store.check()) daemon.print(line);
  return OK;
}

function log(daemon: Daemon, [how, ...more]: readonly string[]): Uint8Array {
  if ((how !== 'on' && how !== 'off') || more.length > 0) throw new XsError('EINVAL');
  daemon.logging = how === 'on';
  return OK;
}

function print(daemon: Daemon, [text, ...more]: readonly string[]): Uint8Array {
  if (text === undefined || more.length > 0) throw new XsError('EINVAL');
  daemon.print(text);
  return OK;
}

function help(_daemon: Daemon, args: readonly string[]): Uint8Array {
  if (args.length > 0) throw new XsError('EINVAL');
  return packStrings(
    Object.entries(COMMANDS)
      .map(([name, [parameters]]) => `${name}\t${parameters}\n`)
      .join(''),
  );
}

function quota(daemon: Daemon, args: readonly string[]): Uint8Array {
  if (args.length === 0) return quotaTable(daemon, false);
  if (args[0] === 'set') return setQuota(daemon, args, '');
  if (args.length > 1) throw new XsError('EINVAL');
  const domid = integerOf(args[0]!);
  const domain = daemon.domains.get(domid);
  if (domain === undefined) throw new XsError('ENOENT');
  return packStrings(usage(daemon, domain));
}

function quotaSoft(daemon: Daemon, args: readonly string[]): Uint8Array {
  if (args.length === 0) return quotaTable(daemon, true);
  if (args[0] === 'set') return setQuota(daemon, args, 'soft-');
  throw new XsError('EINVAL');
}

/** A limit for all, those that are known included: this is older than limits by domain. */
function setQuota(daemon: Daemon, args: readonly string[], prefix: string): Uint8Array {
  const [, name, value, ...more] = args;
  if (name === undefined || value === undefined || more.length > 0) throw new XsError('EINVAL');
  const kind = quotaNamed(`${prefix}${name}`);
  const limit = integerOf(value);
  if (kind === undefined || (prefix === '') !== (kind !== 'memorySoft') || limit < 1) throw new XsError('EINVAL');
  daemon.domains.limits[kind] = limit;
  daemon.noteLimits();
  for (const domain of daemon.domains.all()) {
    domain.limits[kind] = limit;
    daemon.noteDomain(domain.domid);
  }
  return OK;
}

function quotaTable(daemon: Daemon, soft: boolean): Uint8Array {
  const lines = QUOTA_KINDS.filter(([kind]) => (kind === 'memorySoft') === soft).map(([kind, { name, text }]) => {
    const limit = `${daemon.domains.limits[kind]}`.padStart(8);
    return `${name.replace('soft-', '').padEnd(17)}: ${limit} ${text}\n`;
  });
  return packStrings(`Quota settings:\n${lines.join('')}`);
}

function usage(daemon: Daemon, domain: Domain): string {
  const { domid } = domain;
  const rows = [
    ['nodes', daemon.store.owned(domid)],
    ['watches', domain.privileged ? 0 : domain.watches],
    ['transactions', domain.privileged ? 0 : domain.transactions],
    ['outstanding', domain.outstanding],
    ['memory', daemon.store.memory(domid) + domain.bytes],
  ] as const;
  return `Domain ${domid}:\n${rows.map(([name, count]) => `${name.padEnd(16)}: ${`${count}`.padStart(8)}\n`).join('')}`;
}
