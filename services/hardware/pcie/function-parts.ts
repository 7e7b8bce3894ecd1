/** What a function is made of before it lives: configuration space, fields, BARs, MSI-X, out of its board entry. */
import { PCI_CFG_SPACE_BYTES, PCI_CFG_SPACE_EXP_BYTES } from '#shared/arch/pci/header.ts';
import type { BoardFunction } from '#shared/board/description.ts';
import { type BarShape, barShapesOf, type MsixShape, msixShapeOf, vfBarShapesOf } from './bar.ts';
import { type ConfigFields, declareFields } from './config-fields.ts';
import { ConfigSpace } from './config-space.ts';

export interface FunctionParts {
  readonly config: ConfigSpace;
  readonly fields: ConfigFields;
  readonly bars: readonly BarShape[];
  /** The BARs are in its own header; those of a VF are in its PF, which claims for it. */
  readonly decodesBars: boolean;
  /** BARs that its VFs share out, `index` from 0. */
  readonly vfBars: readonly BarShape[];
  readonly msix: MsixShape | undefined;
  /** Bytes of configuration space that answer: a conventional function has 256. */
  readonly configBytes: number;
}

/** Throws RangeError as `barShapesOf` does. */
export function functionParts(fn: BoardFunction): FunctionParts {
  const bars = barShapesOf(fn);
  const vfBars = vfBarShapesOf(fn);
  const config = new ConfigSpace(fn.config, PCI_CFG_SPACE_EXP_BYTES);
  const fields = declareFields(config, fn.config, bars, vfBars, fn.quirks?.flr !== 'none');
  // Whoever dumped 4 KiB found 4 KiB, whatever the capabilities say.
  const wide = fields.express >= 0 || fn.config.length > PCI_CFG_SPACE_BYTES;
  return {
    config,
    fields,
    bars,
    decodesBars: true,
    vfBars,
    msix: msixShapeOf(fn.config),
    configBytes: wide ? PCI_CFG_SPACE_EXP_BYTES : PCI_CFG_SPACE_BYTES,
  };
}

/** Parts of the same kind with a configuration space of their own, as it is now. */
export function twinOf(parts: FunctionParts): FunctionParts {
  return { ...parts, config: new ConfigSpace(new Uint8Array(0), parts.config.sizeBytes, parts.config) };
}
