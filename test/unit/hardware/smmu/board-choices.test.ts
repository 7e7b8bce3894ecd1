/** What a board file says of its SMMUv3s reaches their registers, and their interrupts the ITS of their msi-parent. */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_OP } from '#shared/arch/dma-probe.ts';
import { GITS_CWRITER } from '#shared/arch/gic/its.ts';
import { encodeMapd, encodeMapti, itsCommandBytes } from '#shared/arch/gic/its-commands.ts';
import * as v3 from '#shared/arch/smmu/v3.ts';
import { encodeSync, SYNC_CS } from '#shared/arch/smmu/v3-queues.ts';
import { boardSchema, readBoard } from '#shared/board/board-file.ts';
import type { SmmuV3Choices } from '#shared/board/choices.ts';
import type { BoardDescription } from '#shared/board/description.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import { asWord, get } from '#shared/regs/field.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { loadBoard } from '../../../../services/hardware/board/load.ts';
import { BoardError } from '../../../../services/hardware/board.ts';
import { Machine, restoreMachine, saveMachine } from '../../../../services/hardware/machine.ts';
import { SavedStateError } from '../../../../services/hardware/state/saved.ts';
import { Clock, CMDQ, ITS, ITS_MEMORY, LPI, le, MachineRig, PA_RAM, SMMU } from '../machine-rig.ts';

const description = readBoard('examples/boards/qemu-virt.yaml');
const OWN_DEVICE_ID = 0xff00;
const GITS_TRANSLATER_PA = ITS + 0x1_0040;

function machine(smmu: Partial<SmmuV3Choices>, of: BoardDescription = description): Machine {
  return new Machine(loadBoard({ ...of, choices: { smmu } }), new Clock(), { interruptPending: () => {} });
}

function read(m: Machine, register: { readonly offset: number }): number {
  return m.smmus[0]!.registers.read(register.offset, 4);
}

describe('an SMMUv3 of a board', () => {
  test('has the identification registers that the board file gives', () => {
    const { smmu } = boardSchema.parse({
      dtb: 'x',
      smmu: { ST_LEVEL: 0, VMID16: 0, MSI: 1, RIL: 1, SIDSIZE: 12, SSIDSIZE: 5, OAS: 2, CMDQS: 3 },
      functions: [{ at: '0000:00:00.0' }],
    });
    const m = machine(smmu!);
    const idr0 = asWord(v3.SMMU_IDR0, read(m, v3.SMMU_IDR0));
    const idr1 = asWord(v3.SMMU_IDR1, read(m, v3.SMMU_IDR1));
    const { ST_LEVEL, VMID16, MSI, S1P } = v3.SMMU_IDR0;
    assert.deepEqual(
      [ST_LEVEL, VMID16, MSI, S1P].map((field) => get(field, idr0)),
      [0, 0, 1, 1],
    );
    const { SIDSIZE, SSIDSIZE, CMDQS } = v3.SMMU_IDR1;
    assert.deepEqual(
      [SIDSIZE, SSIDSIZE, CMDQS].map((field) => get(field, idr1)),
      [12, 5, 3],
    );
    assert.equal(get(v3.SMMU_IDR5.OAS, asWord(v3.SMMU_IDR5, read(m, v3.SMMU_IDR5))), 2);
    assert.equal(get(v3.SMMU_IDR3.RIL, asWord(v3.SMMU_IDR3, read(m, v3.SMMU_IDR3))), 1);
  });

  test('has as many StreamID bits as its iommu-maps need, when the file says nothing', () => {
    const sizeOf = (m: Machine): number => get(v3.SMMU_IDR1.SIDSIZE, asWord(v3.SMMU_IDR1, read(m, v3.SMMU_IDR1)));
    const board = loadBoard(description);
    const [bridge, ...others] = board.bridges;
    const rows = bridge!.iommuMap.rows.map((row) => ({ ...row, outBase: 0x5_0000 }));
    const moved = { ...board, bridges: [{ ...bridge!, iommuMap: { ...bridge!.iommuMap, rows } }, ...others] };
    assert.equal(sizeOf(new Machine(moved, new Clock(), { interruptPending: () => {} })), 19);
    assert.equal(sizeOf(machine({})), 16);
  });

  test('is refused in a line when it cannot be', () => {
    assert.throws(() => machine({ S1P: 0, S2P: 0 }), BoardError, 'without stage 1 and without stage 2');
    assert.throws(() => machine({ S1P: 0, SSIDSIZE: 4 }), BoardError, 'SSIDSIZE 4');
    assert.throws(() => machine({ OAS: 6 }), BoardError, 'OAS 6');
    assert.throws(() => machine({ SIDSIZE: 33 }), BoardError, 'SIDSIZE 33');
    assert.throws(() => machine({ CMDQS: 20 }), BoardError, 'CMDQS 20');
    assert.throws(() => machine({}, readBoard('examples/boards/thunderx-2015.yaml')), BoardError, 'the board has none');
    for (const smmu of [{ ST_LEVEL: 2 }, { OAS: 6 }, { SIDSIZE: 33 }, { MSI: true }, { STALL_MODEL: 0 }]) {
      const file = { dtb: 'x', smmu, functions: [{ at: '0000:00:00.0' }] };
      assert.isFalse(boardSchema.safeParse(file).success);
    }
  });

  test('takes the state of the same choices only', () => {
    const bytes = saveMachine(machine({ SIDSIZE: 12 }));
    const load = (smmu: Partial<SmmuV3Choices>): Machine =>
      restoreMachine(loadBoard({ ...description, choices: { smmu } }), bytes, new Clock(), {
        interruptPending: () => {},
      });
    assert.doesNotThrow(() => load({ SIDSIZE: 12 }));
    assert.throws(() => load({ SIDSIZE: 13 }), SavedStateError);
  });
});

