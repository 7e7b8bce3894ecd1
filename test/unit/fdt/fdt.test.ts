import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { assert, describe, test } from 'vitest';
import { buildFdt, parseFdt, parseFdtReservations } from '#shared/fdt/blob.ts';
import { FdtError, FdtNode } from '#shared/fdt/node.ts';

const DTB = new Uint8Array(readFileSync(new URL('../../../examples/boards/qemu-virt.dtb', import.meta.url)));

function plain(node: FdtNode): unknown {
  return [node.name, [...node.properties].map(([name, value]) => [name, [...value]]), node.children.map(plain)];
}

function messageOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    assert.instanceOf(error, FdtError);
    return (error as Error).message;
  }
  return 'no error';
}

describe('blobs', () => {
  test('a tree survives being written and read, byte for byte', () => {
    const root = parseFdt(DTB);
    const again = buildFdt(root, [{ address: 0x1_2345_6000, sizeBytes: 0x1000 }]);
    assert.deepEqual(plain(parseFdt(again)), plain(root));
    assert.deepEqual(parseFdtReservations(again), [{ address: 0x1_2345_6000, sizeBytes: 0x1000 }]);
    assert.deepEqual(parseFdtReservations(DTB), []);
  });

  test.skipIf(process.env['CI'] === undefined && spawnSync('dtc', ['--version']).error !== undefined)(
    'dtc reads what is written as the same source',
    () => {
      const source = (blob: Uint8Array): string =>
        execFileSync('dtc', ['-q', '-I', 'dtb', '-O', 'dts'], { input: blob }).toString();
      assert.equal(source(buildFdt(parseFdt(DTB))), source(DTB));
    },
  );

  test('every blob that ends too early is refused as truncated', () => {
    for (let length = 0; length < DTB.length; length += 61) {
      assert.match(
        messageOf(() => parseFdt(DTB.subarray(0, length))),
        /^device tree is truncated: .* \(at byte \d+\)$/,
      );
    }
  });

  test('a blob whose header hides the truncation is refused too', () => {
    const total = new DataView(DTB.buffer, DTB.byteOffset).getUint32(4);
    for (let length = 40; length < total; length += 61) {
      const cut = DTB.slice(0, length);
      new DataView(cut.buffer).setUint32(4, length);
      assert.match(
        messageOf(() => parseFdt(cut)),
        /^device tree is (truncated|malformed): /,
      );
    }
  });

  test('a changed byte gives a tree or a FdtError, nothing else', () => {
    const blob = DTB.slice();
    for (let i = 0; i < 400; i++) {
      const at = (i * 7919) % blob.length;
      const before = blob[at]!;
      blob[at] = before ^ 0xff;
      try {
        parseFdt(blob);
      } catch (error) {
        assert.instanceOf(error, FdtError, `byte ${at}`);
      }
      blob[at] = before;
    }
  });

  test.for([
    ['0x0 where the magic number', 0, 0],
    ['version 3', 20, 3],
    ['token 0x7', 0x38, 7],
  ] as const)('says what is wrong and where: %s', ([text, at, value]) => {
    const blob = buildFdt(new FdtNode());
    new DataView(blob.buffer).setUint32(at, value);
    assert.include(
      messageOf(() => parseFdt(blob)),
      text,
    );
  });
});

describe('nodes', () => {
  const root = parseFdt(DTB);

  test('reg is read in the cells of the parent, which are not inherited', () => {
    const top = new FdtNode().setCells('#address-cells', 1).setCells('#size-cells', 0);
    const cpu = top.addChild('cpu@3').setReg({ address: 3, sizeBytes: 0 });
    assert.deepEqual(cpu.reg(), [{ address: 3, sizeBytes: 0 }]);
    const below = cpu.addChild('x').setCells('reg', 1, 2, 3);
    assert.deepEqual(below.reg(), [{ address: 2 ** 32 + 2, sizeBytes: 3 }], 'two and one cells by default');
  });

  test('an address goes through the ranges of every bus above to the CPU', () => {
    const top = new FdtNode().setCells('#address-cells', 2).setCells('#size-cells', 2);
    const soc = top.addChild('soc').setCells('#address-cells', 1).setCells('#size-cells', 1);
    const uart = soc.addChild('uart@1000').setReg({ address: 0x1000, sizeBytes: 0x100 });
    assert.include(
      messageOf(() => uart.regions()),
      'has no ranges',
    );
    soc.setCells('ranges', 0, 0x84, 0x4000_0000, 0x1_0000);
    assert.deepEqual(uart.regions(), [{ address: 0x84_4000_1000, sizeBytes: 0x100 }]);
    soc.setFlag('ranges');
    assert.deepEqual(uart.regions(), [{ address: 0x1000, sizeBytes: 0x100 }]);
  });

  test('nodes are found by path, phandle and compatible, disabled ones only by path', () => {
    const gic = root.find('/intc@8000000')!;
    assert.equal(root.byPhandle(0x8003), gic);
    assert.deepEqual(
      root.compatibleNodes('arm,gic-v3-its').map((n) => n.path),
      ['/intc@8000000/its@8080000'],
    );
    const copy = root.copy();
    copy.find('/intc@8000000')!.setStrings('status', 'disabled');
    assert.deepEqual(copy.compatibleNodes('arm,gic-v3'), []);
  });

  test('interrupts are cut by the cells of the nearest interrupt parent', () => {
    const smmu = root.find('/smmuv3@9050000')!;
    assert.equal(smmu.interruptParent?.path, '/intc@8000000');
    assert.deepEqual(smmu.interrupts(), [
      [0, 74, 1],
      [0, 75, 1],
      [0, 76, 1],
      [0, 77, 1],
    ]);
  });

  test('strings, numbers and their mistakes', () => {
    const n = new FdtNode().setStrings('compatible', 'a,b', 'c').setU64('big', 0x12_3456_789a).setFlag('empty');
    assert.deepEqual(n.strings('compatible'), ['a,b', 'c']);
    assert.isTrue(n.isCompatible('c'));
    assert.equal(n.u64('big'), 0x12_3456_789a);
    assert.equal(n.u32('absent'), undefined);
    assert.include(
      messageOf(() => n.u32('big')),
      'is 8 bytes long, not 4',
    );
    assert.include(
      messageOf(() => n.setCells('huge', 0xffff_ffff, 0).u64('huge')),
      'above 2^53',
    );
  });
});
