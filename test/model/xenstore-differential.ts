/**
 * Plays the same random requests of several clients to the store and to its model, and compares every reply, every
 * watch event, and the whole tree now and then. As a program: `--operations N`, `--seed S`; prints one line and ends
 * with status 1 at the first difference, after the last requests before it.
 */
import { parseArgs } from 'node:util';
import { bytesOf, packStrings, textOf, XS, type XsType } from '#shared/abi/xs-wire.ts';
import { Prng } from '#shared/core/prng.ts';
import { type StoreClient, StoreWithClients } from '#tools/sim/xenstore.ts';
import { type MClient, XenstoreModel } from './xenstore-model.ts';

/** Small, so that they are met. By their names on the wire. */
const LIMITS = { nodes: 14, watches: 6, transactions: 4, transactionNodes: 24, nodeBytes: 120, permissions: 5 };
const WIRE_NAMES = {
  nodes: 'nodes',
  watches: 'watches',
  transactions: 'transactions',
  transactionNodes: 'transaction-nodes',
  nodeBytes: 'node-size',
  permissions: 'permissions',
} as const;
const DOMAINS = [0, 0, 1, 1, 2, 3];
const NAMES = ['a', 'b', 'c', 'dd'];
const LETTERS = ['n', 'r', 'w', 'b'];
/** Between two requests: the write rate limit is never met. */
const STEP_NS = 6e6;

interface Pair {
  readonly domid: number;
  real: StoreClient;
  model: MClient;
  /** Transactions that it has or had. */
  ids: number[];
}

export interface Outcome {
  readonly operations: number;
  /** By name, with how many of them were refused. */
  readonly kinds: Readonly<Record<string, { done: number; refused: number }>>;
  readonly events: number;
  /** What differed, with the requests before it; undefined when nothing did. */
  readonly difference: string | undefined;
}

export function runDifferential(operations: number, seed: number): Outcome {
  return new Run(seed).run(operations);
}

class Run {
  readonly #prng: Prng;
  readonly #store = new StoreWithClients();
  readonly #model = new XenstoreModel(LIMITS);
  readonly #pairs: Pair[];
  readonly #kinds: Record<string, { done: number; refused: number }> = {};
  readonly #log: string[] = [];
  #events = 0;

  constructor(seed: number) {
    this.#prng = new Prng(seed);
    const setup = this.#pair(0);
    for (const [quota, name] of Object.entries(WIRE_NAMES)) {
      const limit = LIMITS[quota as keyof typeof LIMITS];
      this.#store.send(setup.real, XS.SET_QUOTA, packStrings(name, `${limit}`));
    }
    for (const domid of [1, 2, 3]) {
      for (const [what, ...args] of [
        ['INTRODUCE', `${domid}`, '1', '1'],
        ['MKDIR', `/local/domain/${domid}`],
        ['SET_PERMS', `/local/domain/${domid}`, `n${domid}`, 'r1'],
      ] as const)
        this.#both(setup, what, args, 0);
    }
    this.#pairs = DOMAINS.map((domid) => this.#pair(domid));
    setup.real.take();
  }

  run(operations: number): Outcome {
    let difference: string | undefined;
    let at = 0;
    for (; at < operations && difference === undefined; at++) {
      difference = this.#step(at);
      if (difference === undefined && at % 997 === 0) difference = this.#compareTrees();
    }
    difference ??= this.#compareTrees();
    if (difference !== undefined) difference += `\n  after\n  ${this.#log.join('\n  ')}`;
    return { operations: at, kinds: this.#kinds, events: this.#events, difference };
  }

  #step(at: number): string | undefined {
    const pair = this.#pick(this.#pairs);
    const [what, args, tx] = this.#request(pair);
    this.#log.push(`${at} d${pair.domid}.${this.#pairs.indexOf(pair)} ${what} ${args.join(' ')} tx ${tx}`);
    if (this.#log.length > 30) this.#log.shift();
    const expected = this.#both(pair, what, args, tx);
    this.#kinds[what] ??= { done: 0, refused: 0 };
    const kind = this.#kinds[what];
    if (expected.startsWith('!')) kind.refused++;
    else kind.done++;
    if (what === 'TRANSACTION_START' && !expected.startsWith('!')) pair.ids.push(Number(expected.slice(0, -1)));
    if (pair.ids.length > 4) pair.ids.shift();
    const problem = this.#compare(pair, expected);
    if (what === 'RELEASE' && expected === 'OK|') this.#reconnect(Number(args[0]));
    return problem;
  }

  #both(pair: Pair, what: string, args: readonly string[], tx: number): string {
    this.#store.pass(STEP_NS);
    const payload =
      what === 'WRITE' ? bytesOf(`${args[0]}\0${args[1]}`) : packStrings(...(args.length > 0 ? args : ['']));
    this.#store.send(pair.real, XS[what as keyof typeof XS] as XsType, payload, tx);
    return this.#model.ask(pair.model, what, args, tx);
  }

