import { join } from 'node:path';
import { assert, test } from 'vitest';
import { textOf } from '#shared/abi/xs-wire.ts';
import { readUnpacked } from '#shared/yaml/files.ts';
import { replayXenstoreTrace } from '#tools/replay/xenstore-replay.ts';
import { data } from '../../support/data.ts';

const replay = (...lines: string[]): ReturnType<typeof replayXenstoreTrace> =>
  replayXenstoreTrace('trace', `CREATE connection 0xa\n${lines.join('\n')}\n`);
const IN = 'IN 0xa 20260101 00:00:00';
const OUT = 'OUT 0xa 20260101 00:00:00';
const WATCH = [`${IN} WATCH (x t )`, `${OUT} WATCH (OK )`, `${OUT} WATCH_EVENT (x t )`];

const unexplained = ({ differences }: ReturnType<typeof replayXenstoreTrace>): string[] =>
  differences
    .filter(({ reason }) => reason === '')
    .map(({ line, real, ours }) => `${line}: ${[real, ours].map((text) => text.trimEnd()).join(' | ')}`);

test('what the real daemon said is compared reply by reply and event by event', () => {
  const good = replay(
    ...WATCH,
    `${IN} WRITE (x/y some value)`,
    `${OUT} WATCH_EVENT (x/y t )`,
    `${OUT} WRITE (OK )`,
    `${IN} READ (x/y )`,
    `${OUT} READ (some value)`,
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
  const { replies, differences } = replay(`${IN} READ (/tool )`, `${OUT} READ (surprise)`);
  assert.deepEqual(replies, { compared: 1, agreed: 0 });
  assert.deepEqual(differences, [
    { connection: 'ring of d0 #0', line: 3, real: 'READ surprise', ours: 'READ ', reason: '' },
  ]);
});

test('a value may hold line ends', () => {
  const { differences } = replay(
    `${IN} WRITE (x a`,
    'b)',
    `${OUT} WRITE (OK )`,
    `${IN} READ (x )`,
    `${OUT} READ (a`,
    'b)',
  );
  assert.deepEqual(differences, []);
});

test('the same things in another order are a difference', () => {
  const swapped = replay(...WATCH, `${IN} WRITE (x/y 1)`, `${OUT} WRITE (OK )`, `${OUT} WATCH_EVENT (x/y t )`);
  assert.equal(swapped.ordersAgreed, 0);
  assert.deepEqual(unexplained(swapped), ['7: WRITE OK , then WATCH_EVENT x/y t | WATCH_EVENT x/y t , then WRITE OK']);
});

test('an event that only we sent has a reason where the same one was still unread, and only there', () => {
  const [first, second] = [`${IN} WRITE (x 1)`, `${IN} WRITE (x 2)`];
  const [done, event] = [`${OUT} WRITE (OK )`, `${OUT} WATCH_EVENT (x t )`];
  const merged = replay(...WATCH, first, second, event, done, done);
  assert.deepEqual(
    merged.differences.map(({ reason }) => reason),
    ['the real client had not read the same event before, so it was merged'],
  );
  const read = replay(...WATCH, first, event, done, second, done);
  assert.deepEqual(unexplained(read), ['8:  | WATCH_EVENT x t']);
});

test('a request without a reply has a reason where the trace shows that the client hung up, and only there', () => {
  const socket = ['CREATE connection 0xb', 'IN 0xb 20260101 00:00:00 READ (/tool )'];
  const first = [`${IN} READ (/tool )`, `${OUT} READ ()`];
  const hungUp = replay(...first, ...socket, 'CONN 0xb ignored, reason 2', 'DESTROY connection 0xb');
  assert.deepEqual(unexplained(hungUp), []);
  assert.equal(hungUp.differences.length, 1);
  assert.deepEqual(unexplained(replay(...first, ...socket, 'DESTROY connection 0xb')), ['5:  | READ']);
});

test('a transaction may have another id, unless that is open already', () => {
  const start = `${IN} TRANSACTION_START ( )`;
  const other = replay(
    start,
    `${OUT} TRANSACTION_START (700 )`,
    `${IN} TRANSACTION_END (F )`,
    `${OUT} TRANSACTION_END (OK )`,
  );
  assert.deepEqual(
    other.differences.map(({ reason }) => reason),
    ['another id'],
  );
  const same = replay(start, `${OUT} TRANSACTION_START (700 )`, start, `${OUT} TRANSACTION_START (700 )`);
  assert.deepEqual(unexplained(same), ['5: TRANSACTION_START 700 | TRANSACTION_START 2']);
});

test('a @releaseDomain that nothing explains is the shutdown of one guest', () => {
  const released = `${OUT} WATCH_EVENT (@releaseDomain t )`;
  const guest = (domid: number): string[] => [
    `${IN} INTRODUCE (${domid} 1 1 )`,
    `CREATE connection 0x${domid}`,
    `${OUT} INTRODUCE (OK )`,
  ];
  const watch = [`${IN} WATCH (@releaseDomain t )`, `${OUT} WATCH (OK )`, released];
  const ends = (domid: number): string[] => [released, `DESTROY connection 0x${domid}`, released];
  const two = replay(...watch, ...guest(1), ...guest(2), ...ends(2), ...ends(1));
  assert.deepEqual(two.differences, []);
  assert.deepEqual(two.events, { compared: 5, agreed: 5 });
  // A guest that lives on did not shut down.
  assert.deepEqual(unexplained(replay(...watch, ...guest(1), released)), ['8: WATCH_EVENT @releaseDomain t | ']);
});

test.each([
  [
    'a line that is none',
    [`${IN} READ (/tool )`, 'OUT what'],
    /^trace:3: "OUT what" is no line of a xenstored trace: .*expected/,
  ],
  ['a message that does not end', [`${IN} READ (/tool `, `${OUT} READ ()`], /^trace:2: the message does not end/],
  [
    'a connection that nobody made',
    ['OUT 0xb 20260101 00:00:00 READ ()'],
    /^trace:2: connection 0xb is not there: .*CREATE/,
  ],
  ['a request that is none', [`${IN} REED (/tool )`], /^trace:2: "REED" is no request/],
  [
    'requests without replies',
    [`${IN} READ (/tool )`],
    /^trace:2: the trace ends with 1 requests and no reply to compare/,
  ],
])('a trace with %s is refused', (_what, lines, expected) => {
  assert.throws(() => replay(...lines), expected);
});

test.skipIf(data === undefined)(
  `all replies and events of a real Xen host's xenstored are the same here${data === undefined ? ' (skipped: no trace)' : ' (1905 of them)'}`,
  () => {
    const text = textOf(readUnpacked(join(data!, 'xen-real/xenstored.trace.gz')));
    const real = replayXenstoreTrace('xenstored.trace', text);
    assert.deepEqual(real.replies, { compared: 1725, agreed: 1725 });
    assert.deepEqual(real.events, { compared: 180, agreed: 180 });
    // Three clients hung up before they were answered; otherwise order agrees as well.
    assert.equal(real.connections - real.ordersAgreed, 3);
    assert.deepEqual(
      real.differences.map(({ reason }) => reason),
      Array.from({ length: 3 }, () => 'the real client hung up before it was answered'),
    );
    const deaf = text
      .split('\n')
      .filter((line) => !line.includes(' WATCH_EVENT '))
      .join('\n');
    assert.isAtLeast(unexplained(replayXenstoreTrace('deaf', deaf)).length, 170);
    const last = text.lastIndexOf('\nOUT ');
    const unanswered = text.slice(0, last) + text.slice(text.indexOf('\n', last + 1));
    assert.equal(unexplained(replayXenstoreTrace('unanswered', unanswered)).length, 1);
  },
);
