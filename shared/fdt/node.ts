/**
 * A device tree in memory: nodes, properties and how their values are read and made
 * (Devicetree Specification, "The Devicetree" and "Devicetree Source"). Cells are big-endian 32-bit words.
 * Not modelled: dma-ranges; who asks gets CPU addresses only.
 */

/** A device tree that cannot be read, or a property that does not say what it must. One line of text. */
export class FdtError extends Error {
  override name = 'FdtError';
}

/** A piece of an address space. */
export interface FdtRegion {
  readonly address: number;
  readonly sizeBytes: number;
}

const text = new TextDecoder();
const utf8 = new TextEncoder();

export class FdtNode {
  /** With its unit address (`cpu@0`); empty for the root. */
  readonly name: string;
  readonly parent: FdtNode | undefined;
  /** In the order of the blob. */
  readonly properties = new Map<string, Uint8Array>();
  readonly children: FdtNode[] = [];

  constructor(name = '', parent?: FdtNode) {
    this.name = name;
    this.parent = parent;
  }

  get path(): string {
    if (this.parent === undefined) return '/';
    const above = this.parent.path;
    return above === '/' ? `/${this.name}` : `${above}/${this.name}`;
  }

  // Making a tree. Every setter returns the node, so that calls chain.

  addChild(name: string): FdtNode {
    const child = new FdtNode(name, this);
    this.children.push(child);
    return child;
  }

  removeChild(child: FdtNode): void {
    const at = this.children.indexOf(child);
    if (at >= 0) this.children.splice(at, 1);
  }

  set(name: string, value: Uint8Array): this {
    this.properties.set(name, value);
    return this;
  }

  /** A property without a value (`dma-coherent`). */
  setFlag(name: string): this {
    return this.set(name, new Uint8Array(0));
  }

  setCells(name: string, ...cells: readonly number[]): this {
    const value = new Uint8Array(cells.length * 4);
    const view = new DataView(value.buffer);
    cells.forEach((cell, i) => {
      view.setUint32(i * 4, cell);
    });
    return this.set(name, value);
  }

  setU64(name: string, value: number): this {
    return this.setCells(name, ...cellsOf(value, 2));
  }

  /** A string, or a list of them. */
  setStrings(name: string, ...strings: readonly string[]): this {
    return this.set(name, utf8.encode(strings.map((s) => `${s}\0`).join('')));
  }

  /** `reg` in the cells that the parent asks for. */
  setReg(...regions: readonly FdtRegion[]): this {
    const addressCells = this.parent?.addressCells ?? 2;
    const sizeCells = this.parent?.sizeCells ?? 1;
    const cells = regions.flatMap((r) => [...cellsOf(r.address, addressCells), ...cellsOf(r.sizeBytes, sizeCells)]);
    return this.setCells('reg', ...cells);
  }

  /** A copy of this node and all below it, as a child of `parent` or as a root. */
  copy(parent?: FdtNode): FdtNode {
    const to = parent === undefined ? new FdtNode(this.name) : parent.addChild(this.name);
    for (const [name, value] of this.properties) to.set(name, value.slice());
    for (const child of this.children) child.copy(to);
    return to;
  }

  // Reading properties. An absent one is undefined (or empty for lists); a malformed one throws FdtError.

  prop(name: string): Uint8Array | undefined {
    return this.properties.get(name);
  }

  has(name: string): boolean {
    return this.properties.has(name);
  }

  u32(name: string): number | undefined {
    const value = this.prop(name);
    if (value === undefined) return undefined;
    if (value.length !== 4) throw this.#malformed(name, `is ${value.length} bytes long, not 4`);
    return viewOf(value).getUint32(0);
  }

  /** A number of one or two cells. */
  u64(name: string): number | undefined {
    const cells = this.cells(name);
    if (cells.length === 0) return undefined;
    if (cells.length > 2) throw this.#malformed(name, `is ${cells.length} cells long, not 1 or 2`);
    return this.joinCells(name, cells, 0, cells.length);
  }

  cells(name: string): number[] {
    const value = this.prop(name);
    if (value === undefined) return [];
    if (value.length % 4 !== 0) throw this.#malformed(name, `is ${value.length} bytes long, not a multiple of 4`);
    const view = viewOf(value);
    return Array.from({ length: value.length / 4 }, (_, i) => view.getUint32(i * 4));
  }

  strings(name: string): string[] {
    const value = this.prop(name);
    if (value === undefined || value.length === 0) return [];
    if (value[value.length - 1] !== 0) throw this.#malformed(name, 'is a string without its final NUL');
    return text.decode(value.subarray(0, -1)).split('\0');
  }

  string(name: string): string | undefined {
    return this.strings(name)[0];
  }

  /** `#address-cells` for the children; 2 when absent, never inherited. */
  get addressCells(): number {
    return this.#cellCount('#address-cells', 2);
  }

  /** `#size-cells` for the children; 1 when absent, never inherited. */
  get sizeCells(): number {
    return this.#cellCount('#size-cells', 1);
  }

