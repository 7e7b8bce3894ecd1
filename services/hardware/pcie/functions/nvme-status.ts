/** What a command may give in place of a status. */

/** The command stays with the controller. */
export const NVME_HELD = -1;
/** It was carried out, and completes when all that was written before is on its medium. */
export const NVME_UNTIL_DURABLE = -2;
