/**
 * What may happen to a machine, drawn at random by fast-check: register accesses, memory that tables and queues are made
 * of, commands, DMA, messages, what CPUs and EL2 do, time, resets, a save and a restore. Every action is plain data, so
 * that a history that breaks something can be shrunk and printed.
 */
import fc from 'fast-check';
import { DMA_PROBE, DMA_PROBE_OP } from '#shared/arch/dma-probe.ts';
import { ICC_REGISTERS } from '#shared/arch/gic/cpu-interface.ts';
import { ITS_OPCODE } from '#shared/arch/gic/its-commands.ts';
import { NVME_ADMIN, NVME_IO } from '#shared/arch/nvme.ts';
import { CMD } from '#shared/arch/smmu/v3-queues.ts';
import { assert } from '#shared/core/assert.ts';
import { lookupRid, lookupRidAt } from '#shared/fdt/pci-bindings.ts';
import type { Requester } from '../../services/hardware/bus/transaction.ts';
import { restoreMachine, saveMachine } from '../../services/hardware/machine.ts';
import {
  AREAS,
  BARS,
  BLOCKS,
  CDS,
  FUNCTIONS,
  type FuzzRig,
  ITS,
  le,
  PROBE_BAR,
  RAM,
  RAM_BYTES,
  RIDS,
  S1_ROOT,
  S2_ROOT,
} from './rig.ts';

export type Action =
  | { readonly do: 'write' | 'read'; readonly pa: number; readonly sizeBytes: number; readonly value: number }
  | { readonly do: 'table'; readonly pa: number; readonly lo: number; readonly hi: number }
  | { readonly do: 'smmu' | 'its'; readonly opcode: number; readonly words: readonly number[] }
  | {
      readonly do: 'probe';
      readonly registers: readonly (readonly [register: number, value: number])[];
      readonly op: number;
    }
  | { readonly do: 'nvme'; readonly queue: number; readonly opcode: number; readonly words: readonly number[] }
  | {
      readonly do: 'nic';
      readonly ring: number;
      readonly iova: number;
      readonly length: number;
      readonly flags: number;
    }
  | {
      readonly do: 'dma';
      readonly rid: number;
      readonly streamId: number;
      readonly substreamId: number;
      readonly iova: number;
      readonly bytes: number;
      readonly write: boolean;
    }
  | { readonly do: 'message'; readonly rid: number; readonly eventId: number }
  | {
      readonly do: 'icc';
      readonly pe: number;
      readonly register: string;
      readonly value: number;
      readonly write: boolean;
    }
  | { readonly do: 'stage2'; readonly vtcr: number; readonly baddr: number; readonly vmid: number }
  | { readonly do: 'translate'; readonly ipa: number; readonly write: boolean }
  | { readonly do: 'pass'; readonly ns: number }
  | { readonly do: 'restart' | 'reset' | 'inspect' | 'migrate' };

const u32 = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 0xffff_ffff }) },
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 64 }) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 31 }).map((bit) => (1 << bit) >>> 0) },
  { weight: 1, arbitrary: fc.constantFrom(0xffff_ffff, 0x8000_0000, 0x7fff_ffff, 0xffff_0000, 0xffff) },
  { weight: 3, arbitrary: fc.constantFrom(...AREAS, RAM, RAM + RAM_BYTES - 4, RAM + RAM_BYTES, ITS + 0x1_0040) },
  { weight: 1, arbitrary: fc.constantFrom(...BARS, ...BLOCKS.map((pa) => pa >>> 0)) },
);

/** An address with up to 48 bits, most often one where something is. */
const address = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.constantFrom(...AREAS, ...BLOCKS, 0x3_0000, 0x2_0000, 0), fc.integer({ min: 0, max: 0x1fff }))
      .map(([at, offset]) => at + offset),
  },
  { weight: 1, arbitrary: u32 },
  { weight: 1, arbitrary: fc.tuple(fc.integer({ min: 0, max: 0xffff }), u32).map(([hi, lo]) => hi * 2 ** 32 + lo) },
);

/** A descriptor, a CD or an STE often looks like one. */
const tableWord = fc.oneof(
  { weight: 2, arbitrary: fc.tuple(u32, u32) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(
        fc.constantFrom(...AREAS, S1_ROOT, S2_ROOT, CDS, 0),
        fc.integer({ min: 0, max: 0xfff }),
        fc.constantFrom(0, 0x60_0000, 1, 0xffff),
      )
      .map(([pa, low, hi]): [number, number] => [((pa & ~0xfff) | low) >>> 0, hi]),
  },
);

