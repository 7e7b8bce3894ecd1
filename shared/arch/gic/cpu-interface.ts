/**
 * The CPU interface's system registers by name, and their fields (IHI 0069, "CPU interface registers").
 * Not modelled: group 0, SGI generation, the active priority registers, the virtual interface (ICH_*).
 */

/** The registers of a CPU interface that EL2 may name. */
export const ICC_REGISTERS = [
  'ICC_PMR_EL1',
  'ICC_IGRPEN1_EL1',
  'ICC_IAR1_EL1',
  'ICC_EOIR1_EL1',
  'ICC_HPPIR1_EL1',
  'ICC_RPR_EL1',
  'ICC_CTLR_EL1',
  'ICC_SRE_EL1',
  'ICC_DIR_EL1',
  'ICC_BPR1_EL1',
] as const;

export type IccRegister = (typeof ICC_REGISTERS)[number];

export const ICC_CTLR_EL1_CBPR = 1 << 0;
/** 1: ICC_EOIR1_EL1 drops the priority only, ICC_DIR_EL1 deactivates. */
export const ICC_CTLR_EL1_EOImode = 1 << 1;
export const ICC_CTLR_EL1_A3V = 1 << 15;
export const ICC_SRE_EL1_SRE = 1 << 0;
export const ICC_SRE_EL1_DFB = 1 << 1;
export const ICC_SRE_EL1_DIB = 1 << 2;
export const ICC_IGRPEN1_EL1_Enable = 1 << 0;
/** The running priority when nothing is active. */
export const ICC_RPR_EL1_IDLE = 0xff;
