/**
 * The store's semantics once more, slow and plain: every node in one map, permissions as their text, counts by looking
 * at all nodes, conflicts by the time of changes. It shares no code with the daemon. Quotas of memory and of requests
 * and the write rate are left out.
 */

interface MNode {
  value: string;
  perms: string[];
  kids: string[];
}

interface MTransaction {
  /** First touches: when, and whether there was a node. */
  touched: Map<string, { at: number; there: boolean; perms: string[] | undefined }>;
  view: Map<string, MNode | undefined>;
  modified: Set<string>;
  /** Who owned any of what was changed, before or after a change. */
  owners: Set<string>;
  /** Paths that watches are to hear of: for those above too, or only for those exactly there. */
  events: Map<string, 'all' | 'exact'>;
  created: boolean;
  failed: boolean;
  outdated: boolean;
}

interface MWatch {
  path: string;
  token: string;
  relative: boolean;
  depth: number;
  order: number;
}

export interface MClient {
  domid: number;
  watches: MWatch[];
  transactions: Map<number, MTransaction>;
  nextId: number;
  events: string[];
}

class Fail extends Error {}
const fail = (code: string): never => {
  throw new Fail(code);
};

export interface ModelLimits {
  nodes: number;
  watches: number;
  transactions: number;
  transactionNodes: number;
  nodeBytes: number;
  permissions: number;
}

export class XenstoreModel {
  readonly #nodes = new Map<string, MNode>();
  readonly #changedAt = new Map<string, number>();
  readonly clients: MClient[] = [];
  readonly #introduced = new Set<number>([0]);
  readonly #target = new Map<number, number>();
  readonly #limits: ModelLimits;
  #time = 1;
  #order = 0;
  #initial: [MClient, string][] = [];

  constructor(limits: ModelLimits) {
    this.#limits = limits;
    for (const [path, kids] of [
      ['/', ['tool']],
      ['/tool', ['xenstored']],
      ['/tool/xenstored', []],
      ['@releaseDomain', []],
      ['@introduceDomain', []],
    ] as const)
      this.#nodes.set(path, { value: '', perms: ['n0'], kids: [...kids] });
  }

  connect(domid: number): MClient {
    const client: MClient = { domid, watches: [], transactions: new Map(), nextId: 1, events: [] };
    this.clients.push(client);
    return client;
  }

  disconnect(client: MClient): void {
    this.clients.splice(this.clients.indexOf(client), 1);
  }

