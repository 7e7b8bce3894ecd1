/** A machine saved, restored, and run on beside the original. */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_OP, DMA_PROBE_STATUS, dmaProbeWord } from '#shared/arch/dma-probe.ts';
import { GITS_BASER, GITS_CTLR } from '#shared/arch/gic/its.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { unpack } from '#shared/state/pack.ts';
import { loadBoard } from '../../../services/hardware/board/load.ts';
import { Machine, restoreMachine, saveMachine } from '../../../services/hardware/machine.ts';
import { SavedStateError } from '../../../services/hardware/state/saved.ts';
import { BAR0, Clock, FUNCTION, IPA_RAM, ITS, LPI, le, MachineRig, PA_RAM, RID } from './machine-rig.ts';

const WRITE_AND_TELL = (0x8000_0000 | DMA_PROBE_OP.WRITE) >>> 0;
/** More than one burst. */
const BYTES = 0x18_0000;
const NOTHING = 1023;

/** Everything there is to see of a machine. */
function seen(rig: MachineRig) {
  return { inspected: rig.machine.inspect(), saved: saveMachine(rig.machine), signals: rig.signals.splice(0) };
}

function assertAlike(a: MachineRig, b: MachineRig): void {
  const [one, other] = [seen(a), seen(b)];
  assert.deepEqual(one.inspected, other.inspected);
  assert.deepEqual(one.signals, other.signals);
  assert.deepEqual(unpack(one.saved), unpack(other.saved));
}

