/** The command `culvert`. Exit status: 0 done; 1 failed, with one line that says why; 2 wrong command line. */
import { resolve } from 'node:path';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import type { Op } from '#shared/core/op.ts';
import { fileProblem } from '#shared/yaml/files.ts';
import { writeHostKeys } from '../host/keys.ts';
import { type SimOptions, sim } from '../sim/seeds.ts';
import { type XlResult, xl } from '../xl/commands.ts';
import { readConfig } from '../xl/read-config.ts';
import { type BoardOptions, board } from './board.ts';
import { inspect } from './inspect.ts';
import { type ListenOptions, listen } from './listen.ts';
import { lspci } from './lspci.ts';
import { replay } from './replay.ts';
import { replayXenstore } from './replay-xenstore.ts';
import { type RunOptions, run } from './run.ts';
import { asOperator, findTarget } from './session.ts';
import { down, host, status, up } from './up.ts';

const DEFAULT_BOARD = resolve(import.meta.dirname, '../../examples/boards/qemu-virt.yaml');

function wholeNumber(text: string): number {
  const n = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(n)) throw new InvalidArgumentError('a whole number was expected');
  return n;
}

function countNumber(text: string): number {
  const n = wholeNumber(text);
  if (n === 0) throw new InvalidArgumentError('a number from 1 was expected');
  return n;
}

function folderName(text: string): string {
  if (text === '') throw new InvalidArgumentError('the name of a folder was expected');
  return text;
}

/** Of an option that may be given more than once, or once with commas. */
function collect(text: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), ...text.split(',')];
}

function portNumber(text: string): number {
  const n = wholeNumber(text);
  if (n < 1 || n > 65535) throw new InvalidArgumentError('a port from 1 to 65535 was expected');
  return n;
}

/** A command line that asks for what does not go together. */
function refuse(why: string): never {
  return program.error(why);
}

/** Commands that ask a host which may be another one. */
const ASK_A_HOST: ReadonlySet<string> = new Set(['run', 'status', 'xl', 'lspci', 'inspect', 'listen']);

let exitStatus = 0;
const doing =
  <A extends unknown[]>(action: (...args: A) => Promise<number>) =>
  async (...args: A): Promise<void> => {
    exitStatus = await action(...args);
  };

const program = new Command('culvert')
  .description('PCI passthrough on Xen/ARM, running without hardware')
  .option('--url <url>', 'a host that runs already (nats://HOST:PORT)')
  .option('--creds <file>', "the operator's credential for --url")
  .exitOverride()
  .enablePositionalOptions()
  .configureOutput({
    outputError: (text, write) => {
      const line = text
        .replace(/^error: /, '')
        .trim()
        .replace(/\s*\n\s*/g, ' ');
      write(`culvert: ${line}; see "culvert help"\n`);
    },
  });

program.hook('preAction', (_program, command) => {
  const { url, creds } = program.opts<{ url?: string; creds?: string }>();
  if (url !== undefined && !ASK_A_HOST.has(command.name())) refuse(`--url is of no use for "${command.name()}"`);
  if (url === undefined && creds !== undefined) refuse('--creds is for the host that --url names, and there is none');
});

program
  .command('run')
  .description('play a scenario, on processes made for it')
  .argument('<scenario>', 'a scenario file')
  .option('--simulated', 'in one process, on a clock that jumps')
  .option('--seed <n>', 'seed of the simulated run', wholeNumber)
  .option('--json', 'print one JSON document')
  .option('--port <n>', 'port of the nats-server that is started', portNumber)
  .option('--logs <dir>', 'keep the keys and logs of the processes there', folderName)
  .action(
    doing((scenario: string, options: Pick<RunOptions, 'simulated' | 'seed' | 'port'> & { logs?: string }) => {
      const { simulated, seed, port, logs } = options;
      const { url } = program.opts<{ url?: string }>();
      if (simulated !== true && seed !== undefined) refuse('--seed is for a run with --simulated: processes have none');
      const where = simulated === true ? '--simulated' : url === undefined ? undefined : '--url';
      for (const [name, given] of [
        ['--port', port !== undefined],
        ['--logs', logs !== undefined],
        ['--url', simulated === true && url !== undefined],
      ] as const)
        if (given && where !== undefined) refuse(`${name} and ${where} exclude each other: no process is started`);
      return run(scenario, {
        ...program.opts(),
        ...options,
        ...(logs === undefined ? {} : { keepLogs: resolve(logs) }),
      });
    }),
  );

for (const [name, action, description] of [
  ['up', up, 'start a host that stays'],
  ['host', host, 'the supervisor of a host, in the foreground'],
] as const) {
  program
    .command(name, { hidden: name === 'host' })
    .description(description)
    .option('--board <file>', 'board file', DEFAULT_BOARD)
    .option('--port <n>', 'port of nats-server', portNumber)
    .action(doing((options: { board: string }) => action(options)));
}

