/**
 * The whole way of an interrupt and of a DMA through the machine, with every part programmed through its registers:
 * a domain's store to dma-probe behind a root port, the message through the SMMU's stage 2 to the ITS, the LPI at a CPU.
 */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC, DMA_PROBE_OP, DMA_PROBE_STATUS, dmaProbeWord } from '#shared/arch/dma-probe.ts';
import { encodeInv, encodeMapc, encodeMapd, encodeMapti } from '#shared/arch/gic/its-commands.ts';
import { PCI_BRIDGE } from '#shared/arch/pci/bridge-header.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX, PCI_MSIX_ENTRY, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import { encodeCfgiAll, encodeTlbiNsnhAll } from '#shared/arch/smmu/v3-queues.ts';
import { encodeStage2Ste, STE_BYTES } from '#shared/arch/smmu/v3-structures.ts';
import type { Op } from '#shared/core/op.ts';
import { ItsDriver } from '#shared/kernel/its-driver.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import {
  CoreRig,
  le,
  number,
  physRead,
  physWrite,
  RAM,
  ROOT,
  read,
  sysregRead,
  sysregWrite,
  write,
} from './core-rig.ts';

const ECAM = 0x40_1000_0000;
const GICD = 0x0800_0000;
const GICR = 0x080a_0000;
const ITS = 0x0808_0000;
const SMMU = 0x0905_0000;
const PORT = ECAM + (2 << 15);
const FUNCTION = ECAM + (1 << 20);
const BAR0 = 0x1000_0000;
const BAR3 = 0x1004_0000;
/** 01:00.0: requester id, StreamID and DeviceID are the same on this board. */
const RID = 0x100;
const VMID = 9;
const LPI = 8192;
const SMMU_EVENTQ_INTID = 32 + 0x4a;

const STREAM_TABLE = RAM + 0x180_0000;
const CMDQ = RAM + 0x190_0000;
const EVENTQ = RAM + 0x190_1000;
const PROP = RAM + 0x1a0_0000;
const PEND = RAM + 0x1b0_0000;

/** What the domain sees. */
const IPA_BAR0 = 0x1_0000;
const IPA_DOORBELL = 0x2_0000;
const IPA_RAM = 0x3_0000;
const PA_RAM = RAM + 0x200_0000;

function drive(op: Op<void>): void {
  for (let next = op.next(); !next.done; next = op.next()) {
    if (next.value.step === 'lock') next.value.lock.acquire(() => {});
  }
}

function startGic(r: CoreRig): void {
  r.el2(
    physWrite(GICD, le(2)),
    // The SMMU's eventq: group 1, enabled, edge, PE 0.
    physWrite(GICD + 0x80 + 12, le(0xffff_ffff)),
    physWrite(GICD + 0x100 + 12, le(1 << (SMMU_EVENTQ_INTID % 32))),
    physWrite(GICD + 0x400 + SMMU_EVENTQ_INTID, le(0xa0, 1)),
    physWrite(GICD + 0xc00 + 4 * Math.floor(SMMU_EVENTQ_INTID / 16), le(0xaaaa_aaaa)),
    physWrite(GICD + 0x6000 + 8 * SMMU_EVENTQ_INTID, le(0, 8)),
    physWrite(PROP, new Uint8Array(16).fill(0xa3)),
    physWrite(GICR + 0x70, le(PROP + 15, 8)),
    physWrite(GICR + 0x78, le(PEND + 2 ** 62, 8)),
    physWrite(GICR, le(1)),
    sysregWrite('ICC_PMR_EL1', 0xf8),
    sysregWrite('ICC_IGRPEN1_EL1', 1),
  );
}

