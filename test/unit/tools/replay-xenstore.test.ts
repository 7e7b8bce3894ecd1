import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { assert, test } from 'vitest';
import { replayTrace } from '#tools/culvert/replay-xenstore.ts';
import { sharedData } from '../../support/data.ts';

const data = sharedData();

const traceOf = (...lines: string[]): string => `CREATE connection 0xa\n${lines.join('\n')}\n`;
const IN = 'IN 0xa 20260101 00:00:00';
const OUT = 'OUT 0xa 20260101 00:00:00';

test('what the real daemon said is compared reply by reply and event by event', () => {
  const good = replayTrace(
    traceOf(
      `${IN} WATCH (x t )`,
      `${OUT} WATCH (OK )`,
      `${OUT} WATCH_EVENT (x t )`,
      `${IN} WRITE (x/y some value)`,
      `${OUT} WATCH_EVENT (x/y t )`,
      `${OUT} WRITE (OK )`,
      `${IN} READ (x/y )`,
      `${OUT} READ (some value)`,
    ),
  );
  assert.deepEqual(good, {
    connections: 1,
    requests: 3,
    replies: { compared: 3, agreed: 3 },
    events: { compared: 2, agreed: 2 },
    ordersAgreed: 1,
    differences: [],
  });
});

test('what differs is told with its line', () => {
  const { replies, differences } = replayTrace(traceOf(`${IN} READ (/tool )`, `${OUT} READ (surprise)`));
  assert.deepEqual(replies, { compared: 1, agreed: 0 });
  assert.deepEqual(differences, [
    { connection: 'ring of d0 #0', line: 3, real: 'READ surprise', ours: 'READ ', reason: '' },
  ]);
});

test.skipIf(data === undefined)(
  `all replies and events of a real Xen host's xenstored are the same here${data === undefined ? ' (skipped: no trace)' : ' (1905 of them)'}`,
  () => {
    const trace = gunzipSync(readFileSync(join(data!, 'xen-real/xenstored.trace.gz'))).toString('latin1');
    const replay = replayTrace(trace);
    assert.deepEqual(replay.replies, { compared: 1725, agreed: 1725 });
    assert.deepEqual(replay.events, { compared: 180, agreed: 180 });
    // Three clients hung up before they were answered; otherwise order agrees as well.
    assert.equal(replay.connections - replay.ordersAgreed, 3);
    assert.deepEqual(
      replay.differences.map(({ reason }) => reason),
      Array.from({ length: 3 }, () => 'the real client hung up before it was answered'),
    );
  },
);
