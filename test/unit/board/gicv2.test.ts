import { assert, describe, test } from 'vitest';
import { BoardError, requireGicv3 } from '#shared/board/parts.ts';
import { readBoardTree } from '#shared/board/tree/read.ts';
import { buildFdt } from '#shared/fdt/blob.ts';
import type { FdtNode } from '#shared/fdt/node.ts';
import { virtGicv2 } from '#tools/boards/virt-gicv2.ts';
import { board as boardCommand } from '#tools/culvert/board.ts';

const GIC = '/interrupt-controller@8000000';
const FILE = 'examples/boards/virt-gicv2.dtb';

function read(change: (root: FdtNode, gic: FdtNode) => void = () => {}, without: readonly 'msi'[] = ['msi']) {
  const root = virtGicv2();
  change(root, root.find(GIC)!);
  return readBoardTree({ dtb: buildFdt(root), without });
}

describe('a board with a GICv2', () => {
  test('is taken for its wired interrupts when it may lack messages', () => {
    const { gic, itses, bridges } = read();
    assert.deepEqual(gic, {
      version: 2,
      path: GIC,
      phandle: 0x100,
      distributor: { pa: 0x0800_0000, sizeBytes: 0x1_0000 },
      cpuInterface: { pa: 0x0801_0000, sizeBytes: 0x1_0000 },
      v2mFrames: [{ path: `${GIC}/v2m@8020000`, registers: { pa: 0x0802_0000, sizeBytes: 0x1000 } }],
      its: [],
    });
    assert.isEmpty(itses);
    assert.deepEqual(
      bridges.map((b) => [b.msiMap, b.interruptMap?.rows.length]),
      [
        [undefined, 4],
        [undefined, 4],
      ],
    );
    assert.throws(() => requireGicv3(gic), BoardError, 'is a GICv2, and a GICv3 is needed here');
  });

  test.each(['arm,gic-400', 'arm,cortex-a15-gic', 'arm,cortex-a9-gic', 'arm,cortex-a7-gic', 'arm,pl390'])(
    'is told by %s',
    (name) => {
      assert.equal(read((_, gic) => gic.setStrings('compatible', name)).gic.version, 2);
    },
  );

  test('has a CPU interface of two pages, whatever old firmware says of it', () => {
    const { gic } = read((_, node) =>
      node.setReg({ address: 0x0800_0000, sizeBytes: 0x1000 }, { address: 0x0801_0000, sizeBytes: 0x1000 }),
    );
    assert.deepInclude(gic, { cpuInterface: { pa: 0x0801_0000, sizeBytes: 0x2000 } });
  });

  test.for<[string, (root: FdtNode, gic: FdtNode) => void]>([
    ['has no distributor of 0x1000 bytes', (_, gic) => gic.setReg({ address: 0x0800_0000, sizeBytes: 0x800 })],
    ['has no CPU interface of 0x1000 bytes', (_, gic) => gic.setReg({ address: 0x0800_0000, sizeBytes: 0x1000 })],
    [
      'board has 9 CPUs, and a GICv2 has interfaces for 8 at most',
      (root) => {
        const cpus = root.find('/cpus')!;
        for (let n = 4; n < 9; n++) cpus.addChild(`cpu@${n}`).setStrings('device_type', 'cpu').setU64('reg', n);
      },
    ],
    [
      'board has two GICs',
      (root) => void root.addChild('interrupt-controller@2').setStrings('compatible', 'arm,gic-v3'),
    ],
    [
      'overlap at 0x8010000',
      (_, gic) =>
        gic.setReg({ address: 0x0800_0000, sizeBytes: 0x1_1000 }, { address: 0x0801_0000, sizeBytes: 0x2000 }),
    ],
  ])('is refused in one line: %s', ([text, change]) => {
    assert.throws(() => read(change), BoardError, text);
  });

  test('is refused for messages in one line that says what is beside it', () => {
    const refused = (change?: (root: FdtNode, gic: FdtNode) => void): string => {
      try {
        read(change, []);
      } catch (error) {
        return (error as Error).message;
      }
      return 'it was taken';
    };
    assert.equal(
      refused(),
      `board has no GICv3 ITS: ${GIC} is a GICv2, its v2m frame makes SPIs of messages and translates nothing through an ITS ("without: [msi]" in the board file allows it: INTx only)`,
    );
    assert.include(
      refused((_, gic) => gic.removeChild(gic.children[0]!)),
      'nothing beside it translates messages',
    );
  });

  test('is printed with its frames', () => {
    assert.equal(boardCommand(FILE, {}).exit, 1);
    const { exit, stdout } = boardCommand(FILE, { without: ['msi'] });
    assert.equal(exit, 0);
    assert.include(
      stdout,
      `GICv2    ${GIC}: distributor 0x8000000+0x10000\n         CPU interface 0x8010000+0x10000\n         v2m frame ${GIC}/v2m@8020000: 0x8020000+0x1000, not modelled\n`,
    );
    const { gic } = JSON.parse(boardCommand(FILE, { without: ['msi'], json: true }).stdout) as { gic: object };
    assert.hasAllKeys(gic, ['path', 'version', 'distributor', 'cpuInterface', 'v2mFrames']);
  });
});
