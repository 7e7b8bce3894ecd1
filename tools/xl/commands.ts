/**
 * xl: a table of subcommands, each from arguments to a toolstack request and from its answer to what xl prints
 * (xl_cmdtable.c, xl_pci.c, xl_vmcontrol.c; texts as seen from xl 4.17).
 */
import type { ToolstackReply } from '#gen/toolstack.ts';
import { type Body, body } from '#shared/core/core.ts';
import { call, type Op } from '#shared/core/op.ts';
import { parseDomainConfig } from './domain-config.ts';
import { EMPTY_SPEC, MalformedSpec, parseBdfArgument, parsePciSpec } from './pci-spec.ts';
import { printAssignable, printList, printLog, printPciList } from './print.ts';

export interface XlResult {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What a file says, or strerror of why it cannot be read. */
export type ConfigText = { readonly text: string } | { readonly error: string };

export interface XlEnvironment {
  readFile(path: string): ConfigText;
}

/** Creation and attach wait for a guest; they end within this. */
const TOOLSTACK_DEADLINE_NS = 60e9;

interface Command {
  readonly usage: string;
  readonly description: string;
  /** Letters of the global options it honours, as in its usage line. */
  readonly globals: string;
  /** Options without a value, and those with one (long names map to the letter). */
  readonly flags: string;
  readonly valued?: string;
  readonly long?: Readonly<Record<string, string>>;
  readonly options?: readonly string[];
  readonly minArgs: number;
  run(args: readonly string[], options: ReadonlyMap<string, string>, env: XlEnvironment): Op<XlResult>;
}

/** uint32_t */
const DOMID_MAX = 0xffff_ffff;

/** ERROR_FAIL and ERROR_INVAL: `xl create` ends with libxl's number. */
const RC_FAIL = 3;
const RC_INVAL = 6;
const OK: XlResult = { exit: 0, stdout: '', stderr: '' };

function* ask(request: Body): Op<ToolstackReply> {
  return yield* call('d0', request, 'toolstackReply', { deadlineNs: TOOLSTACK_DEADLINE_NS });
}

function silent(reply: ToolstackReply): XlResult {
  return { exit: reply.rc === 0 ? 0 : 1, stdout: '', stderr: printLog(reply.log) };
}

/** A domain argument: a number is taken as it is. */
function* domidOf(name: string): Op<number | XlResult> {
  if (/^\d+$/.test(name) && Number(name) <= DOMID_MAX) return Number(name);
  const { domains } = yield* ask(body('listDomainsRequest', {}));
  const found = domains.find((d) => d.name === name);
  return found?.domid ?? { exit: 1, stdout: '', stderr: `${name} is an invalid domain identifier (rc=-6)\n` };
}

function fails(exit: number, stderr: string): XlResult {
  return { exit, stdout: '', stderr };
}

/** Runs `then` with the domain's number, or ends with xl's complaint about the name. */
function* withDomain(name: string, then: (domid: number) => Op<XlResult>): Op<XlResult> {
  const domid = yield* domidOf(name);
  return typeof domid === 'number' ? yield* then(domid) : domid;
}

function malformed(command: string, kind: string, error: unknown, quotes = '""'): XlResult {
  if (!(error instanceof MalformedSpec)) throw error;
  const first = error.unknownOption === undefined ? '' : `Unknown PCI_SPEC_STRING option: ${error.unknownOption}`;
  return {
    exit: 2,
    stdout: '',
    stderr: `${first}${command}: malformed ${kind} ${quotes[0]}${error.message}${quotes[1]}\n`,
  };
}

const pause = (unpause: boolean): Pick<Command, 'run'> => ({
  run: (args) =>
    withDomain(args[0]!, function* (domid) {
      return silent(yield* ask(body('pauseDomainRequest', { domid, unpause })));
    }),
});

const COMMANDS: Readonly<Record<string, Command>> = {
  create: {
    usage: '<ConfigFile> [options] [vars]',
    description: 'Create a domain from config file <filename>.',
    globals: 'vfN',
    flags: 'hpnqd',
    valued: 'f',
    options: [
      '-h                      Print this help.',
      '-p                      Leave the domain paused after it is created.',
      '-f FILE, --defconfig=FILE\n                        Use the given configuration file.',
      '-n, --dryrun            Dry run - prints the resulting configuration.',
      '-q, --quiet             Quiet.',
      '-d                      Enable debug messages.',
    ],
    long: { defconfig: 'f', dryrun: 'n', quiet: 'q' },
    minArgs: 0,
    *run(args, options, env) {
      const file = options.get('f') ?? args.find((a) => !a.includes('='));
      if (file === undefined) return fails(RC_INVAL, 'Config file not specified and none in save file\n');
      const read = env.readFile(file);
      if ('error' in read) return fails(RC_FAIL, `Failed to read config file: ${file}: ${read.error}\n`);
      const parsed = parseDomainConfig(
        file,
        read.text,
        args.filter((a) => a.includes('=')),
      );
      const preface = options.has('q') ? '' : `Parsing config from ${file}\n`;
      const stderr = preface + parsed.messages.map((m) => `${m}\n`).join('');
      if (parsed.config === undefined) return fails(parsed.exit, stderr);
      const json = `${JSON.stringify(parsed.json, undefined, 4)}\n`;
      if (options.has('n') || options.has('N')) return { exit: 0, stdout: json, stderr };
      const reply = yield* ask(body('createDomainRequest', { config: parsed.config, paused: options.has('p') }));
      const debug = options.has('d') ? json : '';
      return { exit: Math.abs(reply.rc), stdout: '', stderr: stderr + debug + printLog(reply.log) };
    },
  },
  list: {
    usage: '[options] [Domain]\n',
    description: 'List information about all/some domains.',
    globals: 'v',
    flags: 'hlv',
    long: { long: 'l', verbose: 'v' },
    options: [
      '-l, --long              Output all VM details',
      '-v, --verbose           Prints out UUIDs and security context',
    ],
    minArgs: 0,
    *run(args, options) {
      if (args.length > 1) return { exit: 1, stdout: '', stderr: usageOf('list') };
      const { domains } = yield* ask(body('listDomainsRequest', {}));
      let shown = domains;
      const [name] = args;
      if (name !== undefined) {
        const domid = yield* domidOf(name);
        if (typeof domid !== 'number') return domid;
        shown = domains.filter((d) => d.domid === domid);
        if (shown.length === 0) return { exit: 1, stdout: '', stderr: `Error: Domain '${name}' does not exist.\n` };
      }
      if (options.has('l')) {
        const long = shown.map((d) => ({ domid: d.domid, config: { c_info: { name: d.name, uuid: d.uuid } } }));
        return { ...OK, stdout: `${JSON.stringify(long, undefined, 4)}\n` };
      }
      return { ...OK, stdout: printList(shown, options.has('v')) };
    },
  },
  destroy: {
    usage: '<Domain>\n',
    description: 'Terminate a domain immediately.',
    globals: 'vf',
    flags: 'hf',
    minArgs: 1,
    run: (args, options) =>
      withDomain(args[0]!, function* (domid) {
        if (domid === 0 && !options.has('f')) {
          const why =
            'Not destroying domain 0; use -f to force.\nThis can only be done when using a disaggregated controller domain and toolstack.\n';
          return { exit: 1, stdout: '', stderr: why };
        }
        return silent(yield* ask(body('destroyDomainRequest', { domid })));
      }),
  },
  pause: {
    usage: '<Domain>',
    description: 'Pause execution of a domain.',
    globals: 'v',
    flags: 'h',
    minArgs: 1,
    ...pause(false),
  },
  unpause: {
    usage: '<Domain>',
    description: 'Unpause a paused domain.',
    globals: 'v',
    flags: 'h',
    minArgs: 1,
    ...pause(true),
  },
  'pci-attach': {
    usage: '<Domain> <PCI_SPEC_STRING>',
    description: 'Insert a new pass-through pci device.',
    globals: 'vf',
    flags: 'h',
    minArgs: 2,
    run: (args) =>
      withDomain(args[0]!, function* (domid) {
        try {
          const spec = parsePciSpec(args[1]!);
          return silent(yield* ask(body('pciAttachRequest', { domid, spec })));
        } catch (error) {
          return malformed('pci-attach', 'PCI_SPEC_STRING', error);
        }
      }),
  },
  'pci-detach': {
    usage: '<Domain> <PCI_SPEC_STRING>',
    description: "Remove a domain's pass-through pci device.",
    globals: 'vf',
    flags: 'hf',
    minArgs: 2,
    run: (args, options) =>
      withDomain(args[0]!, function* (domid) {
        try {
          const spec = parsePciSpec(args[1]!);
          return silent(yield* ask(body('pciDetachRequest', { domid, spec, force: options.has('f') })));
        } catch (error) {
          return malformed('pci-detach', 'PCI_SPEC_STRING', error);
        }
      }),
  },
  'pci-list': {
    usage: '<Domain>',
    description: 'List pass-through pci devices for a domain.',
    globals: 'v',
    flags: 'h',
    minArgs: 1,
    run: (args) =>
      withDomain(args[0]!, function* (domid) {
        const reply = yield* ask(body('pciListRequest', { domid }));
        return { ...silent(reply), stdout: printPciList(reply.pci) };
      }),
  },
  'pci-assignable-add': {
    usage: '[options] <BDF>',
    description: 'Make a device assignable for pci-passthru.',
    globals: 'v',
    flags: 'h',
    valued: 'n',
    long: { name: 'n' },
    options: ['-n NAME, --name=NAME    Name the assignable device.'],
    minArgs: 1,
    *run(args, options) {
      try {
        const spec = parseBdfArgument(args[0]!);
        const request = { spec, name: options.get('n') ?? '' };
        return silent(yield* ask(body('pciAssignableAddRequest', request)));
      } catch (error) {
        return malformed('pci-assignable-add', 'BDF', error);
      }
    },
  },
  'pci-assignable-remove': {
    usage: '[options] <BDF>|NAME',
    description: 'Remove a device from being assignable.',
    globals: 'v',
    flags: 'hr',
    options: ['-r                      Attempt to re-assign the device to the original driver'],
    minArgs: 1,
    *run(args, options) {
      const [what] = args as [string];
      const rebind = options.has('r');
      const { pci } = yield* ask(body('pciAssignableListRequest', {}));
      if (pci.some((entry) => entry.name !== '' && entry.name === what)) {
        return silent(yield* ask(body('pciAssignableRemoveRequest', { spec: EMPTY_SPEC, name: what, rebind })));
      }
      try {
        const spec = parseBdfArgument(what);
        return silent(yield* ask(body('pciAssignableRemoveRequest', { spec, name: '', rebind })));
      } catch (error) {
        return malformed('pci-assignable-remove', 'BDF', error, "''");
      }
    },
  },
  'pci-assignable-list': {
    usage: '[options]',
    description: 'List all the assignable pci devices',
    globals: 'v',
    flags: 'hn',
    long: { 'show-names': 'n' },
    options: ['-n, --show-names        Display assignable device names where supplied.'],
    minArgs: 0,
    *run(_args, options) {
      const reply = yield* ask(body('pciAssignableListRequest', {}));
      return { ...silent(reply), stdout: printAssignable(reply.pci, options.has('n')) };
    },
  },
  domid: {
    usage: '<DomainName>',
    description: 'Convert a domain name to domain id.',
    globals: 'v',
    flags: 'h',
    minArgs: 1,
    *run(args) {
      const { domains } = yield* ask(body('listDomainsRequest', {}));
      const found = domains.find((d) => d.name === args[0]);
      if (found !== undefined) return { ...OK, stdout: `${found.domid}\n` };
      const why = `Can't get domid of domain name '${args[0]}', maybe this domain does not exist.\n`;
      return { exit: 1, stdout: '', stderr: why };
    },
  },
  domname: {
    usage: '<DomainId>',
    description: 'Convert a domain id to domain name.',
    globals: 'v',
    flags: 'h',
    minArgs: 1,
    *run(args) {
      const { domains } = yield* ask(body('listDomainsRequest', {}));
      const found = domains.find((d) => String(d.domid) === args[0]);
      if (found !== undefined) return { ...OK, stdout: `${found.name}\n` };
      const why = `Can't get domain name of domain id '${args[0]}', maybe this domain does not exist.\n`;
      return { exit: 1, stdout: '', stderr: why };
    },
  },
};

function usageOf(name: string): string {
  const command = COMMANDS[name]!;
  const brackets = ['f', 'N'].filter((letter) => command.globals.includes(letter));
  const options = command.options === undefined ? '' : `Options:\n\n${command.options.join('\n')}\n`;
  return `Usage: xl [-vtT${brackets.join('')}] ${name} ${command.usage}\n\n${command.description}\n\n${options}`;
}

/** The whole list, as `xl help` prints it. */
function helpText(): string {
  const rows = Object.entries(COMMANDS).map(([name, command]) => ` ${name.padEnd(20)} ${command.description}\n`);
  return `Usage xl [-vfNtT] <subcommand> [args]\n\nxl full list of subcommands:\n\n${rows.join('')}`;
}

/** A subcommand by its name or an unambiguous prefix of it. */
function lookUp(word: string): string | undefined {
  if (Object.hasOwn(COMMANDS, word)) return word;
  const matching = Object.keys(COMMANDS).filter((name) => name.startsWith(word));
  return matching.length === 1 ? matching[0] : undefined;
}

/** The letter of a long option; ? for one that there is not. */
function longOption({ long = {} }: Command, name: string): string {
  if (name === 'help') return 'h';
  return Object.hasOwn(long, name) ? long[name]! : '?';
}

/** Runs one xl command line (without the word `xl`). Never throws for what a user typed. */
export function* xl(argv: readonly string[], env: XlEnvironment): Op<XlResult> {
  const globals = new Set<string>();
  let i = 0;
  for (; i < argv.length && argv[i]!.startsWith('-'); i++) {
    for (const letter of argv[i]!.slice(1)) {
      if (!'vfNtT'.includes(letter)) return { exit: 1, stdout: '', stderr: 'unknown global option\n' };
      globals.add(letter);
    }
  }
  const word = argv[i];
  if (word === undefined) return { exit: 1, stdout: helpText(), stderr: '' };
  if (word === 'help') {
    const about = argv[i + 1];
    if (about === undefined) return { ...OK, stdout: helpText() };
    const name = lookUp(about);
    return { ...OK, stdout: name === undefined ? `command "${about}" not implemented\n` : usageOf(name) };
  }
  const name = lookUp(word);
  if (name === undefined) return { exit: 1, stdout: '', stderr: 'command not implemented\n' };
  const command = COMMANDS[name]!;
  if (globals.has('N') && !command.globals.includes('N')) {
    return { exit: 1, stdout: '', stderr: 'command does not implement -N (dryrun) option\n' };
  }
  // -v, -t and -T are about messages of the library, and no option of the subcommand.
  const options = new Map<string, string>(
    ['f', 'N'].filter((letter) => globals.has(letter)).map((letter) => [letter, '']),
  );
  const args: string[] = [];
  for (let at = i + 1; at < argv.length; at++) {
    const arg = argv[at]!;
    if (arg === '--') {
      args.push(...argv.slice(at + 1));
      break;
    }
    if (!arg.startsWith('-') || arg === '-') {
      args.push(arg);
      continue;
    }
    const long = /^--([^=]+)(?:=(.*))?$/.exec(arg);
    const letters = long === null ? arg.slice(1) : longOption(command, long[1]!);
    for (let k = 0; k < letters.length; k++) {
      const letter = letters[k]!;
      if (command.valued?.includes(letter)) {
        const value = long?.[2] ?? (letters.slice(k + 1) || argv[++at]);
        if (value === undefined) return { exit: 2, stdout: '', stderr: `option \`${letter}' requires an argument.\n` };
        options.set(letter, value);
        break;
      }
      if (!command.flags.includes(letter)) {
        return { exit: 2, stdout: '', stderr: `option \`${long?.[1] ?? letter}' not supported.\n` };
      }
      options.set(letter, '');
    }
  }
  if (options.has('h')) return { ...OK, stdout: usageOf(name) };
  if (args.length < command.minArgs) {
    const count = command.minArgs === 1 ? '1 argument' : `${command.minArgs} arguments`;
    const stderr = `'xl ${name}' requires at least ${count}.\n\n${usageOf(name)}`;
    return { exit: 2, stdout: '', stderr };
  }
  return yield* command.run(args, options, env);
}