describe('a machine that was saved and restored', () => {
  test('is the same machine, in all that can be seen and in all that is kept', () => {
    const rig = new MachineRig().ready();
    rig.dma(WRITE_AND_TELL, 64, 7);
    rig.clock.pass(1e9);
    const copy = rig.copy();
    rig.signals.length = 0;
    assertAlike(rig, copy);
    assert.deepEqual([copy.take(), copy.take()], [LPI, NOTHING]);
    assert.deepEqual([rig.take(), rig.take()], [LPI, NOTHING]);
    assertAlike(rig, copy);
  });

  test('goes on with a DMA that was under way, and tells of its end at the same time', () => {
    const rig = new MachineRig().ready();
    rig.dma(WRITE_AND_TELL, BYTES, 3);
    let passed = 0;
    // Until some of it is done and some is not.
    while (rig.read(PA_RAM) !== dmaProbeWord(3, 0) && passed++ < 1000) rig.clock.pass(1000);
    assert.equal(rig.read(BAR0 + DMA_PROBE.STATUS) & DMA_PROBE_STATUS.BUSY, DMA_PROBE_STATUS.BUSY);
    const copy = rig.copy();
    for (const step of [0, 50, 333, 10_000, 1e6, 1e9]) {
      rig.clock.pass(step);
      copy.clock.pass(step);
      assert.equal(rig.read(BAR0 + DMA_PROBE.STATUS), copy.read(BAR0 + DMA_PROBE.STATUS));
      assert.deepEqual(rig.machine.inspect(), copy.machine.inspect());
    }
    assert.deepEqual(copy.signals, [0]);
    for (const at of [0, BYTES - 4]) assert.equal(copy.read(PA_RAM + at), dmaProbeWord(3, at / 4));
    assert.deepEqual([rig.take(), copy.take()], [LPI, LPI]);
    rig.signals.length = 0;
    copy.signals.length = 0;
    assertAlike(rig, copy);
  });

  test('keeps what its caches hold, stale or not', () => {
    const rig = new MachineRig().ready();
    rig.dma(DMA_PROBE_OP.WRITE, 4, 1);
    rig.clock.pass(1e9);
    // Stage 2 of the domain is taken away without any invalidation: the SMMU's TLB still has the page.
    rig.write(0x4100_0000, new Uint8Array(0x4000));
    const copy = rig.copy();
    for (const machine of [rig, copy]) {
      machine.probe(DMA_PROBE.PATTERN, 9);
      machine.probe(DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
      machine.clock.pass(1e9);
      assert.equal(machine.read(PA_RAM), dmaProbeWord(9, 0));
    }
    assertAlike(rig, copy);
  });

  for (const name of ['thunderx-2015', 'numa-4its']) {
    test(`is the same on the board ${name}, with all its ITSs, SMMUs and bridges`, () => {
      const board = loadBoard(readBoard(`examples/boards/${name}.yaml`));
      const hooks = { interruptPending: () => {} };
      const machine = new Machine(board, new Clock(), hooks);
      assert.isAbove(machine.its.length * machine.smmus.length * machine.fabric.bridges.length, 7);
      machine.its.forEach((its, i) => void its.write(GITS_BASER, 4, 0x4000_0000 + 0x10_0000 * i));
      machine.gic.setSpiLine(40, true);
      const copy = restoreMachine(board, saveMachine(machine), new Clock(5), hooks);
      assert.deepEqual(copy.inspect(), machine.inspect());
      assert.deepEqual(unpack(saveMachine(copy)), unpack(saveMachine(machine)));
    });
  }

  test('goes its own way afterwards', () => {
    const rig = new MachineRig().ready();
    const copy = rig.copy();
    copy.write(PA_RAM, le(0x1234));
    copy.write(ITS + GITS_CTLR, le(0));
    assert.deepEqual([rig.read(PA_RAM), rig.read(ITS + GITS_CTLR)], [0, 1]);
  });

  test('is refused by another board, and as bytes that are no machine', () => {
    const rig = new MachineRig();
    const bytes = saveMachine(rig.machine);
    const { board } = rig.machine;
    const hooks = { interruptPending: () => {} };
    const other = { ...board, functions: board.functions.slice(1) };
    assert.throws(() => restoreMachine(other, bytes, new Clock(), hooks), SavedStateError, /another board/);
    for (const junk of [new Uint8Array(0), Uint8Array.of(1), new TextEncoder().encode('culvert')]) {
      assert.throws(() => restoreMachine(board, junk, new Clock(), hooks), SavedStateError);
    }
  });
});

describe('a warm reset', () => {
  test('keeps RAM, and no device reaches memory or raises an interrupt until the machine is programmed again', () => {
    const rig = new MachineRig().ready();
    rig.dma(WRITE_AND_TELL, 64, 7);
    rig.clock.pass(1e9);
    rig.machine.reset();
    assert.equal(rig.read(PA_RAM), dmaProbeWord(7, 0));
    assert.equal(rig.take(), NOTHING);
    assert.isBelow(rig.machine.port(1).translate(IPA_RAM, false), 0);
    assert.equal(rig.read(FUNCTION + PCI.COMMAND, 2), 0xffff, 'no bus is behind the root port');
    const [bridge] = rig.machine.fabric.bridges;
    const wrote = rig.machine.smmus[0]!.dmaWrite(bridge!.requester(RID), IPA_RAM, le(0));
    assert.equal(wrote, 0);
    assert.equal(rig.read(PA_RAM), dmaProbeWord(7, 0));
    assert.equal(rig.read(ITS + GITS_CTLR), 0x8000_0000);
  });

  test('leaves a machine that can be programmed as a new one', () => {
    const rig = new MachineRig().ready();
    rig.dma(WRITE_AND_TELL, BYTES, 7);
    rig.machine.reset();
    rig.clock.pass(1e9);
    assert.deepEqual(rig.signals, []);
    rig.ready();
    assert.equal(rig.read(FUNCTION + PCI.COMMAND, 2) & PCI_COMMAND.MASTER, PCI_COMMAND.MASTER);
    rig.dma(WRITE_AND_TELL, 64, 8);
    rig.clock.pass(1e9);
    assert.equal(rig.read(PA_RAM + 60), dmaProbeWord(8, 15));
    assert.equal(rig.take(), LPI);
  });
});
