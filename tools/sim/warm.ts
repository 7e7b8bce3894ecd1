/**
 * Loads every module that a host's processes run, so that the compile cache holds them before the first process starts:
 * part of installation.
 */
import '#shared/bus/serve.ts';
import '#shared/bus/taker.ts';
import '../culvert/run.ts';
import '../culvert/up.ts';
import './host.ts';
