import { assert, describe, test } from 'vitest';
import { MalformedSpec, parseBdfArgument, parsePciSpec } from '#tools/xl/pci-spec.ts';

describe('PCI_SPEC_STRING', () => {
  test.each([
    ['3:0.0', { bus: 3, functionMask: 1, vslot: -1 }],
    ['03:00.0@8,permissive=1', { bus: 3, vslot: 8, permissive: true }],
    ['bdf=03:00.0,vslot=9,seize=1', { bus: 3, vslot: 9, seize: true }],
    ['0000:03:00.0,', { segment: 0, bus: 3 }],
    ['03:1f.*', { device: 0x1f, functionMask: 0xff }],
    ['name=fast', { name: 'fast' }],
    ['03:00.0,permissive=1,permissive=0', { permissive: false }],
  ])('%s is accepted', (text, expected) => {
    assert.deepInclude(parsePciSpec(text), expected);
  });

  test.each([
    '',
    'zz',
    '03:00.8',
    '03:20.0',
    '10000:00:00.0',
    '03:00.0@',
    '03:00.0@20',
    '03:00.0zz',
    '03:00.0@1f,seize',
    '03:00.0,x=1',
    '03:00.0,name=foo',
  ])('"%s" is malformed', (text) => {
    assert.throws(() => parsePciSpec(text), MalformedSpec);
  });

  test('defaults of the configuration hold until the entry says otherwise', () => {
    assert.isTrue(parsePciSpec('3:0.0', { permissive: true }).permissive);
    assert.isFalse(parsePciSpec('3:0.0,permissive=0', { permissive: true }).permissive);
  });
});

test('a BDF argument ignores what follows it, and one without a function is malformed', () => {
  assert.deepInclude(parseBdfArgument('03:00.0@5'), { bus: 3, functionMask: 1 });
  assert.throws(() => parseBdfArgument('03:00'), MalformedSpec);
});