function startIts(r: CoreRig): void {
  let free = RAM + 0x1c0_0000;
  const driver = new ItsDriver({
    name: 'its',
    base: ITS,
    // biome-ignore lint/correctness/useYield: nothing to wait for
    *allocate(sizeBytes) {
      free += sizeBytes + 0x1_0000 - (sizeBytes % 0x1_0000);
      return free - sizeBytes - 0x1_0000 + (sizeBytes % 0x1_0000);
    },
    io: {
      *run(accesses) {
        return r
          .el2(
            ...accesses.map((a) =>
              a.kind === 'read' ? physRead(a.address, a.sizeBytes) : physWrite(a.address, a.data),
            ),
          )
          .map((result) => {
            assert.equal(result.error, 0);
            return result.data;
          });
      },
    },
  });
  drive(driver.start());
  drive(
    driver.submit([
      encodeMapc({ icid: 0, rdbase: 0, valid: true }),
      encodeMapd({ deviceId: RID, size: 4, ittAddress: RAM + 0x1f0_0000, valid: true }),
      encodeMapti({ deviceId: RID, eventId: 5, pIntid: LPI, icid: 0 }),
      encodeInv({ deviceId: RID, eventId: 5 }),
    ]),
  );
}

/** The domain's own tables for its device: IPA and IOVA are the same. */
function startSmmu(r: CoreRig): void {
  const ste = encodeStage2Ste({ vmid: VMID, t0sz: 24, sl0: 1, ps: 5, ttb: ROOT });
  r.el2(
    physWrite(STREAM_TABLE + RID * STE_BYTES, bytesOf(ste)),
    physWrite(CMDQ, bytesOf(encodeCfgiAll())),
    physWrite(CMDQ + 16, bytesOf(encodeTlbiNsnhAll())),
    physWrite(SMMU + 0x80, le(STREAM_TABLE, 8)),
    physWrite(SMMU + 0x88, le(9)),
    physWrite(SMMU + 0x90, le(CMDQ + 4, 8)),
    physWrite(SMMU + 0xa0, le(EVENTQ + 4, 8)),
    physWrite(SMMU + 0x50, le(5)),
    physWrite(SMMU + 0x20, le(8)),
    physWrite(SMMU + 0x98, le(2)),
    physWrite(SMMU + 0x20, le(0xd)),
  );
}

function startFunction(r: CoreRig, portCommand: number = PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER): void {
  r.el2(
    physWrite(PORT + PCI_BRIDGE.PRIMARY_BUS, le(0x01_0100)),
    physWrite(PORT + PCI_BRIDGE.MEMORY_BASE, le(0x1010_1000)),
    // Closed: zero in both would be a window on the first MiB.
    physWrite(PORT + PCI_BRIDGE.PREF_MEMORY_BASE, le(0x0000_fff0)),
    physWrite(PORT + PCI.COMMAND, le(portCommand, 2)),
    physWrite(FUNCTION + PCI.BASE_ADDRESS_0, le(BAR0)),
    physWrite(FUNCTION + PCI.BASE_ADDRESS_0 + 12, le(BAR3)),
    physWrite(FUNCTION + PCI.COMMAND, le(PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER, 2)),
  );
  const msix = FUNCTION + 0xa0;
  assert.equal(number(r.el2(physRead(msix, 1))[0]!.data), 0x11);
  r.el2(
    physWrite(BAR3 + PCI_MSIX_ENTRY.ADDRESS_LO, le(IPA_DOORBELL + 0x40)),
    physWrite(BAR3 + PCI_MSIX_ENTRY.ADDRESS_HI, le(0)),
    physWrite(BAR3 + PCI_MSIX_ENTRY.DATA, le(5)),
    physWrite(BAR3 + PCI_MSIX_ENTRY.VECTOR_CTRL, le(0)),
    physWrite(msix + PCI_MSIX.FLAGS, le(PCI_MSIX_FLAGS.ENABLE, 2)),
  );
}

function ready(): CoreRig {
  const r = new CoreRig();
  startGic(r);
  startIts(r);
  r.loadPort(1, VMID);
  r.map(IPA_BAR0, BAR0);
  r.map(IPA_DOORBELL, ITS + 0x1_0000);
  r.map(IPA_RAM, PA_RAM);
  startSmmu(r);
  startFunction(r);
  return r;
}

function store(r: CoreRig, offset: number, value: number): void {
  assert.equal(r.results(r.cpu(1, write(IPA_BAR0 + offset, le(value))))![0]!.fault, 0);
}

function load(r: CoreRig, offset: number): number {
  return number(r.results(r.cpu(1, read(IPA_BAR0 + offset, 4)))![0]!.data);
}