  /** A request's reply as text, `|` for NUL, or the error's name with `!` in front. */
  ask(client: MClient, what: string, args: readonly string[], tx: number): string {
    this.#time++;
    try {
      return this.#run(client, what, args, tx);
    } catch (error) {
      if (error instanceof Fail) return `!${error.message}`;
      throw error;
    } finally {
      for (const [who, event] of this.#initial.splice(0)) who.events.push(event);
    }
  }

  /** All nodes: path, value, permissions. */
  dump(): Record<string, { value: string; perms: string }> {
    const all: Record<string, { value: string; perms: string }> = {};
    for (const [path, node] of this.#nodes)
      if (path.startsWith('/')) all[path] = { value: node.value, perms: node.perms.join(',') };
    return all;
  }

  #run(client: MClient, what: string, args: readonly string[], txId: number): string {
    const free = what === 'WATCH' || what === 'UNWATCH';
    const priv = ['INTRODUCE', 'RELEASE', 'SET_TARGET', 'IS_DOMAIN_INTRODUCED'].includes(what);
    if (priv && client.domid !== 0) fail('EACCES');
    const tx = free || txId === 0 ? undefined : (client.transactions.get(txId) ?? fail('ENOENT'));
    const [a = '', b = ''] = args;
    switch (what) {
      case 'READ':
        return this.#must(client, tx, a, 'r').node.value;
      case 'DIRECTORY':
        return this.#must(client, tx, a, 'r')
          .node.kids.map((kid) => `${kid}|`)
          .join('');
      case 'GET_PERMS':
        return this.#must(client, tx, a, 'r', true)
          .node.perms.map((perm) => `${perm}|`)
          .join('');
      case 'WRITE':
        return this.#write(client, tx, a, b);
      case 'MKDIR':
        return this.#write(client, tx, a, undefined);
      case 'RM':
        return this.#rm(client, tx, a);
      case 'SET_PERMS':
        return this.#setPerms(client, tx, a, args.slice(1));
      case 'WATCH':
        return this.#watch(client, a, b, args[2]);
      case 'UNWATCH': {
        const path = this.#path(client, a, true);
        const at = client.watches.findIndex((watch) => watch.path === path && watch.token === b);
        if (at < 0) fail('ENOENT');
        client.watches.splice(at, 1);
        return 'OK|';
      }
      case 'TRANSACTION_START': {
        if (tx !== undefined) fail('EBUSY');
        const open = this.clients.filter((c) => c.domid === client.domid).reduce((n, c) => n + c.transactions.size, 0);
        if (client.domid !== 0 && open + 1 >= this.#limits.transactions) fail('ENOSPC');
        const id = client.nextId++;
        client.transactions.set(id, {
          touched: new Map(),
          view: new Map(),
          modified: new Set(),
          owners: new Set(),
          events: new Map(),
          created: false,
          failed: false,
          outdated: false,
        });
        return `${id}|`;
      }
      case 'TRANSACTION_END':
        if (a !== 'T' && a !== 'F') fail('EINVAL');
        if (tx === undefined) return fail('ENOENT');
        client.transactions.delete(txId);
        if (a === 'T') this.#commit(client, tx);
        return 'OK|';
      case 'RESET_WATCHES':
        client.watches = [];
        client.transactions.clear();
        return 'OK|';
      case 'INTRODUCE':
        if (!this.#introduced.has(Number(a))) {
          this.#introduced.add(Number(a));
          this.#special('@introduceDomain', Number(a));
        }
        return 'OK|';
      case 'RELEASE':
        if (a === '0') fail('EINVAL');
        if (!this.#introduced.has(Number(a))) fail('ENOENT');
        this.#release(Number(a));
        return 'OK|';
      case 'SET_TARGET':
        if (!this.#introduced.has(Number(a)) || !this.#introduced.has(Number(b))) fail('ENOENT');
        this.#target.set(Number(a), Number(b));
        return 'OK|';
      case 'IS_DOMAIN_INTRODUCED':
        return this.#introduced.has(Number(a)) ? 'T|' : 'F|';
      case 'GET_DOMAIN_PATH':
        return `/local/domain/${Number(a)}|`;
      default:
        return fail('ENOSYS');
    }
  }

  // Rights

  #path(client: MClient, text: string, special: boolean): string {
    const path = text.startsWith('/') || text.startsWith('@') ? text : `/local/domain/${client.domid}/${text}`;
    if (path.startsWith('@') && !special) fail('EINVAL');
    const wrong = [...path].some((c) => !/[-A-Za-z0-9/_@]/.test(c));
    if (wrong || path.split('//').length > 1 || (path.length > 1 && path.endsWith('/'))) fail('EINVAL');
    return path;
  }

  /** The letters of what a client may do: r, w, and o for the owner. */
  #rights(client: MClient, perms: readonly string[]): string {
    const mine = (perm: string): boolean => {
      const domid = Number(perm.slice(1));
      return domid === client.domid || this.#target.get(client.domid) === domid;
    };
    if (client.domid === 0 || mine(perms[0]!)) return 'rwo';
    const entry = perms.slice(1).find(mine) ?? perms[0]!;
    return { n: '', r: 'r', w: 'w', b: 'rw' }[entry[0] as 'n'];
  }

  #get(client: MClient, tx: MTransaction | undefined, path: string): MNode | undefined {
    if (tx === undefined) return this.#nodes.get(path);
    if (!tx.view.has(path)) {
      if (client.domid !== 0 && tx.view.size + 1 >= this.#limits.transactionNodes) {
        tx.failed = true;
        fail('ENOSPC');
      }
      const node = this.#nodes.get(path);
      tx.touched.set(path, { at: this.#time, there: node !== undefined, perms: node?.perms });
      tx.view.set(path, node);
    }
    return tx.view.get(path);
  }

  #set(tx: MTransaction | undefined, path: string, node: MNode | undefined): void {
    if (tx === undefined) {
      if (node === undefined) this.#nodes.delete(path);
      else this.#nodes.set(path, node);
      this.#changedAt.set(path, this.#time);
    } else {
      for (const one of [tx.view.get(path), node]) if (one !== undefined) tx.owners.add(one.perms[0]!.slice(1));
      tx.view.set(path, node);
      tx.modified.add(path);
    }
  }

  #find(client: MClient, tx: MTransaction | undefined, text: string, need: string, special = false) {
    const path = this.#path(client, text, special);
    const node = this.#get(client, tx, path);
    if (node !== undefined) {
      const has = this.#rights(client, node.perms);
      if ([...need].some((letter) => !has.includes(letter))) fail('EACCES');
      return { path, node };
    }
    let above = up(path);
    while (this.#get(client, tx, above) === undefined) above = up(above);
    const has = this.#rights(client, this.#get(client, tx, above)!.perms);
    if (![...need].some((letter) => has.includes(letter))) fail('EACCES');
    return { path, node: undefined };
  }

  #must(client: MClient, tx: MTransaction | undefined, text: string, need: string, special = false) {
    const { path, node } = this.#find(client, tx, text, need, special);
    return { path, node: node ?? fail('ENOENT') };
  }

  // Changes

  #owned(domid: number, tx: MTransaction | undefined): number {
    const paths = new Set([...this.#nodes.keys(), ...(tx?.view.keys() ?? [])]);
    let count = 0;
    for (const path of paths) {
      const stored = this.#nodes.get(path);
      if (stored?.perms[0]?.slice(1) === `${domid}`) count++;
      if (tx?.view.has(path) !== true) continue;
      // What others did to a node since its first touch is theirs: a transaction counts its own changes only.
      const first = tx.touched.get(path)!.perms;
      if (first !== undefined && first[0]!.slice(1) === `${domid}`) count--;
      if (tx.view.get(path)?.perms[0]?.slice(1) === `${domid}`) count++;
    }
    return count;
  }

  #tooBig(client: MClient, node: MNode): boolean {
    const bytes = 16 + 8 * node.perms.length + node.value.length + node.kids.join('|').length + (node.kids.length && 1);
    return client.domid !== 0 && bytes >= this.#limits.nodeBytes;
  }

  #refuse(tx: MTransaction | undefined): never {
    if (tx !== undefined) tx.failed = true;
    return fail('ENOSPC');
  }

