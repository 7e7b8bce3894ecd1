import fc from 'fast-check';
import { assert, describe, test } from 'vitest';
import { RegBank } from '#shared/regs/bank.ts';
import { asWord, get, put, reg32, wordWith } from '#shared/regs/field.ts';
import { bytesOf, dw, dwAddr, load, loadFields, store, storeFields, wordsOf } from '#shared/regs/struct.ts';

const CTLR = reg32(
  'CTLR',
  0x0,
  { Enabled: ['RW', 0], Number: ['RO', 7, 4], Error: ['W1C', 8], Quiescent: ['RO', 31] },
  0x8000_0030,
);
const WIDE = reg32('WIDE', 0x8, { Value: ['RW', 31, 0] });

describe('a register declaration', () => {
  test('that overlaps, does not fit or is misaligned stops at load', () => {
    assert.throws(() => reg32('A', 0, { X: ['RW', 3, 0], Y: ['RW', 3] }), /A\.Y.*overlaps/);
    assert.throws(() => reg32('A', 0, { X: ['RW', 32] }), /does not fit/);
    assert.throws(() => reg32('A', 2, {}), /multiple of 4/);
    assert.throws(() => reg32('A', 0, { offset: ['RW', 0] }), /taken/);
  });

  test('gives fields that are read and replaced in place, bit 31 unsigned', () => {
    const word = asWord(CTLR, 0x8000_0051);
    assert.equal(get(CTLR.Number, word), 5);
    assert.equal(get(CTLR.Quiescent, word), 1);
    assert.equal(put(CTLR.Number, word, 0xa), 0x8000_00a1);
    assert.equal(get(WIDE.Value, put(WIDE.Value, asWord(WIDE, 0), 0xffff_fffe)), 0xffff_fffe);
    assert.equal(wordWith(CTLR, { Number: 3, Quiescent: 1 }), 0x8000_0030);
    assert.throws(() => wordWith(CTLR, { Number: 16 }), /does not fit/);
  });
});

describe('a register bank', () => {
  const bank = (): RegBank => new RegBank(0x10, [CTLR, WIDE]);

  test('copies RW bits, clears W1C bits that are written as one, and keeps the rest', () => {
    const b = bank();
    b.poke(CTLR, 0x8000_0130);
    b.write(0, 0xffff_feff);
    assert.equal(b.read(0), 0x8000_0131);
    b.write(0, 0x100);
    assert.equal(b.read(0), 0x8000_0030);
  });

  test('reads zero where there is no register and remembers the offset', () => {
    const b = bank();
    b.write(4, 7);
    assert.equal(b.read(4), 0);
    assert.equal(b.read(0x400), 0);
    assert.deepEqual([...b.strays], [4, 0x400]);
  });

  test('tells the handler what is stored, what was there, and what was written', () => {
    const seen: number[][] = [];
    const b = bank().onWrite(CTLR, (now, before, value) => seen.push([now, before, value]));
    b.write(0, 0xf1);
    assert.deepEqual(seen, [[0x8000_0031, 0x8000_0030, 0xf1]]);
  });

  test('drops writes while the register is locked, and answers reads from a handler', () => {
    let open = false;
    const b = bank()
      .writableWhile(WIDE, () => open)
      .onRead(CTLR, (stored) => stored | 0x1000);
    b.write(8, 1);
    assert.equal(b.read(8), 0);
    open = true;
    b.write(8, 1);
    assert.equal(b.read(8), 1);
    assert.equal(b.read(0), 0x8000_1030);
    b.reset();
    assert.equal(b.read(8), 0);
  });

  test('refuses two registers at one offset, or one outside', () => {
    assert.throws(() => new RegBank(0x10, [CTLR, reg32('OTHER', 0, {})]), /share/);
    assert.throws(() => new RegBank(0x8, [WIDE]), /outside/);
  });
});

describe('a field of a structure in memory', () => {
  const slot = fc
    .tuple(fc.integer({ min: 0, max: 63 }), fc.integer({ min: 1, max: 32 }), fc.integer({ min: 0, max: 2 }))
    .filter(([lsb, width]) => lsb + width <= 64);
  const words = fc.array(fc.integer({ min: 0, max: 0xffff_ffff }), { minLength: 8, maxLength: 8 });
  const asBig = (mem: Uint32Array, n: number): bigint => (BigInt(mem[2 * n + 1]!) << 32n) | BigInt(mem[2 * n]!);

  test('is the bits that a 64-bit shift gives, and storing it changes nothing else', () => {
    fc.assert(
      fc.property(slot, words, fc.integer({ min: 0, max: 0xffff_ffff }), ([lsb, width, n], image, value) => {
        const mem = Uint32Array.from(image);
        const field = dw(n, lsb + width - 1, lsb);
        const mask = (1n << BigInt(width)) - 1n;
        const before = asBig(mem, n);
        assert.equal(BigInt(load(mem, 0, field)), (before >> BigInt(lsb)) & mask);
        store(mem, 0, field, value);
        const expected = (before & ~(mask << BigInt(lsb))) | ((BigInt(value) & mask) << BigInt(lsb));
        assert.equal(asBig(mem, n), expected);
        assert.deepEqual(
          [...mem].filter((_, i) => i >> 1 !== n),
          image.filter((_, i) => i >> 1 !== n),
        );
      }),
    );
  });

  test('that is an address keeps its place and its high bits', () => {
    const mem = new Uint32Array([0xffff_ffff, 0xffff_ffff]);
    const field = dwAddr(0, 51, 6);
    assert.equal(load(mem, 0, field), 2 ** 52 - 64);
    store(mem, 0, field, 0x8_7654_3210_0fc0);
    assert.equal(load(mem, 0, field), 0x8_7654_3210_0fc0);
    assert.deepEqual([...mem], [0x3210_0fff, 0xfff8_7654]);
  });

  test('is named in a layout, and words are little-endian bytes', () => {
    const layout = { op: dw(0, 7, 0), id: dw(0, 63, 32) } as const;
    const mem = new Uint32Array(2);
    storeFields(mem, 0, layout, { op: 8, id: 0x0102_0304 });
    assert.deepEqual([...bytesOf(mem)], [8, 0, 0, 0, 4, 3, 2, 1]);
    assert.deepEqual(loadFields(wordsOf(bytesOf(mem)), 0, layout), { op: 8, id: 0x0102_0304 });
  });

  test('wider than 32 bits is refused', () => {
    assert.throws(() => dw(0, 32, 0));
    assert.throws(() => dwAddr(0, 63, 12));
  });
});
