/** How `culvert inspect` prints a tree. */
import { assert, test } from 'vitest';
import { formatTree } from '../../../../tools/culvert/inspect.ts';

test('a tree is printed one value a line, small objects and lists on one, addresses in hexadecimal', () => {
  const tree = {
    ready: true,
    its: {
      'its@8080000': {
        devices: { 264: { ittPa: 0x4040_0000, events: 32, mapped: [{ eventId: 3, pIntid: 8200, icid: 1 }] } },
        errors: {},
        lastError: '',
      },
    },
    pending: [8200, 8201],
    none: [],
  };
  assert.equal(
    formatTree(tree),
    [
      'ready: true',
      'its',
      '  its@8080000',
      '    devices',
      '      264',
      '        ittPa: 0x40400000',
      '        events: 32',
      '        mapped',
      '          0: eventId=3 pIntid=8200 icid=1',
      '    errors: -',
      '    lastError: ""',
      'pending: 8200 8201',
      'none: -',
      '',
    ].join('\n'),
  );
});

test('a plain value is printed alone, and an empty tree says so', () => {
  assert.deepEqual([formatTree(5), formatTree(null), formatTree({})], ['5\n', 'null\n', '(nothing)\n']);
});
