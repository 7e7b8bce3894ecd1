/** Scenario files: a board, guests, steps and what is expected of them (docs/reference/scenario.md). */

import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { EVT } from '#shared/arch/smmu/v3-queues.ts';
import { sizeText } from '#shared/board/board-file.ts';
import { addressPlus } from '#shared/ids/address64.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { parseYaml } from '#shared/yaml/document.ts';
import { readText } from '#shared/yaml/files.ts';
import { checkScenario, type Present } from './check.ts';

/**
 * What a result has to look like: a member that is an object is compared member by member; numbers and texts are equal,
 * or a text such as ">= 1000"; a text between slashes is a regular expression.
 */
const expectation = z.record(z.string(), z.unknown());

const address = z.union([
  z.number().int().nonnegative(),
  z
    .string()
    .regex(/^0x[0-9a-f]{1,16}$/i, 'a number, or an address such as "0x7000000000" was expected')
    .transform((text) => addressPlus(BigInt(text), 0)),
  z.strictObject({ memoryOf: z.string() }),
  z.strictObject({ xen: z.literal('page tables'), of: z.string() }),
]);

/** What Xen calls the records of an SMMU; one without a name has its code. */
function isEvent(name: string): boolean {
  return Object.hasOwn(EVT, name) || /^0x[0-9a-f]{1,2}$/.test(name);
}

const EVENT_EXPECTED = `an event of an SMMU was expected: ${Object.keys(EVT).join(', ')}`;

const xlStep = z.strictObject({
  xl: z.string().min(1),
  /** Default: exit status 0. */
  expect: z
    .strictObject({ exit: z.number().int().optional(), stdout: z.string().optional(), stderr: z.string().optional() })
    .optional(),
});

const guestStep = z.strictObject({
  guest: z.string(),
  run: z.string(),
  with: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).default({}),
  expect: expectation.optional(),
});

/** Which of a guest's devices, as the guest calls it; its first one when absent. */
const bdf = z
  .string()
  .refine((text) => parseSbdf(text) !== undefined, 'a BDF such as 0000:01:00.0 was expected')
  .optional();

const dmaCheckStep = z.strictObject({
  dmaCheck: z.strictObject({
    guest: z.string(),
    bdf,
    bytes: sizeText,
    seed: z.number().int().nonnegative().default(1),
  }),
});

const interruptsStep = z.strictObject({
  interrupts: z.strictObject({
    guest: z.string(),
    bdf,
    count: z.number().int().positive(),
    vectors: z.number().int().positive().max(32),
    /** The driver uses its line, or MSI-X; as it is when absent. */
    intx: z.boolean().optional(),
  }),
});

const stoppedStep = z.strictObject({
  /** The guest has its device access an address; the access must be stopped and reported by the SMMU. */
  stopped: z.strictObject({
    guest: z.string(),
    bdf,
    operation: z.enum(['read', 'write']),
    address,
    event: z.string().refine(isEvent, EVENT_EXPECTED).default('F_TRANSLATION'),
  }),
});

const snapshotStep = z.strictObject({ snapshot: z.string() });
/** Everything that a snapshot holds is as it was. */
const restoredStep = z.strictObject({ restored: z.string() });
/** SIGKILL of a guest's process. */
const killStep = z.strictObject({ kill: z.string() });
const waitStep = z.strictObject({
  waitFor: z.union([
    z.strictObject({ xl: z.string(), stdout: z.string() }),
    /** A guest has booted and a driver of that name has bound a function. */
    z.strictObject({ guest: z.string(), driver: z.string().default('dma-probe') }),
  ]),
  seconds: z.number().positive().max(120).default(20),
});
const countsStep = z.strictObject({ counts: expectation });

/** Every kind of step by the key that makes it one. */
const STEPS = {
  xl: xlStep,
  guest: guestStep,
  dmaCheck: dmaCheckStep,
  interrupts: interruptsStep,
  stopped: stoppedStep,
  snapshot: snapshotStep,
  restored: restoredStep,
  kill: killStep,
  waitFor: waitStep,
  counts: countsStep,
} as const;

export type SimpleStep = z.output<(typeof STEPS)[keyof typeof STEPS]>;
export type ScenarioStep = SimpleStep | { readonly together: readonly SimpleStep[] };

/** One of `kinds`, told apart by its key: a mistake in a step is told of that kind, not of all that it could be. */
function oneOf<T>(kinds: Readonly<Record<string, z.ZodType>>): z.ZodType<T> {
  return z.unknown().transform((value, context): T => {
    const given = typeof value === 'object' && value !== null ? Object.keys(value) : [];
    const kind = given.find((key) => Object.hasOwn(kinds, key));
    if (kind === undefined) {
      const found = given[0] === undefined ? JSON.stringify(value) : `"${given[0]}"`;
      context.addIssue(`${found} is no step; a step is one of ${Object.keys(kinds).join(', ')}`);
      return z.NEVER;
    }
    const result = kinds[kind]!.safeParse(value);
    if (result.success) return result.data as T;
    for (const issue of result.error.issues) context.addIssue({ ...issue, input: value } as never);
    return z.NEVER;
  });
}

const together = z.strictObject({ together: z.array(oneOf<SimpleStep>(STEPS)).min(1) });
const step = oneOf<ScenarioStep>({ ...STEPS, together });

const contents = z.strictObject({
  name: z.string(),
  /** A board file, relative to this one. */
  board: z.string(),
  /** By name, the text of an xl.cfg; `xl create NAME` uses it. */
  guests: z.record(z.string(), z.string()).default({}),
  steps: z.array(step).min(1, 'a scenario needs at least one step'),
});

export type ScenarioContents = z.output<typeof contents>;

function schemaOn(present: Present) {
  return contents.superRefine((scenario, context) => {
    checkScenario(scenario, present, (path, message) => {
      context.addIssue({ code: 'custom', path: [...path], message });
    });
  });
}

export const scenarioSchema = schemaOn([]);

export type Address = z.output<typeof address>;

export interface Scenario extends ScenarioContents {
  readonly file: string;
  /** Resolved. */
  readonly boardFile: string;
}

/** Reads and checks a scenario, for a host with guests. Throws FileError. */
export function readScenario(file: string, present: Present = []): Scenario {
  const scenario = parseYaml(file, readText(file), schemaOn(present));
  return { ...scenario, file, boardFile: resolve(dirname(file), scenario.board) };
}
