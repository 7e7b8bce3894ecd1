/** A GICv2 as EL2 reaches it: accesses that say which CPU makes them, batches, notices. */
import { assert, describe, test } from 'vitest';
import { GICD_ISENABLER, GICD_ISPENDR, GICD_ITARGETSR } from '#shared/arch/gic/distributor.ts';
import { GICC_CTLR, GICC_EOIR, GICC_IAR, GICC_PMR, GICC_RPR } from '#shared/arch/gic/v2.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { BoardError } from '#shared/board/parts.ts';
import { loadBoard } from '../../../../services/hardware/board/load.ts';
import { CoreRig, le, number, physRead, physWrite, sysregRead } from '../core-rig.ts';

const BOARD = 'examples/boards/virt-gicv2.yaml';
const GICD = 0x0800_0000;
const GICC = 0x0801_0000;
const PPI = 27;
const NO_DATA = new Uint8Array(0);
const FAILED = -14;

/** Both enables; PPI 27 of CPU 2 is enabled, its interface open. */
function ready(): CoreRig {
  const r = new CoreRig(BOARD);
  r.el2(
    physWrite(GICD, le(3)),
    physWrite(GICD + GICD_ISENABLER, le(2 ** PPI), 2),
    physWrite(GICC + GICC_PMR, le(0xff), 2),
    physWrite(GICC + GICC_CTLR, le(1), 2),
  );
  return r;
}

describe('an EL2 access to a GICv2', () => {
  test('reaches the registers of the CPU that makes it, the first unless it says so', () => {
    const r = ready();
    const targets = [0, 1, 2, 3].map((pcpu) => number(r.el2(physRead(GICD + GICD_ITARGETSR, 1, pcpu))[0]!.data));
    assert.deepEqual(targets, [1, 2, 4, 8]);
    assert.equal(number(r.el2(physRead(GICC + GICC_PMR, 4))[0]!.data), 0);
  });

  test('of a CPU that does not exist fails', () => {
    const r = ready();
    const [read, write] = r.el2(physRead(GICC, 4, 4), physWrite(GICC, le(0), 4));
    assert.deepEqual([read!.error, write!.error], [FAILED, FAILED]);
  });

  test('may write what an earlier one of its batch has read', () => {
    const r = ready();
    r.el2(physWrite(GICD + GICD_ISPENDR, le(2 ** PPI), 2));
    const [iar, eoir] = r.el2(physRead(GICC + GICC_IAR, 4, 2), physWrite(GICC + GICC_EOIR, NO_DATA, 2, 1));
    assert.equal(number(iar!.data), PPI);
    assert.equal(eoir!.error, 0);
    assert.equal(number(r.el2(physRead(GICC + GICC_RPR, 4, 2))[0]!.data), 0xff);
  });

  test('that takes its data from one that failed, or from none, fails', () => {
    const r = ready();
    const [, fromFailed, fromLater] = r.el2(
      physRead(0x0700_0000, 4),
      physWrite(GICC + GICC_EOIR, NO_DATA, 0, 1),
      physWrite(GICC + GICC_EOIR, NO_DATA, 0, 4),
    );
    assert.deepEqual([fromFailed!.error, fromLater!.error], [FAILED, FAILED]);
  });

  test('by system register fails: its CPU interfaces are in memory', () => {
    assert.equal(ready().el2(sysregRead('ICC_IAR1_EL1'))[0]!.error, FAILED);
  });
});

test('a board file that chooses something of a GICv3 for it is refused', () => {
  const description = readBoard(BOARD);
  assert.throws(
    () => loadBoard({ ...description, choices: { gic: { idBits: 20 } } }),
    BoardError,
    'board file chooses gic, which is of a GICv3; /interrupt-controller@8000000 is a GICv2',
  );
});

describe('the notice of a pending interrupt', () => {
  test('names the CPU, comes again after 20 ms, and no more once that CPU read GICC_IAR', () => {
    const r = ready();
    r.el2(physWrite(GICD + GICD_ISPENDR, le(2 ** PPI), 2));
    assert.deepEqual(r.sent('interruptPending')?.value, { pcpu: 2 });
    r.pass(20e6);
    assert.deepEqual(r.sent('interruptPending')?.value, { pcpu: 2 });
    r.el2(physRead(GICC + GICC_IAR, 4, 2), physWrite(GICC + GICC_EOIR, NO_DATA, 2, 1));
    r.pass(100e6);
    assert.equal(r.sent('interruptPending'), undefined);
  });
});
