/**
 * What a machine does when software is in the middle of something: resets and moves under DMA, masks around an interrupt,
 * and invalidations that were forgotten. Everything is done through registers and tables, by the function at 01:00.0.
 */
import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MAGIC, DMA_PROBE_OP, DMA_PROBE_STATUS, dmaProbeWord } from '#shared/arch/dma-probe.ts';
import { GITS_CWRITER } from '#shared/arch/gic/its.ts';
import { encodeInv, itsCommandBytes } from '#shared/arch/gic/its-commands.ts';
import { PCI_BRIDGE, PCI_BRIDGE_CTL } from '#shared/arch/pci/bridge-header.ts';
import { PCI_EXP, PCI_EXP_DEVCTL, PCI_EXP_DEVSTA } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PCI_MSIX, PCI_MSIX_ENTRY, PCI_MSIX_FLAGS } from '#shared/arch/pci/msix.ts';
import {
  decodeEvent,
  encodeCfgiSte,
  encodeTlbiS2Ipa,
  encodeTlbiS12Vmall,
  eventName,
} from '#shared/arch/smmu/v3-queues.ts';
import { encodeAbortSte, encodeStage2Ste, STE_BYTES } from '#shared/arch/smmu/v3-structures.ts';
import { MEM_ATTR, S2AP, SHAREABILITY, writeLeaf, writeTable } from '#shared/arch/vmsa.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { bytesOf } from '#shared/regs/struct.ts';
import { loadBoard } from '../../../services/hardware/board/load.ts';
import type { Board } from '../../../services/hardware/board.ts';
import { Machine } from '../../../services/hardware/machine.ts';
import {
  BAR0,
  BAR3,
  Clock,
  CMDQ,
  EVENTQ,
  FUNCTION,
  IPA_BAR0,
  IPA_RAM,
  ITS,
  ITS_MEMORY,
  LPI,
  le,
  MachineRig,
  PA_RAM,
  PORT,
  PROP,
  RAM,
  RID,
  ROOT,
  SMMU,
  STREAM_TABLE,
  VMID,
} from './machine-rig.ts';

const EXPRESS = FUNCTION + 0xe0;
const MSIX = FUNCTION + 0xa0;
const PBA = BAR3 + 0x2000;
const WRITE_AND_TELL = (0x8000_0000 | DMA_PROBE_OP.WRITE) >>> 0;
/** A command runs in bursts of this size, and has a second, shorter one. */
const BURST = 0x10_0000;
const BYTES = 0x18_0000;
const NOTHING = 1023;
/** Where nobody has written yet. */
const PA_OTHER = RAM + 0x300_0000;

let board: Board | undefined;

/** The board with a Function Level Reset in 01:00.0, which its dump lacks. */
function resettable(): MachineRig {
  board ??= loadBoard(withFlr());
  const made = board;
  const rig = new MachineRig(new Clock(), (clock, interruptPending) => new Machine(made, clock, { interruptPending }));
  return rig.ready();
}

function withFlr(): ReturnType<typeof readBoard> {
  const description = readBoard('examples/boards/qemu-virt.yaml');
  const functions = description.functions.map((fn) => {
    if (fn.sbdf !== parseSbdf('0000:01:00.0')) return fn;
    const config = fn.config.slice();
    config[0xe0 + PCI_EXP.DEVCAP + 3]! |= 0x10;
    return { ...fn, config };
  });
  return { ...description, functions };
}

/** A write of both bursts is under way, and the first one has landed. */
function underTraffic(rig: MachineRig, seed: number): void {
  rig.dma(WRITE_AND_TELL, BYTES, seed);
  for (let us = 0; rig.read(PA_RAM + BURST - 4) !== dmaProbeWord(seed, BURST / 4 - 1); us++) {
    assert.isBelow(us, 1000, 'the first burst never lands');
    rig.clock.pass(1000);
  }
  assert.equal(rig.read(BAR0 + DMA_PROBE.STATUS) & DMA_PROBE_STATUS.BUSY, DMA_PROBE_STATUS.BUSY);
  assert.equal(rig.read(PA_RAM + BURST), 0);
}

