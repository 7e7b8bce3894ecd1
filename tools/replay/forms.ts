/**
 * What a replay needs of each event it plays, in the spelling of QEMU 7.2 and of QEMU 10. A line of one of these that
 * does not have it could not be played, or would be played wrong; of other events nothing is asked.
 */
import { fieldMaybe, type TraceLine } from './trace.ts';

/** A line of an event that is played, and cannot be. */
export interface Unreadable {
  /** Of the trace, from 1. */
  readonly line: number;
  readonly text: string;
  readonly expected: string;
}

/** By event: the names that a number has to follow, or what the text has to match. */
const FORMS: Readonly<Record<string, readonly string[] | readonly [RegExp, string]>> = {
  gicv3_redist_write: ['redistributor', 'offset', 'data', 'size'],
  gicv3_its_read: ['offset', 'data', 'size'],
  gicv3_its_write: ['offset', 'data', 'size'],
  gicv3_its_translation_write: ['data', 'requester_id'],
  gicv3_its_process_command: [/ offset (0x[0-9a-f]+|\d+): *0x[0-9a-f]+\s*$/, 'offset NUMBER: OPCODE'],
  gicv3_its_dte_read: ['valid'],
  gicv3_its_dte_write: ['valid'],
  gicv3_its_ite_read: ['valid', 'intid'],
  gicv3_its_ite_write: ['valid'],
  gicv3_its_cte_read: ['valid', 'RDBase'],
  gicv3_its_cte_write: ['valid'],
  gicv3_its_cmd_mapd: ['DeviceID', 'Size', 'ITT_addr', 'V'],
  gicv3_its_cmd_mapc: ['ICID', 'RDbase', 'V'],
  gicv3_its_cmd_mapti: ['DeviceID', 'EventID', 'ICID', 'pINTID'],
  gicv3_its_cmd_mapi: ['DeviceID', 'EventID', 'ICID'],
  gicv3_its_cmd_movi: ['DeviceID', 'EventID', 'ICID'],
  gicv3_its_cmd_movall: ['RDbase1', 'RDbase2'],
  gicv3_its_cmd_int: ['DeviceID', 'EventID'],
  gicv3_its_cmd_clear: ['DeviceID', 'EventID'],
  gicv3_its_cmd_inv: ['DeviceID', 'EventID'],
  gicv3_its_cmd_discard: ['DeviceID', 'EventID'],
  smmuv3_write_mmio: ['addr', 'val', 'size'],
  smmuv3_read_mmio: ['addr', 'val', 'size'],
  smmuv3_cmdq_consume: ['cons', 'cons.wrap'],
  smmuv3_cmdq_opcode: [/^<--- *\S+/, '<--- NAME'],
  smmuv3_cmdq_cfgi_ste: ['streamid'],
  smmuv3_cmdq_cfgi_ste_range: ['start', 'end'],
  smmuv3_cmdq_cfgi_cd: ['sid'],
  smmuv3_cmdq_tlbi_nh_asid: ['asid'],
  smmuv3_cmdq_tlbi_s12_vmid: ['vmid'],
  smmuv3_s1_range_inval: ['asid', 'addr', 'tg', 'num_pages', 'leaf'],
  smmuv3_range_inval: ['asid', 'addr', 'tg', 'num_pages', 'leaf'],
  smmuv3_find_ste_2lvl: ['l1ptr', 'l2ptr', 'max_l2_ste'],
  smmuv3_get_ste: ['addr'],
  smmuv3_get_cd: ['addr'],
  smmuv3_decode_cd: ['oas'],
  smmuv3_decode_cd_tt: ['tsz', 'ttb', 'granule_sz'],
  smmu_iotlb_lookup_hit: ['asid', 'addr'],
  smmu_iotlb_lookup_miss: ['asid', 'addr'],
  smmu_ptw_level: ['baseaddr', 'offset', 'pte'],
  smmuv3_translate_success: ['sid', 'iova', 'translated', 'perm'],
  smmuv3_translate_bypass: ['sid', 'iova'],
  smmuv3_translate_disable: ['sid', 'iova'],
  smmuv3_translate_abort: ['sid', 'iova'],
  smmuv3_record_event: [/^\S+ +sid *[:=]? *(0x[0-9a-f]+|\d+)/, 'NAME sid=NUMBER'],
};

/** Undefined: the line can be played, or is of an event that is not. */
export function unreadable(line: TraceLine): Unreadable | undefined {
  const form = FORMS[line.event];
  if (form === undefined) return undefined;
  const [pattern, shown] = form;
  const fits = pattern instanceof RegExp ? pattern.test(line.text) : namesOf(form).every((name) => has(line, name));
  if (fits) return undefined;
  const words =
    pattern instanceof RegExp
      ? shown
      : namesOf(form)
          .map((name) => `${name}=NUMBER`)
          .join(' ');
  return { line: line.number, text: `${line.event} ${line.text}`, expected: `${line.event} ... ${words}` };
}

/** A line without PID and time that has the name of an event which is played. */
export function unreadableText(line: number, text: string): Unreadable | undefined {
  const event = /\b(?:smmu|smmuv3|gicv3_its|gicv3_redist)_\w+/.exec(text)?.[0];
  if (event === undefined || FORMS[event] === undefined) return undefined;
  return { line, text, expected: `PID@SECONDS.MICROSECONDS:${event} ...` };
}

function namesOf(form: readonly (string | RegExp)[]): string[] {
  return form.filter((name) => typeof name === 'string');
}

function has(line: TraceLine, name: string): boolean {
  return fieldMaybe(line, name) !== undefined;
}
