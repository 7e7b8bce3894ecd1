/** xen/include/public/sched.h */
import { struct, u32 } from './layout.ts';

export const SCHEDOP = { yield: 0, block: 1, shutdown: 2, watchdog: 6 } as const;
export const SHUTDOWN = { poweroff: 0, reboot: 1, suspend: 2, crash: 3, watchdog: 4 } as const;
export const sched_shutdown = struct({ reason: u32 });
/** id 0 and a timeout asks for a new watchdog (answer: its id); an id and 0 ends it; an id and a timeout starts it again. Seconds. */
export const sched_watchdog = struct({ id: u32, timeout: u32 });
