import { assert, test } from 'vitest';
import { address64, addressJson, addressPlus, highOf, lowOf } from '#shared/ids/address64.ts';

test('an address is a number up to 2^53 - 1, and a bigint from there on', () => {
  assert.equal(address64(0x001f_ffff, 0xffff_ffff), Number.MAX_SAFE_INTEGER);
  assert.equal(address64(0x0020_0000, 0), 2n ** 53n);
  assert.equal(address64(-1, -1), 2n ** 64n - 1n);
});

test('its halves come back as they were', () => {
  for (const [high, low] of [
    [0, 0x8000_0001],
    [0x001f_ffff, 0xffff_ffff],
    [0xffff_8000, 0x1234_5678],
  ] as const) {
    const address = address64(high, low);
    assert.deepEqual([highOf(address), lowOf(address)], [high, low]);
  }
});

test('a sum goes from the one to the other, and wraps at 2^64', () => {
  assert.equal(addressPlus(0x1000, 4), 0x1004);
  assert.equal(addressPlus(Number.MAX_SAFE_INTEGER, 2), 2n ** 53n + 1n);
  assert.equal(addressPlus(2n ** 64n - 4n, 8), 4);
});

test('in JSON a number stays one, and the others are text', () => {
  assert.equal(addressJson(0x7000), 0x7000);
  assert.equal(addressJson(0xffff_8000_1234_5678n), '0xffff800012345678');
});
