/** From an xl.cfg to what a domain is made of, with xl's warnings and errors (xl_parse.c). */
import type { DomainConfig, PciSpec } from '#gen/toolstack.ts';
import { type CfgEntry, CfgSyntaxError, type CfgValue, parseCfg } from './config-file.ts';
import { domainJson } from './domain-json.ts';
import { MalformedSpec, parsePciSpec } from './pci-spec.ts';

export interface ParsedConfig {
  /** Absent when creation ends here. */
  readonly config: DomainConfig | undefined;
  /** What a dry run prints. */
  readonly json?: object;
  /** What goes to stderr. */
  readonly messages: readonly string[];
  /** xl's exit status when there is no config. */
  readonly exit: number;
}

const MEMORY_DEFAULT_MIB = 128;
/** INT_MAX */
const NUMBER_MAX = 0x7fff_ffff;

/** Parses `text` of `file`, with `overrides` (`key=value` arguments) appended. */
export function parseDomainConfig(file: string, text: string, overrides: readonly string[]): ParsedConfig {
  const messages: string[] = [];
  let entries: Map<string, CfgEntry>;
  try {
    entries = parseCfg(file, [text, ...overrides].join('\n'));
  } catch (error) {
    if (!(error instanceof CfgSyntaxError)) throw error;
    return { config: undefined, messages: [error.message, 'Failed to parse config: Invalid argument'], exit: 1 };
  }
  const warn = (key: string, what: string): undefined => {
    messages.push(`${file}:${entries.get(key)?.line}: warning: parameter \`${key}' ${what}`);
    return undefined;
  };
  const single = (key: string): string | undefined => {
    const value = entries.get(key)?.value;
    if (value === undefined || typeof value === 'string') return value;
    return warn(key, 'is a list but should be a single value');
  };
  const number = (key: string): number | undefined => {
    const value = single(key);
    if (value === undefined) return undefined;
    const parsed = /^0[xX][0-9a-fA-F]+$|^[1-9]\d*$/.test(value)
      ? Number(value)
      : /^0[0-7]*$/.test(value)
        ? Number.parseInt(value, 8)
        : Number.NaN;
    return Number.isNaN(parsed) || parsed > NUMBER_MAX ? warn(key, 'is not a valid number') : parsed;
  };
  const list = (key: string): readonly CfgValue[] | undefined => {
    const value = entries.get(key)?.value;
    if (value === undefined || typeof value !== 'string') return value;
    return warn(key, 'is a single value but should be a list');
  };
  const end = (text: string, exit: number): ParsedConfig => ({
    config: undefined,
    messages: [...messages, text],
    exit,
  });

  const name = single('name');
  if (name === undefined) return end('Domain name must be specified.', 1);
  const defaults: Partial<PciSpec> = {
    permissive: (number('pci_permissive') ?? 0) !== 0,
    msitranslate: (number('pci_msitranslate') ?? 0) !== 0,
    seize: (number('pci_seize') ?? 0) !== 0,
    powerMgmt: (number('pci_power_mgmt') ?? 0) !== 0,
  };
  const pci: PciSpec[] = [];
  for (const entry of list('pci') ?? []) {
    const spec = typeof entry === 'string' ? entry : '';
    try {
      pci.push(parsePciSpec(spec, defaults));
    } catch (error) {
      if (!(error instanceof MalformedSpec)) throw error;
      return end(`unable to parse PCI_SPEC_STRING \`${spec}' for passthrough`, 6);
    }
  }
  const config: DomainConfig = {
    name,
    uuid: single('uuid') ?? '',
    memoryMib: number('memory') ?? MEMORY_DEFAULT_MIB,
    vcpus: number('vcpus') ?? 1,
    pci,
    kernel: single('kernel') ?? '',
    cmdline: single('extra') ?? single('cmdline') ?? '',
    onCrash: single('on_crash') ?? 'destroy',
    passthrough: single('passthrough') ?? '',
    maxEventChannels: number('max_event_channels') ?? 1023,
    maxGrantFrames: number('max_grant_frames') ?? 64,
  };
  const more = {
    maxmemMib: number('maxmem'),
    maxvcpus: number('maxvcpus'),
    ramdisk: single('ramdisk'),
    onPoweroff: single('on_poweroff'),
    onReboot: single('on_reboot'),
  };
  return { config, json: domainJson(config, more, text), messages, exit: 0 };
}