const sizes = fc.constantFrom(1, 2, 4, 4, 4, 8);
const access = fc.record({
  do: fc.constantFrom('write' as const, 'write' as const, 'read' as const),
  pa: fc.oneof(
    {
      weight: 6,
      arbitrary: fc
        .tuple(fc.constantFrom(...BLOCKS), fc.integer({ min: 0, max: 63 }))
        .map(([at, word]) => at + word * 4),
    },
    {
      weight: 2,
      arbitrary: fc
        .tuple(fc.constantFrom(...FUNCTIONS), fc.integer({ min: 0, max: 0xfff }))
        .map(([at, offset]) => at + offset),
    },
    { weight: 2, arbitrary: address },
  ),
  sizeBytes: sizes,
  value: u32,
});

const rid = fc.oneof(fc.constantFrom(...RIDS), fc.integer({ min: 0, max: 0xffff }));
const words = fc.array(u32, { minLength: 7, maxLength: 7 });

const MACHINE: fc.Arbitrary<Action> = fc.oneof(
  { weight: 12, arbitrary: access },
  {
    weight: 8,
    arbitrary: fc
      .tuple(fc.constantFrom(...AREAS), fc.integer({ min: 0, max: 31 }), tableWord)
      .map(([at, n, [lo, hi]]): Action => ({ do: 'table', pa: at + n * 8, lo, hi })),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('smmu' as const),
      opcode: fc.oneof(fc.constantFrom(...Object.values(CMD)), fc.integer({ min: 0, max: 255 })),
      words,
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('its' as const),
      opcode: fc.oneof(fc.constantFrom(...Object.values(ITS_OPCODE)), fc.integer({ min: 0, max: 255 })),
      words,
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('probe' as const),
      registers: fc.array(fc.tuple(fc.constantFrom(...Object.values(DMA_PROBE)), u32), { maxLength: 6 }),
      op: fc.constantFrom(...Object.values(DMA_PROBE_OP), 0, 15),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('dma' as const),
      rid,
      streamId: fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom(...RIDS) },
        { weight: 1, arbitrary: fc.oneof(u32, fc.constant(-1)) },
      ),
      substreamId: fc.oneof(
        { weight: 4, arbitrary: fc.constant(-1) },
        { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xf_ffff }) },
      ),
      iova: fc.oneof(fc.integer({ min: 0x2_ff00, max: 0x4_00ff }), fc.constantFrom(0x2_0040, 0x2_0000), address),
      bytes: fc.oneof(fc.constantFrom(1, 4, 8, 0x1000, 0x2345), fc.integer({ min: 1, max: 0x4000 })),
      write: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('message' as const),
      rid: fc.constantFrom(...RIDS),
      eventId: fc.oneof(fc.constantFrom(0, 1, 5), u32),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('icc' as const),
      pe: fc.constantFrom(0, 1),
      register: fc.constantFrom(...ICC_REGISTERS),
      value: u32,
      write: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('stage2' as const),
      vtcr: u32,
      baddr: address,
      vmid: fc.integer({ min: 0, max: 0xffff }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('translate' as const), ipa: address, write: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('pass' as const), ns: fc.constantFrom(0, 1, 1000, 1e6, 1e9) }) },
  {
    weight: 4,
    arbitrary: fc.oneof(
      { weight: 8, arbitrary: fc.constant<Action>({ do: 'restart' }) },
      { weight: 2, arbitrary: fc.constantFrom<Action>({ do: 'reset' }, { do: 'inspect' }) },
      { weight: 1, arbitrary: fc.constant<Action>({ do: 'migrate' }) },
    ),
  },
);

const devicePage = fc.oneof(
  { weight: 5, arbitrary: fc.integer({ min: 0x3_6000, max: 0x3_ffff }) },
  { weight: 1, arbitrary: u32 },
);

const DEVICE: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc
      .record({
        queue: fc.constantFrom(0, 1),
        opcode: fc.oneof(
          fc.constantFrom(...Object.values(NVME_ADMIN), ...Object.values(NVME_IO)),
          fc.integer({ min: 0, max: 255 }),
        ),
        words: fc.array(u32, { minLength: 15, maxLength: 15 }),
        prp1: devicePage,
        prp2: devicePage,
        small: fc.boolean(),
      })
      .map(({ queue, opcode, words: rest, prp1, prp2, small }): Action => {
        const given = [...rest];
        given[0] = 1; // the namespace
        given[3] = 0;
        [given[5], given[6], given[7], given[8]] = [prp1, 0, prp2 & ~0xfff, 0];
        if (small) for (let i = 9; i < 15; i++) given[i] = given[i]! & 0x1_000f;
        return { do: 'nvme', queue, opcode, words: given };
      }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('nic' as const),
      ring: fc.constantFrom(0, 1),
      iova: devicePage,
      length: fc.oneof(fc.integer({ min: 0, max: 2000 }), fc.integer({ min: 0, max: 0xffff })),
      flags: fc.constantFrom(0, 1, 2, 3, 0xffff),
    }),
  },
);

/** Histories of up to `most` actions. */
export function histories(most: number): fc.Arbitrary<Action[]> {
  const action = fc.oneof({ weight: 6, arbitrary: MACHINE }, { weight: 1, arbitrary: DEVICE });
  return fc.array(action, { minLength: 1, maxLength: most, size: 'max' });
}