  /** `reg`, in the address space of the parent's bus. */
  reg(): FdtRegion[] {
    return this.#regCells().map(({ cells, at, na, ns }) => ({
      address: this.joinCells('reg', cells, at, na),
      sizeBytes: this.joinCells('reg', cells, at + na, ns),
    }));
  }

  /** `reg` as the CPU sees it: through the `ranges` of every bus above. */
  regions(): FdtRegion[] {
    return this.reg().map((r) => ({ address: this.cpuAddress(r.address), sizeBytes: r.sizeBytes }));
  }

  /** An address on the parent's bus as the CPU sees it. Throws FdtError when a bus above does not pass it on. */
  cpuAddress(address: number): number {
    let bus = this.parent;
    let at = address;
    while (bus?.parent !== undefined) {
      at = bus.#toParentBus(at);
      bus = bus.parent;
    }
    return at;
  }

  get phandle(): number | undefined {
    return this.u32('phandle') ?? this.u32('linux,phandle');
  }

  isCompatible(...names: readonly string[]): boolean {
    return this.strings('compatible').some((s) => names.includes(s));
  }

  /** False when `status` says that the node is not there for us. */
  get enabled(): boolean {
    const status = this.string('status');
    return status === undefined || status === 'okay' || status === 'ok';
  }

  // Finding nodes.

  child(name: string): FdtNode | undefined {
    return this.children.find((c) => c.name === name);
  }

  /** The node at an absolute path in this node's tree. */
  find(path: string): FdtNode | undefined {
    let at: FdtNode | undefined = this.root;
    for (const part of path.split('/')) if (part !== '') at = at?.child(part);
    return at;
  }

  get root(): FdtNode {
    return this.parent?.root ?? this;
  }

  /** This node and all below it, in the order of the blob. */
  *walk(): Generator<FdtNode, void> {
    yield this;
    for (const child of this.children) yield* child.walk();
  }

  /** Enabled nodes from here on that are compatible with one of `names`. */
  compatibleNodes(...names: readonly string[]): FdtNode[] {
    return [...this.walk()].filter((n) => n.enabled && n.isCompatible(...names));
  }

  byPhandle(phandle: number): FdtNode | undefined {
    for (const node of this.root.walk()) if (node.phandle === phandle) return node;
    return undefined;
  }

  /** The interrupt controller that `interrupts` of this node speaks to: nearest `interrupt-parent` upwards. */
  get interruptParent(): FdtNode | undefined {
    for (let at: FdtNode | undefined = this; at !== undefined; at = at.parent) {
      const phandle = at.u32('interrupt-parent');
      if (phandle !== undefined) return this.byPhandle(phandle);
      if (at !== this && at.has('interrupt-controller')) return at;
    }
    return undefined;
  }

  /** `interrupts`, cut into specifiers of the interrupt parent's `#interrupt-cells`. */
  interrupts(): number[][] {
    const cells = this.cells('interrupts');
    if (cells.length === 0) return [];
    const parent = this.interruptParent;
    if (parent === undefined) throw new FdtError(`device tree: ${this.path} has interrupts and no interrupt parent`);
    const each = parent.u32('#interrupt-cells') ?? 1;
    if (each === 0 || cells.length % each !== 0)
      throw this.#malformed('interrupts', `is not a multiple of ${each} cells`);
    return Array.from({ length: cells.length / each }, (_, i) => cells.slice(i * each, (i + 1) * each));
  }

  /** The number in `count` cells from `at`. Throws FdtError when it is beyond 2^53. `name` is for the error text. */
  joinCells(name: string, cells: readonly number[], at: number, count: number): number {
    let value = 0;
    for (let i = 0; i < count; i++) value = value * 2 ** 32 + (cells[at + i] ?? 0);
    if (!Number.isSafeInteger(value)) throw this.#malformed(name, 'holds a number above 2^53');
    return value;
  }

  #regCells(): { cells: number[]; at: number; na: number; ns: number }[] {
    const na = this.parent?.addressCells ?? 2;
    const ns = this.parent?.sizeCells ?? 1;
    const cells = this.cells('reg');
    if (cells.length === 0) return [];
    const each = na + ns;
    if (each === 0 || cells.length % each !== 0)
      throw this.#malformed('reg', `is not a multiple of ${na} + ${ns} cells`);
    return Array.from({ length: cells.length / each }, (_, i) => ({ cells, at: i * each, na, ns }));
  }

  #toParentBus(address: number): number {
    const ranges = this.prop('ranges');
    if (ranges === undefined)
      throw new FdtError(`device tree: ${this.path} has no ranges: what is below it has no CPU address`);
    if (ranges.length === 0) return address;
    const cells = this.cells('ranges');
    const na = this.addressCells;
    const ns = this.sizeCells;
    const np = this.parent?.addressCells ?? 2;
    for (let at = 0; at + na + np + ns <= cells.length; at += na + np + ns) {
      const base = this.joinCells('ranges', cells, at, na);
      const size = this.joinCells('ranges', cells, at + na + np, ns);
      if (address >= base && address < base + size)
        return this.joinCells('ranges', cells, at + na, np) + (address - base);
    }
    throw new FdtError(`device tree: ranges of ${this.path} do not cover 0x${address.toString(16)}`);
  }

  #cellCount(name: string, absent: number): number {
    const count = this.u32(name) ?? absent;
    if (count > 4) throw this.#malformed(name, `is ${count}, more than 4`);
    return count;
  }

  #malformed(name: string, what: string): FdtError {
    return new FdtError(`device tree: ${name} of ${this.path} ${what}`);
  }
}

/** `value` in `count` cells, most significant first. */
export function cellsOf(value: number, count: number): number[] {
  const cells = new Array<number>(count).fill(0);
  let rest = value;
  for (let i = count - 1; i >= 0 && rest > 0; i--) {
    cells[i] = rest % 2 ** 32;
    rest = Math.floor(rest / 2 ** 32);
  }
  return cells;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