describe('the machine', () => {
  test('carries an interrupt from a device that a domain drives to ICC_IAR1_EL1', () => {
    const r = ready();
    assert.equal(load(r, DMA_PROBE.ID), DMA_PROBE_MAGIC);
    store(r, DMA_PROBE.RAISE, 1);
    assert.deepEqual(r.sent('interruptPending')?.value, { pcpu: 0 });
    const [iar] = r.el2(sysregRead('ICC_IAR1_EL1'), sysregWrite('ICC_EOIR1_EL1', 0, 1));
    assert.equal(iar!.value, LPI);
    assert.equal(r.inspect('counts.msisDelivered'), 1);
    assert.deepEqual(r.inspect('counts.msisDropped'), {});
  });

  test('loses the interrupt and records the fault when the doorbell is not mapped for the device', () => {
    const r = ready();
    r.unmap(IPA_DOORBELL);
    store(r, DMA_PROBE.RAISE, 1);
    assert.equal(r.inspect('counts.msisDelivered'), 0);
    assert.deepEqual(r.inspect('counts.smmuEvents'), { F_TRANSLATION: 1 });
    assert.deepEqual(r.sent('interruptPending')?.value, { pcpu: 0 });
    assert.equal(r.el2(sysregRead('ICC_IAR1_EL1'))[0]!.value, SMMU_EVENTQ_INTID);
  });

  test('raises nothing when the domain itself stores to the doorbell', () => {
    const r = ready();
    assert.equal(r.results(r.cpu(1, write(IPA_DOORBELL + 0x40, le(5))))![0]!.fault, 0);
    assert.equal(r.sent('interruptPending'), undefined);
    assert.deepEqual(r.inspect('counts.msisDropped'), { 'not-from-a-device': 1 });
  });

  test('loses the interrupt when the root port may not master the bus', () => {
    const r = ready();
    r.el2(physWrite(PORT + PCI.COMMAND, le(PCI_COMMAND.MEMORY, 2)));
    store(r, DMA_PROBE.RAISE, 1);
    assert.equal(r.sent('interruptPending'), undefined);
    assert.equal(r.inspect('counts.smmuTranslations'), 0);
  });

  test('does a DMA into the memory of the domain and tells of its end by interrupt', () => {
    const r = ready();
    store(r, DMA_PROBE.DST_LO, IPA_RAM);
    store(r, DMA_PROBE.LENGTH_LO, 64);
    store(r, DMA_PROBE.PATTERN, 7);
    store(r, DMA_PROBE.COMMAND, (0x8000_0000 | DMA_PROBE_OP.WRITE) >>> 0);
    r.pass(1e9);
    assert.equal(load(r, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE);
    assert.equal(number(r.el2(physRead(PA_RAM + 60, 4))[0]!.data), dmaProbeWord(7, 15));
    assert.equal(r.el2(sysregRead('ICC_IAR1_EL1'))[0]!.value, LPI);
  });

  test('stops a DMA at the end of what the domain has, and reports it', () => {
    const r = ready();
    store(r, DMA_PROBE.DST_LO, IPA_RAM + 0xff0);
    store(r, DMA_PROBE.LENGTH_LO, 64);
    store(r, DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    r.pass(1e9);
    assert.equal(load(r, DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
    assert.equal(load(r, DMA_PROBE.ERROR_LO), IPA_RAM + 0x1000);
    assert.deepEqual(r.inspect('counts.smmuEvents'), { F_TRANSLATION: 1 });
  });

  test('lets no device reach memory before EL2 has programmed the SMMU', () => {
    const r = new CoreRig();
    r.loadPort(1, VMID);
    r.map(IPA_BAR0, BAR0);
    startFunction(r);
    store(r, DMA_PROBE.DST_LO, PA_RAM % 0x1_0000_0000);
    store(r, DMA_PROBE.LENGTH_LO, 4);
    store(r, DMA_PROBE.PATTERN, 1);
    store(r, DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    r.pass(1e9);
    assert.equal(load(r, DMA_PROBE.STATUS) & DMA_PROBE_STATUS.ERROR, DMA_PROBE_STATUS.ERROR);
    assert.equal(number(r.el2(physRead(PA_RAM, 4))[0]!.data), 0);
  });
});