  /** Replies and events of all clients since the last request. */
  #compare(asker: Pair, expected: string): string | undefined {
    let reply: string | undefined;
    for (const pair of this.#pairs) {
      const heard: string[] = [];
      for (const packet of pair.real.take()) {
        const text = textOf(packet.payload).replaceAll('\0', '|');
        if (packet.type === XS.WATCH_EVENT) heard.push(text.slice(0, -1).replace('|', ' '));
        else if (pair === asker && reply === undefined)
          reply = packet.type === XS.ERROR ? `!${text.slice(0, -1)}` : text;
        else return `client ${this.#pairs.indexOf(pair)} got a reply that nobody asked for: ${text}`;
      }
      this.#events += heard.length;
      const told = pair.model.events.splice(0);
      if (heard.join('\n') !== told.join('\n'))
        return `client ${this.#pairs.indexOf(pair)} heard [${heard.join('; ')}], the model says [${told.join('; ')}]`;
    }
    // A domain that releases itself is not told so.
    if (reply === undefined && asker.real.closed) return undefined;
    return reply === expected ? undefined : `the reply is ${reply}, the model says ${expected}`;
  }

  #compareTrees(): string | undefined {
    const wrong = this.#store.check();
    if (wrong.length > 0) return wrong.join('; ');
    const [ours, theirs] = [this.#store.tree(), this.#model.dump()];
    for (const path of new Set([...Object.keys(ours), ...Object.keys(theirs)])) {
      const [a, b] = [JSON.stringify(ours[path]), JSON.stringify(theirs[path])];
      if (a !== b) return `${path} is ${a}, the model says ${b}`;
    }
    return undefined;
  }

  /** A released domain comes back, with new connections. */
  #reconnect(domid: number): void {
    const dom0 = this.#pairs[0]!;
    for (const [what, ...args] of [
      ['INTRODUCE', `${domid}`, '1', '1'],
      ['MKDIR', `/local/domain/${domid}`],
      ['SET_PERMS', `/local/domain/${domid}`, `n${domid}`],
    ] as const)
      this.#both(dom0, what, args, 0);
    for (const pair of this.#pairs) {
      pair.real.take();
      pair.model.events.length = 0;
      if (pair.domid === domid) Object.assign(pair, this.#pair(domid));
    }
  }

  #pair(domid: number): Pair {
    return { domid, real: this.#store.connect(domid), model: this.#model.connect(domid), ids: [] };
  }

  #request(pair: Pair): [what: string, args: string[], tx: number] {
    const tx = this.#prng.chance(0.45) && pair.ids.length > 0 ? this.#pick(pair.ids) : 0;
    const dice = this.#prng.below(1000);
    if (dice < 170) return ['READ', [this.#path()], tx];
    if (dice < 230) return ['DIRECTORY', [this.#path()], tx];
    if (dice < 270) return ['GET_PERMS', [this.#path()], tx];
    if (dice < 480)
      return ['WRITE', [this.#path(), 'v'.repeat(this.#prng.below(this.#prng.chance(0.1) ? 130 : 8))], tx];
    if (dice < 540) return ['MKDIR', [this.#path()], tx];
    if (dice < 620) return ['RM', [this.#path()], tx];
    if (dice < 710) return ['SET_PERMS', [this.#path(), ...this.#perms()], tx];
    if (dice < 770) return ['WATCH', this.#watch(), tx];
    if (dice < 810) return ['UNWATCH', this.#watch().slice(0, 2), tx];
    if (dice < 880) return ['TRANSACTION_START', [], this.#prng.chance(0.05) ? tx : 0];
    if (dice < 970) {
      const id = this.#prng.chance(0.9) && pair.ids.length > 0 ? this.#pick(pair.ids) : tx;
      return ['TRANSACTION_END', [this.#prng.chance(0.85) ? 'T' : this.#pick(['F', 'X'])], id];
    }
    if (dice < 977) return ['RESET_WATCHES', [], 0];
    if (dice < 981) return ['RELEASE', [`${this.#prng.below(4)}`], 0];
    if (dice < 985) return ['INTRODUCE', [`${1 + this.#prng.below(3)}`, '1', '1'], 0];
    if (dice < 989) return ['SET_TARGET', [`${1 + this.#prng.below(3)}`, `${1 + this.#prng.below(4)}`], 0];
    if (dice < 994) return ['IS_DOMAIN_INTRODUCED', [`${this.#prng.below(5)}`], 0];
    return ['GET_DOMAIN_PATH', [`${this.#prng.below(5)}`], tx];
  }

  #path(): string {
    const dice = this.#prng.below(100);
    if (dice < 2) return this.#pick(['/', '', '/a//b', '/a/', 'a b', '@releaseDomain', '/tool']);
    const depth = 1 + this.#prng.below(4);
    const names = Array.from({ length: depth }, () => this.#pick(NAMES)).join('/');
    if (dice < 40) return `/${names}`;
    return dice < 70 ? names : `/local/domain/${1 + this.#prng.below(3)}/${names}`;
  }

  #perms(): string[] {
    const count = this.#prng.chance(0.05) ? this.#prng.below(7) : 1 + this.#prng.below(3);
    return Array.from({ length: count }, () => `${this.#pick(LETTERS)}${this.#prng.below(4)}`);
  }

  #watch(): string[] {
    const path = this.#prng.chance(0.2)
      ? this.#pick(['@releaseDomain', '@introduceDomain', '/', '/local/domain', '@other'])
      : this.#path();
    const depth = this.#prng.chance(0.25) ? [this.#pick(['0', '1', '2', 'x'])] : [];
    return [path, this.#pick(['t', 'u']), ...depth];
  }

  #pick<T>(items: readonly T[]): T {
    return items[this.#prng.below(items.length)]!;
  }
}

/** What the command line asks for; ends the program with a line when that cannot be done. */
function asked(): { readonly operations: number; readonly seed: number } {
  try {
    const { values } = parseArgs({
      options: { operations: { type: 'string', default: '50000' }, seed: { type: 'string', default: '1' } },
    });
    const { operations, seed } = values;
    if (!/^[1-9]\d*$/.test(operations))
      throw new RangeError(`--operations ${operations}: a number from 1 was expected`);
    if (!/^\d+$/.test(seed)) throw new RangeError(`--seed ${seed}: a whole number was expected`);
    return { operations: Number(operations), seed: Number(seed) };
  } catch (error) {
    process.stderr.write(
      `${(error as Error).message}; usage: npm run xenstore:differential -- [--operations N] [--seed S]\n`,
    );
    process.exit(2);
  }
}

if (import.meta.main) {
  const { operations, seed } = asked();
  const outcome = runDifferential(operations, seed);
  const kinds = Object.entries(outcome.kinds).map(([name, { done, refused }]) => `${name} ${done}+${refused}`);
  process.stdout.write(
    `seed ${seed}: ${outcome.operations} operations, ${outcome.events} events (${kinds.join(', ')})\n`,
  );
  if (outcome.difference !== undefined) process.stdout.write(`${outcome.difference}\n`);
  process.exitCode = outcome.difference === undefined ? 0 : 1;
}
