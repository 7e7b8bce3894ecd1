/** A NATS server that is named and is not there: said once, after a wait that the message tells of. */
import { cpSync } from 'node:fs';
import { afterEach, assert, beforeEach, test } from 'vitest';
import { assertOneLine, EXAMPLES, Workplace } from '../support/culvert.ts';

const NOWHERE = 'nats://127.0.0.1:1';

let place: Workplace;

beforeEach(() => {
  place = new Workplace();
  cpSync(EXAMPLES, place.path('.'), { recursive: true });
});

afterEach(() => place.remove());

test('a host that is named by an address where nobody answers, or without a credential', {
  timeout: 60_000,
}, async () => {
  assertOneLine(place, await place.culvert(['--url', NOWHERE, 'xl', 'list']), /no operator credential at .*--creds/);
  assertOneLine(
    place,
    await place.culvert(['run', 'two-guests.yaml'], { NATS_URL: NOWHERE }),
    /CULVERT_KEYS .*culvert keys DIR/,
  );
  assert.equal((await place.culvert(['keys', 'keys'])).status, 0);
  const theirs = ['--url', NOWHERE, '--creds', 'keys/creds/operator.creds'];
  const keys = { NATS_URL: NOWHERE, CULVERT_KEYS: 'keys' };
  const outcomes = await Promise.all([
    place.culvert([...theirs, 'xl', 'list']),
    place.culvert([...theirs, 'status']),
    place.culvert([...theirs, 'run', 'two-guests.yaml']),
    place.culvert(['run', 'two-guests.yaml'], keys),
    place.culvert(['up'], keys),
  ]);
  for (const outcome of outcomes) assertOneLine(place, outcome, /no NATS server answers at nats:\/\/127\.0\.0\.1:1 /);
});
