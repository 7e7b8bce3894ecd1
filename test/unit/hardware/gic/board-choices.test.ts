/** What a board file says of the interrupt controller reaches its registers. */
import { assert, describe, test } from 'vitest';
import { GICD_TYPER } from '#shared/arch/gic/distributor.ts';
import { decodeGitsTyper, GITS_TYPER } from '#shared/arch/gic/its.ts';
import { decodeGicrTyper, GICR_TYPER } from '#shared/arch/gic/redistributor.ts';
import { boardSchema, readBoard } from '#shared/board/board-file.ts';
import type { BoardChoices } from '#shared/board/choices.ts';
import { loadBoard } from '../../../../services/hardware/board/load.ts';
import { BoardError } from '../../../../services/hardware/board.ts';
import { Machine } from '../../../../services/hardware/machine.ts';
import { Clock } from '../machine-rig.ts';

const description = readBoard('examples/boards/qemu-virt.yaml');

function machine(choices: BoardChoices): Machine {
  return new Machine(loadBoard({ ...description, choices }), new Clock(), { interruptPending: () => {} });
}

function typerOf({ its: [its] }: Machine) {
  return decodeGitsTyper({ lo: its!.read(GITS_TYPER, 4), hi: its!.read(GITS_TYPER + 4, 4) });
}

describe('the interrupt controller of a board', () => {
  test('has the sizes and options that the board file gives', () => {
    const file = boardSchema.parse({
      dtb: 'x',
      gic: { idBits: 20, directLpi: true },
      its: { deviceIdBits: 24, PTA: true, ittEntryBytes: 12 },
      functions: [{ at: '0000:00:00.0' }],
    });
    const m = machine({ gic: file.gic!, its: file.its! });
    const typer = typerOf(m);
    assert.deepEqual([typer.deviceIdBits, typer.eventIdBits, typer.PTA, typer.ittEntryBytes], [24, 16, true, 12]);
    assert.equal(((m.gicv3!.distributor.read(GICD_TYPER, 4) >>> 19) & 0x1f) + 1, 20);
    assert.isTrue(decodeGicrTyper({ lo: m.gicv3!.regions[0]!.read(GICR_TYPER, 4), hi: 0 }).DirectLPI);
  });

  test('has as many DeviceID bits as its msi-maps need, when the file says nothing', () => {
    const board = loadBoard(description);
    const [bridge, ...others] = board.bridges;
    const rows = bridge!.msiMap!.rows.map((row) => ({ ...row, outBase: 0x3_0000 }));
    const moved = { ...board, bridges: [{ ...bridge!, msiMap: { ...bridge!.msiMap!, rows } }, ...others] };
    assert.equal(typerOf(new Machine(moved, new Clock(), { interruptPending: () => {} })).deviceIdBits, 18);
    assert.equal(typerOf(machine({})).deviceIdBits, 16);
  });

  test('is refused in a line when it cannot be', () => {
    assert.throws(() => machine({ its: { ittEntryBytes: 4 } }), BoardError, /16 bits and ICIDs of 15/);
    for (const its of [{ deviceIdBits: 7 }, { ittEntryBytes: 5 }, { onError: 'explode' }, { colour: 'red' }]) {
      const file = { dtb: 'x', its, functions: [{ at: '0000:00:00.0' }] };
      assert.isFalse(boardSchema.safeParse(file).success);
    }
  });
});
