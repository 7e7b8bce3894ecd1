/**
 * A command of the SMMU's queue put together again from the trace's lines about it: the opcode's name and its decoded
 * operands. What the trace does not print: Leaf of CMD_CFGI_STE and CMD_CFGI_CD (1 here, as Linux writes it), CS of
 * CMD_SYNC (SIG_NONE here), StreamID of CMD_PREFETCH_*. QEMU splits a range into powers of two and prints a line for
 * each; their sum is what the command said.
 */
import * as q from '#shared/arch/smmu/v3-queues.ts';
import { field, fieldMaybe, type TraceLine, wideField } from './trace.ts';

export interface TracedCommand {
  /** As the book spells it, such as CMD_TLBI_NH_VA. */
  readonly name: string;
  readonly words: Uint32Array;
}

/** `opcode` is the name in smmuv3_cmdq_opcode, `operands` are the lines that followed it. */
export function commandOf(opcode: string, operands: readonly TraceLine[]): TracedCommand {
  const name = opcode.replace(/^SMMU_CMD_/, 'CMD_');
  return { name, words: encode(name, operands) };
}

function encode(name: string, operands: readonly TraceLine[]): Uint32Array {
  const of = (event: string): TraceLine | undefined => operands.find((line) => line.event === event);
  switch (name) {
    case 'CMD_PREFETCH_CONFIG':
      return q.encodePrefetchConfig(0);
    case 'CMD_CFGI_STE':
      return q.encodeCfgiSte(operand(of('smmuv3_cmdq_cfgi_ste'), 'streamid'), true);
    case 'CMD_CFGI_STE_RANGE':
      return cfgiRange(of('smmuv3_cmdq_cfgi_ste_range'));
    case 'CMD_CFGI_CD':
      return q.encodeCfgiCd(operand(of('smmuv3_cmdq_cfgi_cd'), 'sid'), 0, true);
    case 'CMD_CFGI_CD_ALL':
      return q.encodeCfgiCdAll(operand(of('smmuv3_cmdq_cfgi_cd'), 'sid'));
    case 'CMD_TLBI_NH_ALL':
      return q.encodeTlbiNhAll(operand(of('smmuv3_cmdq_tlbi_nh'), 'vmid'));
    case 'CMD_TLBI_NH_ASID':
      return q.encodeTlbiNhAsid(
        operand(of('smmuv3_cmdq_tlbi_nh_asid'), 'vmid'),
        operand(of('smmuv3_cmdq_tlbi_nh_asid'), 'asid'),
      );
    case 'CMD_TLBI_NH_VA':
    case 'CMD_TLBI_NH_VAA':
    case 'CMD_TLBI_S2_IPA':
      return byAddress(name, operands);
    case 'CMD_TLBI_S12_VMALL':
      return q.encodeTlbiS12Vmall(operand(of('smmuv3_cmdq_tlbi_s12_vmid'), 'vmid'));
    case 'CMD_TLBI_NSNH_ALL':
      return q.encodeTlbiNsnhAll();
    case 'CMD_SYNC':
      return q.encodeSync(q.SYNC_CS.SIG_NONE);
    default: {
      const words = new Uint32Array(q.COMMAND_WORDS);
      // 0 is no opcode: a name that nobody knows stands for a command that QEMU had no name for either.
      words[0] = (q.CMD as Readonly<Record<string, number>>)[name] ?? 0;
      return words;
    }
  }
}

function operand(line: TraceLine | undefined, name: string): number {
  return line === undefined ? 0 : (fieldMaybe(line, name) ?? 0);
}

function cfgiRange(line: TraceLine | undefined): Uint32Array {
  if (line === undefined) return q.encodeCfgiAll();
  const start = field(line, 'start');
  const range = Math.round(Math.log2(field(line, 'end') - start + 1)) - 1;
  return range >= q.CFGI_RANGE_ALL ? q.encodeCfgiAll() : q.encodeCfgiSteRange(start, range);
}

function byAddress(name: string, operands: readonly TraceLine[]): Uint32Array {
  const lines = operands.filter(({ event }) => /^smmuv3_(s1_|s2_)?range_inval$/.test(event));
  const first = lines[0];
  if (first === undefined) return new Uint32Array(q.COMMAND_WORDS);
  const tg = fieldMaybe(first, 'tg') ?? 0;
  const vmid = Math.max(operand(first, 'vmid'), 0);
  const asid = Math.max(operand(first, 'asid'), 0);
  const leaf = operand(first, 'leaf') === 1;
  const { hi, lo } = wideField(first, 'addr');
  const granules = lines.reduce((sum, line) => sum + field(line, 'num_pages'), 0);
  const range = rangeOf(tg, granules, operand(first, 'ttl'));
  const words =
    name === 'CMD_TLBI_NH_VA'
      ? q.encodeTlbiNhVa(vmid, asid, 0, leaf, range)
      : name === 'CMD_TLBI_NH_VAA'
        ? q.encodeTlbiNhVaa(vmid, 0, leaf, range)
        : q.encodeTlbiS2Ipa(vmid, 0, leaf, range);
  // DW1 holds the address in place above the range's fields: all 64 bits of it, which a number could not carry.
  words[2] = (words[2]! | (lo & 0xffff_f000)) >>> 0;
  words[3] = hi;
  return words;
}

/** (NUM + 1) * 2^SCALE granules. A single one without TTL has to be asked for without TG. */
function rangeOf(tg: number, granules: number, ttl: number): q.TlbiRange | undefined {
  if (tg === 0 || (granules === 1 && ttl === 0)) return undefined;
  let scale = 0;
  while (granules / 2 ** scale > 32) scale++;
  return { granuleShift: 2 * tg + 10, num: Math.ceil(granules / 2 ** scale) - 1, scale, ttl };
}
