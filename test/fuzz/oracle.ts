/**
 * Address translation the slow and obvious way, on bigints and from the books' figures (DDI 0487, "Translation process";
 * IHI 0070, "Faults and errors"), to compare the SMMU's own walk with. No TLB.
 */
import type { Ram } from '../../services/hardware/bus/ram.ts';

export interface Stage {
  readonly inputBits: number;
  readonly startLevel: number;
  readonly granuleShift: number;
  readonly root: bigint;
  readonly outputBits: number;
  readonly accessFlagFaults: boolean;
}

/** Where a translation ended: an address, or the fault with the stage that has it and what it was fetching. */
export type Outcome =
  | { readonly pa: bigint; readonly read: boolean; readonly write: boolean }
  | { readonly fault: string; readonly stage2: boolean; readonly eventClass: 'IN' | 'TT' };

type Access = 'read' | 'write';

function bits(value: bigint, from: number, count: number): bigint {
  return (value >> BigInt(from)) & ((1n << BigInt(count)) - 1n);
}

function descriptor(ram: Ram, pa: bigint): bigint | undefined {
  const at = Number(pa);
  if (!ram.contains(at, 8)) return undefined;
  const bytes = new Uint8Array(8);
  ram.readBytes(at, bytes);
  return new DataView(bytes.buffer).getBigUint64(0, true);
}

/**
 * Walks one stage from `input`. `fetch` gives the physical address of a table entry, or the outcome that ends it.
 * `isStage1` chooses how permissions stand in descriptors.
 */
function walk(
  ram: Ram,
  stage: Stage,
  input: bigint,
  access: Access,
  isStage1: boolean,
  fetch: (address: bigint) => bigint | Outcome,
): Outcome {
  const { inputBits, startLevel, granuleShift, outputBits, accessFlagFaults } = stage;
  const fail = (fault: string, eventClass: 'IN' | 'TT' = 'IN'): Outcome => ({ fault, stage2: !isStage1, eventClass });
  const perLevel = granuleShift - 3;
  let table = stage.root;
  let noEl0 = false;
  let readOnly = false;
  if (table >> BigInt(outputBits) !== 0n) return fail('F_ADDR_SIZE');
  for (let level = startLevel; ; level++) {
    const shift = granuleShift + (3 - level) * perLevel;
    const top = level === startLevel ? inputBits : shift + perLevel;
    const at = fetch(table + bits(input, shift, top - shift) * 8n);
    if (typeof at !== 'bigint') return at;
    const entry = descriptor(ram, at);
    if (entry === undefined) return fail('F_WALK_EABT', 'TT');
    const valid = bits(entry, 0, 1) === 1n;
    const second = bits(entry, 1, 1) === 1n;
    const blockAllowed = level === 2 || (level === 1 && granuleShift === 12);
    if (!valid || (level === 3 ? !second : !second && !blockAllowed)) return fail('F_TRANSLATION');
    const isTable = level < 3 && second;
    const address = isTable
      ? bits(entry, granuleShift, 48 - granuleShift) << BigInt(granuleShift)
      : bits(entry, shift, 48 - shift) << BigInt(shift);
    // Every address bit of a descriptor counts, those below the block too.
    if (bits(entry, outputBits, 48 - outputBits) !== 0n) return fail('F_ADDR_SIZE');
    if (isTable) {
      noEl0 ||= bits(entry, 61, 1) === 1n;
      readOnly ||= bits(entry, 62, 1) === 1n;
      table = address;
      continue;
    }
    if (accessFlagFaults && bits(entry, 10, 1) === 0n) return fail('F_ACCESS');
    const read = isStage1 ? bits(entry, 6, 1) === 1n && !noEl0 : bits(entry, 6, 1) === 1n;
    const write = isStage1 ? read && bits(entry, 7, 1) === 0n && !readOnly : bits(entry, 7, 1) === 1n;
    if (!(access === 'read' ? read : write)) return fail('F_PERMISSION');
    return { pa: address | bits(input, 0, shift), read, write };
  }
}

export interface Tables {
  /** By bit 55 of the address: TTB0, TTB1; undefined: EPD. Undefined as a whole: stage 1 is off. */
  readonly stage1?: readonly [Stage | undefined, Stage | undefined];
  readonly stage2?: Stage | undefined;
}

/** Translates a 64-bit `input`. */
export function translateSlowly(ram: Ram, { stage1, stage2 }: Tables, input: bigint, access: Access): Outcome {
  const through2 = (ipa: bigint, want: Access): Outcome => {
    if (stage2 === undefined) return { pa: ipa, read: true, write: true };
    if (ipa >> BigInt(stage2.inputBits) !== 0n) return { fault: 'F_TRANSLATION', stage2: true, eventClass: 'IN' };
    return walk(ram, stage2, ipa, want, false, (address) => address);
  };
  if (stage1 === undefined) {
    if (input >> 48n !== 0n) return { fault: 'F_ADDR_SIZE', stage2: false, eventClass: 'IN' };
    return through2(input, access);
  }
  const upper = bits(input, 55, 1) === 1n;
  const half = stage1[upper ? 1 : 0];
  if (half === undefined) return { fault: 'F_TRANSLATION', stage2: false, eventClass: 'IN' };
  const above = input >> BigInt(half.inputBits);
  if (above !== (upper ? (1n << BigInt(64 - half.inputBits)) - 1n : 0n))
    return { fault: 'F_TRANSLATION', stage2: false, eventClass: 'IN' };
  const first = walk(ram, half, bits(input, 0, half.inputBits), access, true, (address) => {
    const fetched = through2(address, 'read');
    return 'pa' in fetched ? fetched.pa : { ...fetched, eventClass: 'TT' };
  });
  return 'pa' in first ? through2(first.pa, access) : first;
}
