/**
 * Admin commands of an NVMe controller (NVM Express 1.4, "Admin Command Set"): identify, log pages, queues, features,
 * abort, asynchronous events.
 * Not modelled: firmware download, namespace management, security, self-test, directives, format; each ends with
 * Invalid Command Opcode, and Identify does not announce it.
 */
import {
  NVME_ADMIN,
  NVME_CNS,
  NVME_CQES,
  NVME_LOG,
  NVME_LOG_RAE,
  NVME_NSID_ALL,
  NVME_QUEUE_IEN,
  NVME_QUEUE_PC,
  NVME_SC,
  NVME_SQE,
  NVME_SQES,
  nvmeU64,
} from '#shared/arch/nvme.ts';
import type { NvmeEvents } from './nvme-events.ts';
import type { NvmeFeatures } from './nvme-features.ts';
import {
  activeNamespaces,
  type ControllerIdentity,
  identifyController,
  identifyNamespace,
  isKnownCns,
  namespaceDescriptors,
} from './nvme-identify.ts';
import type { NvmeLogs } from './nvme-logs.ts';
import type { NvmeNamespace } from './nvme-namespace.ts';
import type { NvmeData } from './nvme-prp.ts';
import type { NvmeQueues } from './nvme-queues.ts';
import { NVME_MQES, type NvmeRegisters } from './nvme-registers.ts';
import { NVME_HELD, NVME_UNTIL_DURABLE } from './nvme-status.ts';

/** Log data go out in pieces of this size, so that a long length costs no memory. */
const LOG_PAD_BYTES = 0x10_0000;

export interface AdminParts {
  readonly queues: NvmeQueues;
  readonly features: NvmeFeatures;
  readonly events: NvmeEvents;
  readonly logs: NvmeLogs;
  readonly data: NvmeData;
  readonly registers: NvmeRegisters;
  readonly namespaces: readonly NvmeNamespace[];
  readonly identity: ControllerIdentity;
  /** Interrupt vectors that a completion queue may name. */
  readonly vectors: number;
  /** Ends a fetched command of another entry with a status; false when there is none. */
  endFetched(sqid: number, cid: number, status: number): boolean;
  /** Ends every fetched command of a queue with a status. */
  endQueue(sqid: number, status: number): void;
}

export class NvmeAdmin {
  /** DW0 of the completion of the last command that was executed. */
  dw0 = 0;
  readonly #parts: AdminParts;

  constructor(parts: AdminParts) {
    this.#parts = parts;
  }

  /** Carries out one command. Gives its status, NVME_HELD or NVME_UNTIL_DURABLE. */
  execute(opcode: number, cid: number, command: Uint32Array): number {
    this.dw0 = 0;
    switch (opcode) {
      case NVME_ADMIN.DELETE_IO_SQ:
        return this.#deleteSubmission(command);
      case NVME_ADMIN.CREATE_IO_SQ:
        return this.#createSubmission(command);
      case NVME_ADMIN.GET_LOG_PAGE:
        return this.#getLogPage(command);
      case NVME_ADMIN.DELETE_IO_CQ:
        return this.#deleteCompletion(command);
      case NVME_ADMIN.CREATE_IO_CQ:
        return this.#createCompletion(command);
      case NVME_ADMIN.IDENTIFY:
        return this.#identify(command);
      case NVME_ADMIN.ABORT:
        return this.#abort(command);
      case NVME_ADMIN.SET_FEATURES: {
        const { features, queues } = this.#parts;
        const cached = features.cacheEnabled;
        const { status, dw0 } = features.set(command, queues.completion.size > 1);
        this.dw0 = dw0;
        // A cache that is turned off is empty when the command completes.
        return cached && !features.cacheEnabled ? NVME_UNTIL_DURABLE : status;
      }
      case NVME_ADMIN.GET_FEATURES: {
        const { status, dw0 } = this.#parts.features.get(command);
        this.dw0 = dw0;
        return status;
      }
      case NVME_ADMIN.ASYNC_EVENT_REQUEST:
        if (this.#parts.events.full) return NVME_SC.ASYNC_EVENT_LIMIT_EXCEEDED;
        this.#parts.events.request(cid);
        return NVME_HELD;
      default:
        return NVME_SC.INVALID_OPCODE;
    }
  }

  #identify(command: Uint32Array): number {
    const { namespaces, identity, data } = this.#parts;
    const cns = command[NVME_SQE.CDW10]! & 0xff;
    const nsid = command[NVME_SQE.NSID]!;
    if (!isKnownCns(cns)) return NVME_SC.INVALID_FIELD;
    if (cns === NVME_CNS.CONTROLLER) return data.toHost(command, identifyController(identity, namespaces));
    if (cns === NVME_CNS.ACTIVE_NAMESPACES) {
      if (nsid >= NVME_NSID_ALL - 1) return NVME_SC.INVALID_NAMESPACE;
      return data.toHost(command, activeNamespaces(nsid, namespaces.length));
    }
    const namespace = namespaces[nsid - 1];
    // Without namespace management there is nothing common to all namespaces that FFFFFFFFh could ask for.
    if (namespace === undefined) return NVME_SC.INVALID_NAMESPACE;
    if (cns === NVME_CNS.NAMESPACE) return data.toHost(command, identifyNamespace(namespace, identity, nsid));
    return data.toHost(command, namespaceDescriptors(identity, nsid));
  }