program
  .command('sim')
  .description('play a scenario in the simulated world from many seeds')
  .argument('<scenario>', 'a scenario file')
  .option('--seeds <n>', 'how many', countNumber, 1000)
  .option('--from <n>', 'the first', wholeNumber, 1)
  .option('--json', 'print one JSON document')
  .action(doing((scenario: string, options: SimOptions) => sim(scenario, options)));

program
  .command('replay-xenstore')
  .description('replay the trace of a real xenstored and compare what it answered')
  .argument('<trace>', 'what xenstored -T wrote, plain or gzip')
  .action(doing(async (trace: string) => replayXenstore(trace)));

program
  .command('down')
  .description('end the host that "up" started')
  .action(doing(() => down()));

program
  .command('status')
  .description('ask every service of the host')
  .option('--json', 'print one JSON document')
  .action(doing((options: { json?: boolean }) => status({ ...program.opts(), ...options })));

program
  .command('xl')
  .description('the toolstack, as on a Xen host (xl help)')
  .argument('[args...]')
  .allowUnknownOption()
  .passThroughOptions()
  .helpOption(false)
  .action(
    doing(async (args: string[]) => {
      const run = (): Op<XlResult> => xl(args, { readFile: readConfig });
      // Help, a dry run and a wrong command line need no host.
      const first = run().next();
      const result = first.done ? first.value : await asOperator(findTarget(program.opts()), run);
      process.stdout.write(result.stdout);
      process.stderr.write(result.stderr);
      return result.exit;
    }),
  );

program
  .command('lspci')
  .description('the functions that dom0 or a guest sees')
  .option('--domain <name>', 'a guest, by name or number')
  .option('-x, --hex', 'with configuration space (also -xxx, -xxxx)')
  .action(
    doing((options: { domain?: string; hex?: boolean }) =>
      lspci({
        ...program.opts(),
        ...(options.domain === undefined ? {} : { domain: options.domain }),
        hex: options.hex === true,
      }),
    ),
  );

program
  .command('board')
  .description('what a device tree offers a machine, or why it is refused')
  .argument('<file>', 'a device tree blob or a board file')
  .option('--without <part>', 'what it may lack: msi, smmu, or msi,smmu', collect)
  .option('--json', 'print one JSON document')
  .action((file: string, options: BoardOptions) => {
    const report = board(file, options);
    process.stdout.write(report.stdout);
    process.stderr.write(report.stderr);
    exitStatus = report.exit;
  });

program
  .command('replay')
  .description('a recorded boot of a real kernel, replayed on the GIC, the ITS and the SMMU')
  .argument('<folder>', 'with trace.log (or trace.log.gz) and machine.dtb')
  .option('--json', 'print one JSON document')
  .action((folder: string, options: { json?: boolean }) => {
    const report = replay(folder, options);
    process.stdout.write(report.stdout);
    exitStatus = report.exit;
  });

program
  .command('inspect')
  .description('what a service holds now: hardware, xen, xenstored, dom0 or a domain')
  .argument('<service>')
  .argument('[path]', 'a part of the tree, such as gic.pcpus.0', '')
  .option('--json', 'print one JSON document')
  .action(
    doing((service: string, path: string, options: { json?: boolean }) =>
      inspect(service, path, { ...program.opts(), ...options }),
    ),
  );

program
  .command('listen')
  .description('every message on the bus, as it passes')
  .option('--peer <name>', 'only of or to: hardware, xen, xenstored, d0, d1, ...')
  .option('--interface <name>', 'only: cpu, el2, trap, hypercall, upcall, store, watch, toolstack, reply, ...')
  .option('--count <n>', 'end after so many', countNumber)
  .option('--json', 'one JSON document a line')
  .action(doing((options: ListenOptions) => listen({ ...program.opts(), ...options })));

program
  .command('keys')
  .description('make the keys of a host whose nats-server runs elsewhere')
  .argument('<dir>', 'a folder', folderName)
  .option('--resolver <dir>', 'where that server may keep account claims', '/tmp/culvert-resolver')
  .action(
    doing(async (dir: string, options: { resolver: string }) => {
      await writeHostKeys(resolve(dir), options.resolver);
      process.stdout.write(`keys, credentials and nats.conf are in ${dir}\n`);
      return 0;
    }),
  );

// Who reads our output may go away (`| head`): then there is nothing left to do, unless a command ends itself in order.
process.stdout.on('error', () => {
  if (process.stdout.listenerCount('error') === 1) process.exit(0);
});

try {
  const [, , help, about] = process.argv;
  if (help === 'help' && about !== undefined && program.commands.every((command) => command.name() !== about))
    refuse(`unknown command '${about}'`);
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    exitStatus = error.exitCode === 0 ? 0 : 2;
  } else {
    const problem = fileProblem(error);
    const named = error instanceof Error && error.name !== 'Error' && error.name !== 'TypeError';
    process.stderr.write(
      `culvert: ${problem !== undefined ? `${problem.file}: ${problem.reason}` : named || !(error instanceof Error) ? (error as Error).message : (error.stack ?? error.message)}\n`,
    );
    exitStatus = 1;
  }
}
process.exitCode = exitStatus;