  #write(client: MClient, tx: MTransaction | undefined, text: string, value: string | undefined): string {
    const { path, node } = this.#find(client, tx, text, 'w');
    if (node !== undefined) {
      if (value === undefined) return 'OK|';
      const next = { ...node, value };
      if (this.#tooBig(client, next)) this.#refuse(tx);
      this.#set(tx, path, next);
    } else {
      this.#create(client, tx, path, value ?? '');
    }
    this.#changed(tx, path, false, undefined, undefined);
    return 'OK|';
  }

  #create(client: MClient, tx: MTransaction | undefined, path: string, value: string): void {
    const missing = [path];
    while (this.#get(client, tx, up(missing.at(-1)!)) === undefined) missing.push(up(missing.at(-1)!));
    const top = up(missing.at(-1)!);
    const parent = this.#get(client, tx, top)!;
    if (tx !== undefined) tx.created = true;
    const perms =
      client.domid === 0 ? parent.perms : [`${parent.perms[0]![0]}${client.domid}`, ...parent.perms.slice(1)];
    const made = missing.map((name, i): [string, MNode] => [
      name,
      { value: i === 0 ? value : '', perms, kids: i === 0 ? [] : [leaf(missing[i - 1]!)] },
    ]);
    const owned = this.#owned(client.domid, tx);
    made.forEach(([, node], i) => {
      if (client.domid !== 0 && owned + i + 1 >= this.#limits.nodes) {
        if (i > 0) this.#refuse(tx);
        fail('ENOSPC');
      }
      if (this.#tooBig(client, node)) this.#refuse(tx);
    });
    // In a transaction the list may be older than the child's removal by somebody else: the name is in it already.
    const name = leaf(missing.at(-1)!);
    const next = { ...parent, kids: parent.kids.includes(name) ? parent.kids : [...parent.kids, name] };
    if (this.#tooBig(client, next)) this.#refuse(tx);
    for (const [at, node] of made) this.#set(tx, at, node);
    this.#set(tx, top, next);
  }

  #rm(client: MClient, tx: MTransaction | undefined, text: string): string {
    const { path, node } = this.#find(client, tx, text, 'w');
    if (node === undefined) {
      if (this.#get(client, tx, up(path)) === undefined) fail('ENOENT');
      return 'OK|';
    }
    if (path === '/') fail('EINVAL');
    this.#remove(client, tx, path);
    return 'OK|';
  }

  #remove(client: MClient, tx: MTransaction | undefined, path: string): void {
    const below: string[] = [];
    const visit = (at: string): void => {
      for (const kid of this.#get(client, tx, at)?.kids ?? []) visit(at === '/' ? `/${kid}` : `${at}/${kid}`);
      below.push(at);
    };
    visit(path);
    for (const at of below) {
      const gone = this.#get(client, tx, at);
      if (gone === undefined) continue;
      this.#set(tx, at, undefined);
      this.#changed(tx, at, at !== path, gone, undefined);
    }
    const parent = this.#get(client, tx, up(path));
    if (parent !== undefined)
      this.#set(tx, up(path), { ...parent, kids: parent.kids.filter((kid) => kid !== leaf(path)) });
  }

  #setPerms(client: MClient, tx: MTransaction | undefined, text: string, perms: readonly string[]): string {
    if (perms.length === 0) fail('EINVAL');
    if (client.domid !== 0 && perms.length >= this.#limits.permissions) fail('ENOSPC');
    if (perms.some((perm) => !/^[nrwb]\d+$/.test(perm))) fail('EINVAL');
    const { path, node } = this.#must(client, tx, text, 'wo', true);
    if (client.domid !== 0 && perms[0]!.slice(1) !== node.perms[0]!.slice(1)) fail('EPERM');
    const next = { ...node, perms: [...perms] };
    if (this.#tooBig(client, next)) this.#refuse(tx);
    this.#set(tx, path, next);
    this.#changed(tx, path, false, undefined, node.perms);
    return 'OK|';
  }

  #commit(client: MClient, tx: MTransaction): void {
    if (tx.failed) fail('ENOMEM');
    if (tx.created && client.domid !== 0) {
      for (const owner of tx.owners)
        if (owner !== '0' && this.#owned(Number(owner), tx) >= this.#limits.nodes) fail('ENOSPC');
    }
    if (tx.outdated) fail('EAGAIN');
    for (const [path, { at, there }] of tx.touched) {
      const now = this.#nodes.has(path);
      if (there !== now || (now && (this.#changedAt.get(path) ?? 0) > at)) fail('EAGAIN');
    }
    for (const path of tx.touched.keys()) if (tx.modified.has(path)) this.#set(undefined, path, tx.view.get(path));
    for (const [path, { perms }] of tx.touched) {
      const how = tx.events.get(path);
      if (tx.modified.has(path) && how !== undefined) this.#changed(undefined, path, how === 'exact', undefined, perms);
    }
  }

  // Watches

  #watch(client: MClient, text: string, token: string, depthText: string | undefined): string {
    if (depthText !== undefined && !/^\d+$/.test(depthText)) fail('EINVAL');
    const path = this.#path(client, text, true);
    if (client.watches.some((watch) => watch.path === path && watch.token === token)) fail('EEXIST');
    const count = this.clients.filter((c) => c.domid === client.domid).reduce((n, c) => n + c.watches.length, 0);
    if (client.domid !== 0 && count + 1 >= this.#limits.watches) fail('E2BIG');
    const depth = depthText === undefined ? Infinity : Number(depthText);
    client.watches.push({ path, token, relative: text !== path, depth, order: this.#order++ });
    this.#initial.push([client, `${text} ${token}`]);
    return 'OK|';
  }

  #changed(
    tx: MTransaction | undefined,
    path: string,
    exact: boolean,
    gone: MNode | undefined,
    oldPerms: readonly string[] | undefined,
  ): void {
    if (tx !== undefined) {
      if (!exact || !tx.events.has(path)) tx.events.set(path, exact ? 'exact' : 'all');
      return;
    }
    for (const client of this.clients) {
      const node = gone ?? this.#nodes.get(path);
      const parent = this.#nodes.get(up(path));
      const can = (perms: readonly string[] | undefined): boolean =>
        perms !== undefined && this.#rights(client, perms).includes('r');
      if (!can(oldPerms) && (node === undefined || !(can(node.perms) || can(parent?.perms)))) continue;
      for (const watch of client.watches) {
        const parts = watch.path === '/' ? [] : watch.path.split('/').slice(1);
        const here = path.split('/').slice(1);
        const under = path.startsWith('/') && watch.path.startsWith('/') && parts.every((part, i) => part === here[i]);
        const isIt = watch.path === path;
        if (exact ? !isIt : !isIt && !(under && here.length - parts.length <= watch.depth)) continue;
        const told = watch.relative ? path.slice(`/local/domain/${client.domid}/`.length) : path;
        const event = `${told} ${watch.token}`;
        // Whoever takes the events does so after each request: what is there is of the same one, and they are merged.
        if (path.startsWith('@') || !client.events.includes(event)) client.events.push(event);
      }
    }
  }

  #special(name: string, domid: number): void {
    for (const client of this.clients) {
      const readable = ['/', name].some((path) => this.#rights(client, this.#nodes.get(path)!.perms).includes('r'));
      if (!readable) continue;
      for (const watch of client.watches.filter((one) => one.path === name)) {
        const told = watch.depth !== Infinity && watch.depth > 0 ? `${name}/${domid}` : name;
        client.events.push(`${told} ${watch.token}`);
      }
    }
  }

  #release(domid: number): void {
    this.#introduced.delete(domid);
    for (const client of [...this.clients]) if (client.domid === domid) this.disconnect(client);
    this.#target.delete(domid);
    for (const [who, target] of this.#target) if (target === domid) this.#target.delete(who);
    for (const { transactions } of this.clients)
      for (const tx of transactions.values())
        if ([...tx.view.values()].some((node) => node?.perms.some((perm) => perm.slice(1) === `${domid}`)))
          tx.outdated = true;
    const root: MClient = { domid: 0, watches: [], transactions: new Map(), nextId: 1, events: [] };
    for (const [path, node] of [...this.#nodes].sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (node.perms[0]!.slice(1) === `${domid}` && this.#nodes.has(path) && path !== '/' && path.startsWith('/'))
        this.#remove(root, undefined, path);
    }
    for (const [path, node] of [...this.#nodes]) {
      const perms = node.perms.filter((perm, i) => i === 0 || perm.slice(1) !== `${domid}`);
      if (perms.length !== node.perms.length) this.#set(undefined, path, { ...node, perms });
    }
    this.#special('@releaseDomain', domid);
  }
}

function up(path: string): string {
  return path.startsWith('@') || path.lastIndexOf('/') <= 0 ? '/' : path.slice(0, path.lastIndexOf('/'));
}

function leaf(path: string): string {
  return path.split('/').at(-1)!;
}
