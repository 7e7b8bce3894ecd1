/** Xen's driver on SMMUv3s that are not the usual part: what it makes of each, and which it does not take. */
import { assert, describe, test } from 'vitest';
import { ERRNO } from '#shared/abi/errno.ts';
import { SMMU_EVENTQ_IRQ_CFG0_LO, SMMU_GERROR_IRQ_CFG0_LO, SMMU_IRQ_CTRL } from '#shared/arch/smmu/v3.ts';
import { readBoard } from '#shared/board/board-file.ts';
import type { SmmuV3Choices } from '#shared/board/choices.ts';
import { SmmuError } from '../../../services/xen/passthrough/smmu.ts';
import { DEVICE, GUEST_SBDF, XenRig } from './passthrough-rig.ts';

const board = readBoard('examples/boards/qemu-virt.yaml');
const rig = (smmu: Partial<SmmuV3Choices>): XenRig => new XenRig({ ...board, choices: { smmu } });

interface View {
  readonly streamTable: { readonly format: string; readonly log2size: number; readonly aborting: number };
  readonly streams: Readonly<Record<number, { readonly S2VMID: number; readonly S2TTB: number }>>;
}

function smmu(r: XenRig): View {
  const { smmu } = r.hardware.inspect() as { smmu: Record<string, View> };
  return smmu['smmu@9050000']!;
}

describe('a stream table', () => {
  test('is linear where there is no other, every entry abort', () => {
    const { streamTable, streams } = smmu(rig({ ST_LEVEL: 0, SIDSIZE: 12 }));
    assert.deepInclude(streamTable, { format: 'linear', log2size: 12, aborting: 4096 });
    assert.deepEqual(streams, {});
  });

  test('is linear where one array of the second level would hold it all', () => {
    assert.deepInclude(smmu(rig({ SIDSIZE: 8 })).streamTable, { format: 'linear', log2size: 8 });
    assert.deepInclude(smmu(rig({ SIDSIZE: 9 })).streamTable, { format: 'two-level', log2size: 9 });
  });

  test('has 25 bits of StreamID at most', () => {
    assert.deepInclude(smmu(rig({ SIDSIZE: 32 })).streamTable, { format: 'two-level', log2size: 25 });
  });

  test.each<Partial<SmmuV3Choices>>([{ ST_LEVEL: 0 }, { ST_LEVEL: 1 }])(
    '%j has an entry as long as the function is assigned, and aborts before and after',
    (choice) => {
      const r = rig(choice);
      r.enumerate([DEVICE]);
      const before = smmu(r);
      const guest = r.guest(1);
      r.run(r.xen.pciDevices.assign(guest, DEVICE, GUEST_SBDF, 0));
      const { streams, streamTable } = smmu(r);
      assert.deepInclude(streams[DEVICE], { S2VMID: guest.vmid, S2TTB: guest.p2m.rootPa });
      assert.equal(streamTable.aborting, before.streamTable.aborting - 1);
      r.run(r.xen.pciDevices.deassign(guest, DEVICE));
      assert.deepEqual(smmu(r).streams, {});
      assert.equal(smmu(r).streamTable.aborting, before.streamTable.aborting);
    },
  );

  test('without room for a StreamID leaves its function to nobody', () => {
    const r = rig({ SIDSIZE: 6 });
    const stream = { phandle: r.xen.smmus.drivers[0]!.phandle, id: DEVICE };
    assert.equal(
      r.errno(() => r.xen.smmus.addStream(stream)),
      ERRNO.ERANGE,
    );
  });
});

test('interrupts come by wire, whatever address firmware left for them', () => {
  const r = rig({ MSI: 1 });
  const at = (register: { readonly offset: number }): number => 0x905_0000 + register.offset;
  r.run(r.el2.write32(at(SMMU_IRQ_CTRL), 0));
  r.run(r.el2.write32(at(SMMU_EVENTQ_IRQ_CFG0_LO), 0x4800_0000));
  r.run(r.el2.write32(at(SMMU_GERROR_IRQ_CFG0_LO), 0x4800_0000));
  r.run(r.xen.smmus.init());
  assert.equal(r.run(r.el2.read32(at(SMMU_EVENTQ_IRQ_CFG0_LO))), 0);
  assert.equal(r.run(r.el2.read32(at(SMMU_GERROR_IRQ_CFG0_LO))), 0);
});

test.each<[Partial<SmmuV3Choices>, RegExp]>([
  [{ S2P: 0 }, /^smmuv3@9050000 has no stage 2 \(SMMU_IDR0.S2P\)$/],
  [{ CMDQS: 0 }, /^smmuv3@9050000 has a command queue of one entry \(SMMU_IDR1.CMDQS\)$/],
  [{ OAS: 1 }, /^smmuv3@9050000 takes addresses of 36 bits \(SMMU_IDR5.OAS\), and those of domains have 40$/],
  [{ ST_LEVEL: 0, SIDSIZE: 26 }, /^smmuv3@9050000 needs a linear stream table of 4294967296 bytes, .* no memory$/],
])('Xen does not start on an SMMUv3 with %j, and says why in a line', (choice, line) => {
  assert.throws(() => rig(choice), SmmuError, line);
});
