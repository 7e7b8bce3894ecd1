/** What the drivers of SMMUv2 and SMMUv3 offer, and what they report. */
import type { Op } from '#shared/core/op.ts';

/** The SMMU lacks what Xen needs, or does not do what the architecture says: Xen cannot start. */
export class SmmuError extends Error {
  override name = 'SmmuError';
}

/** Stage-2 tables as an SMMU is told of them: a domain's own, or those of a view (mm/p2m-view.ts). */
export interface Stage2Tables {
  readonly vmid: number;
  readonly rootPa: number;
  readonly ipaBits: number;
  readonly geometry: { readonly t0sz: number; readonly sl0: number; readonly ps: number };
}

/** One report of an SMMU as `inspect` shows it. */
export interface SmmuRecord {
  /** F_TRANSLATION and the like: SMMUv3's name of the event, and what is the same of an SMMUv2. */
  readonly type: string;
  /** Counts the records of all SMMUs from 1, in the order in which Xen took them. */
  readonly sequence: number;
  readonly streamId: number;
  /** Text from 2^53 on: `0x` and sixteen digits. */
  readonly inputAddress: number | string;
  readonly isRead: boolean;
}

export interface SmmuDriver {
  readonly name: string;
  readonly phandle: number;
  /** From reset, or whatever firmware left, to translating with every stream aborted. Throws SmmuError. */
  init(): Op<void>;
  /** A device has this StreamID: it aborts until it is attached. Throws XenError ERANGE beyond the SMMU, ENOMEM. */
  addStream(streamId: number): Op<void>;
  /**
   * Traffic of the stream is translated by `tables` when it returns. Throws XenError ERANGE, EBUSY, ENOMEM, ENOSPC (the
   * SMMU has no stream entry or no context left), EIO, ETIMEDOUT; nothing is left of it then.
   */
  attach(streamId: number, tables: Stage2Tables): Op<void>;
  /**
   * Traffic of the stream is aborted when it returns, and no translation made for it is left, unless another stream of
   * the same tables still needs it. Nothing happens to a stream that is not attached.
   */
  detach(streamId: number): Op<void>;
  /** Forgets every translation of the VMID, when a stream uses it. Throws XenError EIO, ETIMEDOUT. */
  invalidateVmid(vmid: number): Op<void>;
  usesVmid(vmid: number): boolean;
  /** The last records, oldest first. */
  readonly events: readonly SmmuRecord[];
  /** Attached streams by StreamID. */
  readonly streams: readonly { readonly streamId: number; readonly vmid: number }[];
}
