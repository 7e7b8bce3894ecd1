/** BDFs and PCI_SPEC_STRINGs as xl takes them (xl-pci-configuration(5); libxlu_pci.c). */
import type { PciSpec } from '#gen/toolstack.ts';

export const EMPTY_SPEC: PciSpec = {
  segment: 0,
  bus: 0,
  device: 0,
  functionMask: 0,
  vslot: -1,
  permissive: false,
  msitranslate: false,
  seize: false,
  powerMgmt: false,
  rdmPolicy: 'strict',
  name: '',
};

/** A specification that xl calls malformed. `unknownOption` is what it prints about first. */
export class MalformedSpec extends Error {
  override name = 'MalformedSpec';
  readonly unknownOption: string | undefined;

  constructor(text: string, unknownOption?: string) {
    super(text);
    this.unknownOption = unknownOption;
  }
}

interface Bdf {
  readonly segment: number;
  readonly bus: number;
  readonly device: number;
  readonly functionMask: number;
  /** What stands behind it. */
  readonly rest: string;
}

function parseBdf(text: string): Bdf | undefined {
  const m = /^(?:([0-9a-f]+):)?([0-9a-f]+):([0-9a-f]+)\.([0-9a-f]+|\*)/i.exec(text);
  if (m === null) return undefined;
  const [segment, bus, device] = [m[1] ?? '0', m[2]!, m[3]!].map((digits) => Number.parseInt(digits, 16)) as [
    number,
    number,
    number,
  ];
  const fn = m[4] === '*' ? -1 : Number.parseInt(m[4]!, 16);
  if (segment > 0xffff || bus > 0xff || device > 0x1f || fn > 7) return undefined;
  return { segment, bus, device, functionMask: fn < 0 ? 0xff : 1 << fn, rest: text.slice(m[0].length) };
}

/** `[dddd:]bb:ss.f`; what follows a complete one is ignored, as the real xl does. */
export function parseBdfArgument(text: string): PciSpec {
  const found = parseBdf(text);
  if (found === undefined || found.functionMask === 0xff) throw new MalformedSpec(text);
  const { rest: _, ...address } = found;
  return { ...EMPTY_SPEC, ...address };
}

/** `BDF[@VSLOT][,key=value]...` or only `key=value,...`. Defaults are those of the whole configuration. */
export function parsePciSpec(text: string, defaults: Partial<PciSpec> = {}): PciSpec {
  let spec: PciSpec = { ...EMPTY_SPEC, ...defaults };
  const malformed = (unknownOption?: string): never => {
    throw new MalformedSpec(text, unknownOption);
  };
  const vslot = (digits: string): number => {
    if (!/^[0-9a-f]+$/i.test(digits)) malformed();
    const slot = Number.parseInt(digits, 16);
    return slot > 0x1f ? malformed() : slot;
  };
  let hasBdf = false;
  const takeBdf = (words: string): void => {
    const found = parseBdf(words) ?? malformed();
    const { rest, ...address } = found;
    spec = { ...spec, ...address };
    hasBdf = true;
    if (rest === '') return;
    if (!rest.startsWith('@')) malformed();
    spec.vslot = vslot(rest.slice(1));
  };
  const fields = text.split(',');
  if (fields.at(-1) === '' && fields.length > 1) fields.pop();
  if (!fields[0]!.includes('=')) takeBdf(fields.shift()!);
  for (const field of fields) {
    const equals = field.indexOf('=');
    if (equals < 0) malformed();
    const [key, value] = [field.slice(0, equals), field.slice(equals + 1)];
    const flag = Number.parseInt(value, 10) > 0;
    switch (key) {
      case 'bdf':
        takeBdf(value);
        break;
      case 'vslot':
        spec.vslot = vslot(value);
        break;
      case 'permissive':
        spec.permissive = flag;
        break;
      case 'msitranslate':
        spec.msitranslate = flag;
        break;
      case 'seize':
        spec.seize = flag;
        break;
      case 'power_mgmt':
        spec.powerMgmt = flag;
        break;
      case 'rdm_policy':
        if (value !== 'strict' && value !== 'relaxed') malformed();
        spec.rdmPolicy = value;
        break;
      case 'name':
        spec.name = value;
        break;
      default:
        malformed(key);
    }
  }
  if (hasBdf === (spec.name !== '')) malformed();
  return spec;
}