  #getLogPage(command: Uint32Array): number {
    const { logs, data, events } = this.#parts;
    const id = command[NVME_SQE.CDW10]! & 0xff;
    const dwords = (command[NVME_SQE.CDW11]! & 0xffff) * 0x1_0000 + (command[NVME_SQE.CDW10]! >>> 16) + 1;
    const offset = nvmeU64(command, NVME_SQE.CDW12);
    const nsid = command[NVME_SQE.NSID]!;
    const page = logs.page(id);
    if (page === undefined) return NVME_SC.INVALID_LOG_PAGE;
    if (offset % 4 !== 0 || offset > page.length || dwords * 4 > LOG_PAD_BYTES) return NVME_SC.INVALID_FIELD;
    if (id === NVME_LOG.SMART && nsid !== 0 && nsid !== NVME_NSID_ALL) return NVME_SC.INVALID_FIELD;
    const bytes = new Uint8Array(dwords * 4);
    bytes.set(page.subarray(offset, offset + bytes.length));
    const status = data.toHost(command, bytes);
    if (status === NVME_SC.SUCCESS && (command[NVME_SQE.CDW10]! & NVME_LOG_RAE) === 0) events.pageRead(id);
    return status;
  }

  #createCompletion(command: Uint32Array): number {
    const { queues, features, data, registers, vectors } = this.#parts;
    const id = command[NVME_SQE.CDW10]! & 0xffff;
    const size = command[NVME_SQE.CDW10]! >>> 16;
    const flags = command[NVME_SQE.CDW11]!;
    const base = nvmeU64(command, NVME_SQE.PRP1);
    if (id === 0 || id > features.completionQueues || queues.completion.has(id)) return NVME_SC.INVALID_QUEUE_ID;
    if (size === 0 || size > NVME_MQES) return NVME_SC.INVALID_QUEUE_SIZE;
    if ((flags & NVME_QUEUE_PC) === 0 || registers.ioEntrySizes.completion !== NVME_CQES) return NVME_SC.INVALID_FIELD;
    if (base % data.pageBytes !== 0) return NVME_SC.PRP_OFFSET_INVALID;
    if (flags >>> 16 >= vectors) return NVME_SC.INVALID_INTERRUPT_VECTOR;
    queues.addCompletion(id, base, size + 1, flags >>> 16, (flags & NVME_QUEUE_IEN) !== 0);
    return NVME_SC.SUCCESS;
  }

  #createSubmission(command: Uint32Array): number {
    const { queues, features, data, registers } = this.#parts;
    const id = command[NVME_SQE.CDW10]! & 0xffff;
    const size = command[NVME_SQE.CDW10]! >>> 16;
    const flags = command[NVME_SQE.CDW11]!;
    const cqid = flags >>> 16;
    const base = nvmeU64(command, NVME_SQE.PRP1);
    if (id === 0 || id > features.submissionQueues || queues.submission.has(id)) return NVME_SC.INVALID_QUEUE_ID;
    if (cqid === 0 || cqid > features.completionQueues) return NVME_SC.INVALID_QUEUE_ID;
    if (!queues.completion.has(cqid)) return NVME_SC.COMPLETION_QUEUE_INVALID;
    if (size === 0 || size > NVME_MQES) return NVME_SC.INVALID_QUEUE_SIZE;
    if ((flags & NVME_QUEUE_PC) === 0 || registers.ioEntrySizes.submission !== NVME_SQES) return NVME_SC.INVALID_FIELD;
    if (base % data.pageBytes !== 0) return NVME_SC.PRP_OFFSET_INVALID;
    queues.addSubmission(id, cqid, base, size + 1);
    return NVME_SC.SUCCESS;
  }

  /** What was fetched from the queue ends before the deletion does; what was not is never seen. */
  #deleteSubmission(command: Uint32Array): number {
    const { queues } = this.#parts;
    const id = command[NVME_SQE.CDW10]! & 0xffff;
    if (id === 0 || !queues.submission.has(id)) return NVME_SC.INVALID_QUEUE_ID;
    this.#parts.endQueue(id, NVME_SC.ABORTED_SQ_DELETION);
    queues.deleteSubmission(id);
    return NVME_SC.SUCCESS;
  }

  #deleteCompletion(command: Uint32Array): number {
    const { queues } = this.#parts;
    const id = command[NVME_SQE.CDW10]! & 0xffff;
    if (id === 0 || !queues.completion.has(id)) return NVME_SC.INVALID_QUEUE_ID;
    if (queues.isUsed(id)) return NVME_SC.INVALID_QUEUE_DELETION;
    queues.deleteCompletion(id);
    return NVME_SC.SUCCESS;
  }

  /** Bit 0 of DW0 is clear when the command was aborted. Commands still in their queue are not looked for. */
  #abort(command: Uint32Array): number {
    const sqid = command[NVME_SQE.CDW10]! & 0xffff;
    const cid = command[NVME_SQE.CDW10]! >>> 16;
    this.dw0 = this.#parts.endFetched(sqid, cid, NVME_SC.ABORT_REQUESTED) ? 0 : 1;
    return NVME_SC.SUCCESS;
  }
}