describe('an SMMUv3 with MSI', () => {
  /** The board with `msi-parent` at its SMMU, or with what a test names there. */
  function withParent(compatible = 'arm,gic-v3-its', MSI: 0 | 1 = 1, deviceId = OWN_DEVICE_ID): MachineRig {
    const tree = parseFdt(description.dtb);
    const [smmu] = tree.compatibleNodes('arm,smmu-v3');
    smmu!.setCells('msi-parent', tree.compatibleNodes(compatible)[0]!.phandle!, deviceId);
    const board = loadBoard({ ...description, dtb: buildFdt(tree), choices: { smmu: { MSI } } });
    return new MachineRig(
      new Clock(),
      (clock, interruptPending) => new Machine(board, clock, { interruptPending }),
    ).ready();
  }

  /** Maps event 1 of the SMMU's own DeviceID to LPI + 1, and gives the SMMU that for its event queue. */
  function programmed(rig: MachineRig): MachineRig {
    const commands = [
      encodeMapd({ deviceId: OWN_DEVICE_ID, size: 4, ittAddress: ITS_MEMORY + 0xb_0000, valid: true }),
      encodeMapti({ deviceId: OWN_DEVICE_ID, eventId: 1, pIntid: LPI + 1, icid: 0 }),
    ];
    const queued = rig.read(ITS + GITS_CWRITER);
    rig.write(ITS_MEMORY + 0x9_0000 + queued, itsCommandBytes(commands));
    rig.write(ITS + GITS_CWRITER, le(queued + 32 * commands.length));
    rig.write(SMMU + v3.SMMU_IRQ_CTRL.offset, le(0));
    rig.write(SMMU + v3.SMMU_EVENTQ_IRQ_CFG0_LO.offset, le(GITS_TRANSLATER_PA, 8));
    rig.write(SMMU + v3.SMMU_EVENTQ_IRQ_CFG1.offset, le(1));
    rig.write(SMMU + v3.SMMU_IRQ_CTRL.offset, le(5));
    return rig;
  }

  function fault(rig: MachineRig): void {
    rig.probe(DMA_PROBE.DST_LO, 0x7000_0000);
    rig.probe(DMA_PROBE.LENGTH_LO, 64);
    rig.probe(DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    rig.clock.pass(1e6);
  }

  test('reports an event as an LPI, with the DeviceID that its msi-parent gives', () => {
    const rig = programmed(withParent());
    fault(rig);
    assert.equal(rig.take(), LPI + 1);
    assert.equal(rig.machine.its[0]!.counts.msisDelivered, 1);
  });

  test('makes DeviceIDs of its ITS as wide as its own', () => {
    assert.equal(withParent('arm,gic-v3-its', 1, 0x2_0000).machine.its[0]!.choices.deviceIdBits, 18);
  });

  test('has no DeviceID without an ITS as its msi-parent, so the ITS drops what it writes', () => {
    const rig = programmed(withParent('arm,smmu-v3'));
    fault(rig);
    assert.deepEqual(rig.machine.its[0]!.counts.msisDropped, { 'not-from-a-device': 1 });
  });

  test('writes the data of a CMD_SYNC to memory', () => {
    const rig = withParent();
    const at = rig.read(SMMU + v3.SMMU_CMDQ_PROD.offset);
    rig.write(CMDQ + 16 * at, bytesOf(encodeSync(SYNC_CS.SIG_IRQ, { address: PA_RAM, data: 0xcafe })));
    rig.write(SMMU + v3.SMMU_CMDQ_PROD.offset, le(at + 1));
    assert.equal(rig.read(PA_RAM), 0xcafe);
  });

  test('pulses the wire when it was not chosen, whatever the tree and the registers say', () => {
    const rig = programmed(withParent('arm,gic-v3-its', 0));
    fault(rig);
    assert.equal(rig.machine.its[0]!.counts.msisDelivered, 0);
    assert.deepEqual(rig.machine.its[0]!.counts.msisDropped, {});
  });
});
