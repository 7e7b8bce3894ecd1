/** Addresses of network functions as a guest's operator writes and reads them. */
import { assert, test } from 'vitest';
import { formatMac, parseMac } from '../../../services/domu/drivers/nic.ts';

test.each([
  ['52:54:00:00:00:0f', 0x5254_0000_000f],
  ['broadcast', 0xffff_ffff_ffff],
  ['52:54:00:00:00', undefined],
  ['52-54-00-00-00-01', undefined],
])('the address %s is %s', (text, mac) => {
  assert.equal(parseMac(text), mac);
});

test('an address is written as six bytes', () => {
  assert.equal(formatMac(0x02_00_01_00_00_0a), '02:00:01:00:00:0a');
});
