import { assert, test } from 'vitest';
import type { Op } from '#shared/core/op.ts';
import { Interrupts } from '../../../services/domu/kernel/interrupts.ts';
import { SharedLines } from '../../../services/domu/kernel/shared-lines.ts';

const LINE = 40;

/** Runs an operation that waits for nothing. */
function run<T>(op: Op<T>): T {
  const next = op.next();
  assert.isTrue(next.done);
  return next.value as T;
}

// biome-ignore lint/correctness/useYield: the chip answers at once
function* done(note: () => void): Op<void> {
  note();
}

class Bench {
  /** What the interrupt controller was told. */
  readonly log: string[] = [];
  readonly traces: string[] = [];
  readonly interrupts = new Interrupts(run, (_intid, error) => this.log.push(`${error}`));
  readonly lines = new SharedLines(
    {
      enableSpi: (intid) => done(() => this.log.push(`enable ${intid}`)),
      disableSpi: (intid) => done(() => this.log.push(`disable ${intid}`)),
      endOfInterrupt: (intid) => done(() => this.log.push(`end ${intid}`)),
    },
    this.interrupts,
    (event) => this.traces.push(event),
  );

  handler(name: string, isMine: () => boolean): () => Op<boolean> {
    const { log } = this;
    // biome-ignore lint/correctness/useYield: a handler that has nothing to ask of its device
    return function* () {
      log.push(name);
      return isMine();
    };
  }

  /** What happens at one interrupt. */
  take(): string[] {
    this.log.length = 0;
    this.interrupts.deliver([LINE]);
    return [...this.log];
  }
}

test('every handler of a line runs, and then the interrupt is ended, once', () => {
  const b = new Bench();
  const [nic, disk] = [b.handler('nic', () => false), b.handler('disk', () => true)];
  run(b.lines.request(LINE, nic));
  run(b.lines.request(LINE, disk));
  assert.deepEqual(b.log, [`enable ${LINE}`]);
  assert.deepEqual(b.take(), ['nic', 'disk', `end ${LINE}`]);
  run(b.lines.free(LINE, nic));
  assert.deepEqual(b.take(), ['disk', `end ${LINE}`]);
  b.log.length = 0;
  run(b.lines.free(LINE, disk));
  assert.deepEqual(b.log, [`disable ${LINE}`]);
  assert.deepEqual(b.take(), [`end ${LINE}`], 'one that was on its way');
});

test('a handler that fails does not keep the line active', () => {
  const b = new Bench();
  run(
    b.lines.request(LINE, () => {
      throw new Error('broken');
    }),
  );
  assert.deepEqual(b.take(), [`end ${LINE}`, 'Error: broken']);
});

test('a line that nobody cares for is disabled after a thousand times in a row, and ended all the same', () => {
  const b = new Bench();
  let mine = false;
  run(
    b.lines.request(
      LINE,
      b.handler('nic', () => mine),
    ),
  );
  for (let i = 1; i < 1000; i++) b.take();
  mine = true;
  b.take();
  mine = false;
  for (let i = 1; i < 1000; i++) assert.deepEqual(b.take(), ['nic', `end ${LINE}`]);
  assert.deepEqual(b.take(), ['nic', `disable ${LINE}`, `end ${LINE}`]);
  assert.deepEqual(b.traces, ['irq-nobody-cared']);
});
