/**
 * Every maximum that services share, in one place. What happens at each maximum is tested.
 * Times are nanoseconds of the core's clock.
 */

const MS = 1e6;

export const LIMITS = {
  /** Bytes of one message on the broker (`max_payload` of nats-server). */
  messageBytes: 4 * 1024 * 1024,
  /** Bytes of one bulk RAM access in a message. */
  bulkAccessBytes: 1024 * 1024,
  /** Operations in one CPU or EL2 batch. */
  batchOps: 4096,
  /** First wait before a request is sent again; it doubles up to `retryMaxNs`. */
  retryNs: 1000 * MS,
  retryMaxNs: 4000 * MS,
  /** A request without an answer is given up after this. */
  callDeadlineNs: 20_000 * MS,
  /** Answers kept per peer, for requests that come twice. */
  answersKept: 256,
  /** Requests a peer may have running here at once; what comes beyond is refused. */
  requestsRunning: 256,
  /** A PCI function that stays silent after a reset: it is told of after this (Linux PCI_RESET_WAIT), */
  pciReadySlowNs: 1000 * MS,
  /** and given up when the next wait would be longer than this (Linux PCIE_RESET_READY_POLL_MS). */
  pciReadyMaxNs: 60_000 * MS,
} as const;