const TIMERS_MAX = 400;
const HOST_BYTES = new Uint8Array(0x4000);

/** Does an action. Throws what the machine throws: nothing but an assertion that failed can. */
export function perform(rig: FuzzRig, action: Action): void {
  const { machine } = rig;
  switch (action.do) {
    case 'write':
      machine.bus.write(action.pa, action.sizeBytes, action.value, action.value);
      return;
    case 'read':
      assertWord(machine.bus.read(action.pa, action.sizeBytes) ? machine.bus.low : 0);
      return;
    case 'table':
      rig.write(action.pa, Uint8Array.of(...le(action.lo), ...le(action.hi)));
      return;
    case 'smmu': {
      const command = Uint32Array.from(action.words.slice(0, 4));
      command[0] = ((command[0]! & 0xffff_f800) | action.opcode) >>> 0;
      rig.smmuCommand(command);
      return;
    }
    case 'its': {
      const command = Uint32Array.from([action.opcode, ...action.words]);
      // Ids are small most of the time, as a driver's are.
      if ((command[1]! & 3) !== 0) command[1] = RIDS[command[1]! % 3]!;
      if ((command[2]! & 1) === 0) command[2] = command[2]! & 0xf;
      if ((command[3]! & 1) === 0) command[3] = 8192 + (command[3]! & 0xfff);
      if ((command[4]! & 3) !== 0) command[4] = command[4]! & 0x1_0001;
      rig.itsCommand(command);
      return;
    }
    case 'probe':
      for (const [register, value] of action.registers) machine.bus.write(PROBE_BAR + register, 4, value);
      machine.bus.write(PROBE_BAR + DMA_PROBE.COMMAND, 4, action.op);
      return;
    case 'nvme':
      rig.drivers.nvme(action.queue, [action.opcode, ...action.words]);
      return;
    case 'nic':
      rig.drivers.nic(action.ring, action.iova, 0, (action.flags << 16) | action.length);
      return;
    case 'dma':
      dma(rig, action);
      return;
    case 'message':
      rig.machine.bus.writeBytes(ITS + 0x1_0040, le(action.eventId), 0, 4, requesterOf(rig, action.rid));
      return;
    case 'icc': {
      const cpu = machine.gicv3!.cpuInterfaces[action.pe]!;
      if (action.write) cpu.write(action.register, action.value);
      else assertWord(cpu.read(action.register) ?? 0);
      return;
    }
    case 'stage2':
      machine.port(1).load({ vm: true, vtcr: action.vtcr, baddr: action.baddr, vmid: action.vmid });
      return;
    case 'translate': {
      const pa = machine.port(1).translate(action.ipa, action.write);
      assert(Number.isInteger(pa) && pa < 2 ** 48, () => `a translation gave ${pa}`);
      return;
    }
    case 'pass':
      rig.clock.pass(action.ns, TIMERS_MAX);
      return;
    case 'reset':
      machine.reset();
      return;
    case 'restart':
      rig.start();
      return;
    case 'inspect':
      JSON.stringify(machine.inspect());
      return;
    default:
      migrate(rig);
  }
}

function assertWord(value: number): void {
  assert(Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff, () => `a register read ${value}`);
}

function dma(rig: FuzzRig, action: Action & { readonly do: 'dma' }): void {
  const { bytes, iova, substreamId, write } = action;
  const requester: Requester = {
    ...requesterOf(rig, action.rid),
    streamId: action.streamId,
    ...(substreamId < 0 ? {} : { substreamId }),
  };
  const data = HOST_BYTES.subarray(0, bytes);
  data.fill(0x5a);
  const smmu = rig.machine.smmus[0]!;
  const done = write ? smmu.dmaWrite(requester, iova, data) : smmu.dmaRead(requester, iova, data);
  assert(Number.isInteger(done) && done >= 0 && done <= bytes, () => `${done} of ${bytes} bytes were done`);
}

function requesterOf({ board }: FuzzRig, rid: number): Requester {
  const { iommuMap, msiMap } = board.bridges[0]!;
  return {
    rid,
    streamId: lookupRid(iommuMap, rid)?.id ?? -1,
    deviceIdAt: (phandle) => (msiMap === undefined ? -1 : lookupRidAt(msiMap, rid, phandle)),
  };
}

/** The machine goes on as a copy of itself, which has to look the same. */
function migrate(rig: FuzzRig): void {
  const before = JSON.stringify(rig.machine.inspect());
  const copy = restoreMachine(rig.board, saveMachine(rig.machine), rig.clock, { interruptPending: () => {} });
  const after = JSON.stringify(copy.inspect());
  if (before !== after) {
    const at = [...before].findIndex((c, i) => c !== after[i]);
    assert(
      false,
      `a restored machine differs: ${before.slice(at - 80, at + 80)} became ${after.slice(at - 80, at + 80)}`,
    );
  }
  rig.machine = copy;
}
