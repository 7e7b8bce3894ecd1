import { assert, test } from 'vitest';
import { pemMerged } from '#shared/arch/pci/thunder-pem.ts';

test.for<[string, number, number, number, number, number]>([
  // name, dword as read, offset, bytes, value, what is stored
  ['a dword is stored as it is', 0xdead_beef, 0x18, 4, 0x1234_5678, 0x1234_5678],
  ['a byte goes to its place, and the others stay', 0x1122_3344, 0x19, 1, 0xaa, 0x1122_aa44],
  ['a halfword at the top', 0x1122_3344, 0x1a, 2, 0xbeef, 0xbeef_3344],
  ['Status beside Command is not cleared by what it reads as', 0xf810_0007, 0x04, 2, 0x0006, 0x0000_0006],
  ['what is written to Status itself is', 0xf810_0007, 0x06, 2, 0x8000, 0x8000_0007],
  ['Secondary Status beside I/O Base', 0xffff_1101, 0x1c, 1, 0xf0, 0x0000_11f0],
])('%s', ([, whole, offset, size, value, stored]) => {
  assert.equal(pemMerged(whole, offset, size, value), stored);
});