/** All that the rest of the command would have done. */
function assertNothingLands(rig: MachineRig): void {
  const translated = rig.machine.smmus[0]!.inspect() as { counts?: unknown };
  rig.clock.pass(1e9);
  assert.equal(rig.read(PA_RAM + BURST), 0);
  assert.equal(rig.read(PA_RAM + BYTES - 4), 0);
  assert.deepEqual(rig.signals, []);
  assert.deepEqual(rig.machine.smmus[0]!.inspect(), translated, 'the SMMU saw nothing more of it');
}

/** Sets 01:00.0 up again as the rig did. */
function program(rig: MachineRig, bar0 = BAR0): void {
  rig.write(FUNCTION + PCI.BASE_ADDRESS_0, le(bar0));
  rig.write(FUNCTION + PCI.BASE_ADDRESS_0 + 12, le(BAR3));
  rig.write(FUNCTION + PCI.COMMAND, le(PCI_COMMAND.MEMORY | PCI_COMMAND.MASTER, 2));
}

/** Four bytes of DMA to `iova`, whether they went somewhere or not. */
function poke(rig: MachineRig, pattern: number, iova = IPA_RAM): void {
  rig.probe(DMA_PROBE.DST_LO, iova);
  rig.probe(DMA_PROBE.LENGTH_LO, 4);
  rig.probe(DMA_PROBE.PATTERN, pattern);
  rig.probe(DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
  rig.clock.pass(1e6);
}

/** Commands for the SMMU, behind the two that the rig gave it. */
function smmuCommands(rig: MachineRig, ...commands: Uint32Array[]): void {
  let prod = rig.read(SMMU + 0x98);
  for (const command of commands) {
    rig.write(CMDQ + (prod & 0xf) * 16, bytesOf(command));
    prod = (prod + 1) & 0x1f;
  }
  rig.write(SMMU + 0x98, le(prod));
  assert.equal(rig.read(SMMU + 0x9c), prod, 'all commands were taken');
}

/** Names of the events that the SMMU recorded. */
function events(rig: MachineRig): string[] {
  const count = rig.read(SMMU + 0x1_00a8) & 0x1f;
  return Array.from({ length: count }, (_, i) => {
    const words = Uint32Array.from({ length: 8 }, (_w, w) => rig.read(EVENTQ + i * 32 + w * 4));
    return eventName(decodeEvent(words, 0).code);
  });
}

const LEAF = { s2ap: S2AP.readWrite, memAttr: MEM_ATTR.normal_WB, sh: SHAREABILITY.inner, xn: true };

function descriptor(make: (words: Uint32Array) => void): Uint8Array {
  const words = new Uint32Array(2);
  make(words);
  return bytesOf(words);
}

/** Writes the leaf of a page into the tables at `root`, and invalidates nothing. `pa` undefined takes it out. */
function setPage(rig: MachineRig, ipa: number, pa: number | undefined, root = ROOT): void {
  const leaf = descriptor((w) => pa !== undefined && writeLeaf(w, 0, 3, pa, LEAF));
  rig.write(root + 0x3000 + (ipa / 0x1000) * 8, leaf);
}

describe('a reset of the bus below the port, under traffic', () => {
  test('ends DMA at once, holds the function off the bus, and leaves it as after power-on', () => {
    const rig = new MachineRig().ready();
    underTraffic(rig, 3);
    rig.write(PORT + PCI_BRIDGE.CONTROL, le(PCI_BRIDGE_CTL.BUS_RESET, 2));
    assert.equal(rig.read(FUNCTION + PCI.VENDOR_ID), 0xffff_ffff);
    assert.equal(rig.read(BAR0 + DMA_PROBE.ID), 0xffff_ffff);
    rig.write(FUNCTION + PCI.COMMAND, le(PCI_COMMAND.MASTER, 2));
    assertNothingLands(rig);
    rig.write(PORT + PCI_BRIDGE.CONTROL, le(0, 2));
    assert.deepEqual([rig.read(FUNCTION + PCI.COMMAND, 2), rig.read(FUNCTION + PCI.BASE_ADDRESS_0)], [0, 0]);
    assert.equal(rig.read(MSIX + PCI_MSIX.FLAGS, 2) & PCI_MSIX_FLAGS.ENABLE, 0);
    assertNothingLands(rig);
    // The port kept its own registers: the function works again where it was.
    program(rig);
    assert.equal(rig.read(BAR0 + DMA_PROBE.ID), DMA_PROBE_MAGIC);
    assert.equal(rig.read(BAR3 + PCI_MSIX_ENTRY.VECTOR_CTRL), 1);
    poke(rig, 9);
    assert.equal(rig.read(PA_RAM), dmaProbeWord(9, 0));
  });
});

describe('a Function Level Reset in the middle of DMA', () => {
  test('lets nothing of it land and no interrupt come after it, however long one waits', () => {
    const rig = resettable();
    underTraffic(rig, 4);
    assert.notEqual(rig.read(EXPRESS + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.TRANSACTIONS_PENDING, 0);
    rig.write(EXPRESS + PCI_EXP.DEVCTL, le(PCI_EXP_DEVCTL.INITIATE_FLR, 2));
    assert.equal(rig.read(EXPRESS + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.TRANSACTIONS_PENDING, 0);
    assertNothingLands(rig);
    // Not even when it may master the bus again.
    program(rig);
    assertNothingLands(rig);
    assert.equal(rig.read(BAR0 + DMA_PROBE.STATUS), 0);
    assert.equal(rig.read(BAR3 + PCI_MSIX_ENTRY.VECTOR_CTRL), 1, 'vectors are masked');
    poke(rig, 5);
    assert.equal(rig.read(PA_RAM), dmaProbeWord(5, 0));
  });

  test('software that waits for Transactions Pending to clear loses nothing', () => {
    const rig = resettable();
    underTraffic(rig, 6);
    while ((rig.read(EXPRESS + PCI_EXP.DEVSTA, 2) & PCI_EXP_DEVSTA.TRANSACTIONS_PENDING) !== 0) rig.clock.pass(1000);
    rig.write(EXPRESS + PCI_EXP.DEVCTL, le(PCI_EXP_DEVCTL.INITIATE_FLR, 2));
    assert.equal(rig.read(PA_RAM + BYTES - 4), dmaProbeWord(6, BYTES / 4 - 1));
    assert.equal(rig.take(), LPI);
  });
});

describe('a BAR that is moved under traffic', () => {
  const MOVED = 0x1010_0000;

  test('answers at its new address only, while DMA and its interrupt go on', () => {
    const rig = new MachineRig().ready();
    underTraffic(rig, 7);
    rig.write(FUNCTION + PCI.BASE_ADDRESS_0, le(MOVED));
    assert.equal(rig.read(BAR0 + DMA_PROBE.ID), 0xffff_ffff);
    assert.equal(rig.read(MOVED + DMA_PROBE.STATUS), DMA_PROBE_STATUS.BUSY);
    rig.clock.pass(1e9);
    assert.equal(rig.read(PA_RAM + BYTES - 4), dmaProbeWord(7, BYTES / 4 - 1));
    assert.equal(rig.read(MOVED + DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE);
    assert.equal(rig.take(), LPI);
  });

  test('is out of reach of a domain whose stage 2 still says the old address, until that says the new one', () => {
    const rig = new MachineRig().ready();
    rig.write(FUNCTION + PCI.BASE_ADDRESS_0, le(MOVED));
    rig.probe(DMA_PROBE.PATTERN, 0x11);
    assert.equal(rig.read(MOVED + DMA_PROBE.PATTERN), 0, 'the store was dropped');
    setPage(rig, IPA_BAR0, MOVED);
    rig.machine.tlb.invalidateIpa(VMID, IPA_BAR0);
    rig.probe(DMA_PROBE.PATTERN, 0x22);
    assert.equal(rig.read(MOVED + DMA_PROBE.PATTERN), 0x22);
  });

  test('decodes nothing outside the window of the port above it', () => {
    const rig = new MachineRig().ready();
    rig.write(FUNCTION + PCI.BASE_ADDRESS_0, le(0x1030_0000));
    assert.equal(rig.read(0x1030_0000), 0xffff_ffff);
    assert.equal(rig.read(FUNCTION + PCI.BASE_ADDRESS_0), 0x1030_0000);
  });
});

describe('an interrupt that is masked when it is raised', () => {
  const raise = (rig: MachineRig): void => rig.probe(DMA_PROBE.RAISE, 1);
  const taken = (rig: MachineRig): number[] => [rig.take(), rig.take()];

  test('in its table entry: pends, and is delivered once by the unmasking', () => {
    const rig = new MachineRig().ready();
    rig.write(BAR3 + PCI_MSIX_ENTRY.VECTOR_CTRL, le(1));
    for (let i = 0; i < 3; i++) raise(rig);
    assert.equal(rig.read(PBA), 1);
    assert.deepEqual(taken(rig), [NOTHING, NOTHING]);
    rig.write(BAR3 + PCI_MSIX_ENTRY.VECTOR_CTRL, le(0));
    assert.equal(rig.read(PBA), 0);
    assert.deepEqual(taken(rig), [LPI, NOTHING]);
    raise(rig);
    assert.deepEqual(taken(rig), [LPI, NOTHING], 'and works as before');
  });

  test('by the whole function: the same, and the entry is used as it is when it is sent', () => {
    const rig = new MachineRig().ready();
    rig.write(MSIX + PCI_MSIX.FLAGS, le(PCI_MSIX_FLAGS.ENABLE | PCI_MSIX_FLAGS.MASKALL, 2));
    raise(rig);
    raise(rig);
    assert.equal(rig.read(PBA), 1);
    rig.write(BAR3 + PCI_MSIX_ENTRY.DATA, le(6)); // no event of the ITS
    rig.write(BAR3 + PCI_MSIX_ENTRY.DATA, le(5));
    assert.deepEqual(taken(rig), [NOTHING, NOTHING]);
    rig.write(MSIX + PCI_MSIX.FLAGS, le(PCI_MSIX_FLAGS.ENABLE, 2));
    assert.deepEqual([rig.read(PBA), ...taken(rig)], [0, LPI, NOTHING]);
  });

  test('as an LPI: pends in the redistributor, and is delivered once when INV makes the enabled byte seen', () => {
    const rig = new MachineRig().ready();
    let at = rig.read(ITS + GITS_CWRITER);
    const inv = (): void => {
      rig.write(ITS_MEMORY + 0x9_0000 + at, itsCommandBytes([encodeInv({ deviceId: RID, eventId: 5 })]));
      at += 32;
      rig.write(ITS + GITS_CWRITER, le(at));
    };
    rig.write(PROP, le(0xa2, 1));
    inv();
    for (let i = 0; i < 3; i++) raise(rig);
    assert.deepEqual(taken(rig), [NOTHING, NOTHING]);
    rig.write(PROP, le(0xa3, 1));
    assert.deepEqual(taken(rig), [NOTHING, NOTHING], 'the byte alone changes nothing');
    inv();
    assert.deepEqual(taken(rig), [LPI, NOTHING]);
  });
});

describe('a stage-2 entry that is changed', () => {
  test('without TLBI is not seen: DMA still lands where the page was', () => {
    const rig = new MachineRig().ready();
    poke(rig, 1);
    assert.equal(rig.read(PA_RAM), dmaProbeWord(1, 0));
    setPage(rig, IPA_RAM, PA_OTHER);
    poke(rig, 2);
    assert.deepEqual([rig.read(PA_RAM), rig.read(PA_OTHER)], [dmaProbeWord(2, 0), 0]);
  });

  test('without TLBI, taken out, still lets a device into the page', () => {
    const rig = new MachineRig().ready();
    poke(rig, 1);
    setPage(rig, IPA_RAM, undefined);
    poke(rig, 2);
    assert.equal(rig.read(PA_RAM), dmaProbeWord(2, 0));
    assert.deepEqual(events(rig), []);
  });

  test.each([
    ['its address', encodeTlbiS2Ipa(VMID, IPA_RAM, true)],
    ['all of its VMID', encodeTlbiS12Vmall(VMID)],
  ])('with a TLBI of %s is seen: DMA lands where the page is now, or faults when it is gone', (_what, tlbi) => {
    const rig = new MachineRig().ready();
    poke(rig, 1);
    setPage(rig, IPA_RAM, PA_OTHER);
    smmuCommands(rig, tlbi);
    poke(rig, 2);
    assert.deepEqual([rig.read(PA_RAM), rig.read(PA_OTHER)], [dmaProbeWord(1, 0), dmaProbeWord(2, 0)]);
    setPage(rig, IPA_RAM, undefined);
    smmuCommands(rig, tlbi);
    poke(rig, 3);
    assert.equal(rig.read(PA_OTHER), dmaProbeWord(2, 0));
    assert.deepEqual(events(rig), ['F_TRANSLATION']);
    assert.equal(rig.read(BAR0 + DMA_PROBE.ABORTS), 1);
  });

  test('with a TLBI of another VMID or another page is as if there had been none', () => {
    const rig = new MachineRig().ready();
    poke(rig, 1);
    setPage(rig, IPA_RAM, PA_OTHER);
    smmuCommands(rig, encodeTlbiS12Vmall(VMID + 1), encodeTlbiS2Ipa(VMID, IPA_RAM + 0x1000, true));
    poke(rig, 2);
    assert.deepEqual([rig.read(PA_RAM), rig.read(PA_OTHER)], [dmaProbeWord(2, 0), 0]);
  });

  test('is seen by CPU and device each after its own TLBI, as there are two of them', () => {
    const rig = new MachineRig().ready();
    const cpu = (): number => rig.machine.port(1).translate(IPA_RAM, true);
    poke(rig, 1);
    assert.equal(cpu(), PA_RAM);
    setPage(rig, IPA_RAM, PA_OTHER);
    smmuCommands(rig, encodeTlbiS12Vmall(VMID));
    assert.equal(cpu(), PA_RAM, "the SMMU's command did nothing to the CPU's TLB");
    rig.machine.tlb.invalidateVmid(VMID);
    assert.equal(cpu(), PA_OTHER);
  });
});

describe('a stream table entry that is changed', () => {
  const ROOT_OTHER = ROOT + 0x10_0000;
  const VMID_OTHER = VMID + 1;

  function setSte(rig: MachineRig, ste: Uint32Array): void {
    rig.write(STREAM_TABLE + RID * STE_BYTES, bytesOf(ste));
  }

  /** An entry of another domain, whose tables lead elsewhere. */
  function otherDomain(rig: MachineRig): Uint32Array {
    for (const [at, to] of [
      [0, 0x2000],
      [0x2000, 0x3000],
    ] as const)
      rig.write(
        ROOT_OTHER + at,
        descriptor((w) => writeTable(w, 0, ROOT_OTHER + to)),
      );
    setPage(rig, IPA_RAM, PA_OTHER, ROOT_OTHER);
    return encodeStage2Ste({ vmid: VMID_OTHER, t0sz: 24, sl0: 1, ps: 5, ttb: ROOT_OTHER });
  }

  test('without CFGI is not seen: DMA goes through the tables of the old owner', () => {
    const rig = new MachineRig().ready();
    poke(rig, 1);
    setSte(rig, otherDomain(rig));
    poke(rig, 2);
    assert.deepEqual([rig.read(PA_RAM), rig.read(PA_OTHER)], [dmaProbeWord(2, 0), 0]);
    setSte(rig, encodeAbortSte());
    poke(rig, 3);
    assert.equal(rig.read(PA_RAM), dmaProbeWord(3, 0));
  });

  test('with CFGI is: DMA goes through the tables of the new owner, or nowhere', () => {
    const rig = new MachineRig().ready();
    poke(rig, 1);
    setSte(rig, otherDomain(rig));
    smmuCommands(rig, encodeCfgiSte(RID, true));
    poke(rig, 2);
    assert.deepEqual([rig.read(PA_RAM), rig.read(PA_OTHER)], [dmaProbeWord(1, 0), dmaProbeWord(2, 0)]);
    setSte(rig, encodeAbortSte());
    smmuCommands(rig, encodeCfgiSte(RID, true));
    poke(rig, 3);
    assert.equal(rig.read(PA_OTHER), dmaProbeWord(2, 0));
    assert.deepEqual(events(rig), [], 'an aborting entry records nothing');
  });

  test('with a CFGI of another stream is as if there had been none, and a TLBI is none', () => {
    const rig = new MachineRig().ready();
    poke(rig, 1);
    setSte(rig, otherDomain(rig));
    smmuCommands(rig, encodeCfgiSte(RID + 1, true), encodeTlbiS12Vmall(VMID));
    poke(rig, 2);
    assert.deepEqual([rig.read(PA_RAM), rig.read(PA_OTHER)], [dmaProbeWord(2, 0), 0]);
  });

  test('in the middle of a DMA counts from the first burst after its CFGI', () => {
    const rig = new MachineRig().ready();
    underTraffic(rig, 8);
    setSte(rig, encodeAbortSte());
    smmuCommands(rig, encodeCfgiSte(RID, true));
    rig.clock.pass(1e9);
    assert.equal(rig.read(PA_RAM + BURST), 0);
    assert.equal(rig.read(BAR0 + DMA_PROBE.STATUS), DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR);
    assert.deepEqual(rig.signals, [], 'its interrupt is a write that the SMMU aborts as well');
  });
});
