import { assert, test } from 'vitest';
import { XenbusState } from '#shared/abi/xenbus.ts';
import { TimedOut } from '#shared/core/op.ts';
import { type Transitions, transition, XenbusDevice } from '#shared/kernel/xenbus.ts';
import { XenstoreError } from '#shared/kernel/xenstore-client.ts';
import { StoreWorld, TestKernel } from '../../support/xenstore.ts';

/** dom0 and domain 1, with the two directories of a device between them. */
function pair() {
  const dom0 = new TestKernel('d0');
  const guest = new TestKernel('d1');
  const world = new StoreWorld([dom0, guest]);
  const { store } = dom0;
  world.run(
    dom0,
    (function* () {
      yield* store.introduce(1, 1, 1);
      yield* store.transaction(function* (tx) {
        for (const [path, perms, values] of [
          [BE, ['n0', 'r1'], { frontend: `/local/domain/1/${FE}`, 'frontend-id': '1', state: '1' }],
          [`/local/domain/1/${FE}`, ['n1', 'r0'], { backend: BE, 'backend-id': '0', state: '1' }],
          ['/local/domain/1/error', ['n1'], {}],
        ] as const) {
          yield* tx.mkdir(path);
          yield* tx.setPerms(path, perms);
          for (const [name, value] of Object.entries(values)) yield* tx.write(`${path}/${name}`, value);
        }
      });
    })(),
  );
  return { world, dom0, guest };
}
const BE = '/local/domain/0/backend/pci/1/0';
const FE = 'device/pci/0';

test('text, bytes, lists and absence come back as they are', () => {
  const { world, dom0 } = pair();
  const { store } = dom0;
  world.run(dom0, store.write('/x/name', 'größe'));
  world.run(dom0, store.write('/x/bytes', Uint8Array.of(0, 255, 1)));
  assert.equal(world.run(dom0, store.read('/x/name')), 'größe');
  assert.deepEqual(world.run(dom0, store.readBytes('/x/bytes')), Uint8Array.of(0, 255, 1));
  assert.deepEqual(world.run(dom0, store.directory('/x')), ['name', 'bytes']);
  assert.equal(world.run(dom0, store.readOrUndefined('/x/absent')), undefined);
  assert.deepEqual(world.run(dom0, store.directoryOrEmpty('/absent')), []);
  assert.deepEqual(world.run(dom0, store.getPerms(BE)), ['n0', 'r1']);
  assert.equal(world.run(dom0, store.getDomainPath(1)), '/local/domain/1');
  assert.equal(world.run(dom0, store.isIntroduced(2)), false);
});

test('an error of the store says what was asked and carries its name', () => {
  const { world, guest } = pair();
  try {
    world.run(guest, guest.store.read('/tool'));
    assert.fail('it was answered');
  } catch (error) {
    assert.instanceOf(error, XenstoreError);
    assert.equal((error as XenstoreError).code, 'EACCES');
    assert.equal((error as XenstoreError).message, 'READ /tool: EACCES');
  }
});

test('a directory too long for one packet is read whole', () => {
  const { world, dom0 } = pair();
  const names = Array.from({ length: 300 }, (_, i) => `name-of-a-long-child-${i}`);
  world.run(
    dom0,
    (function* () {
      for (const name of names) yield* dom0.store.write(`/big/${name}`, '');
    })(),
  );
  assert.deepEqual(world.run(dom0, dom0.store.directory('/big')), names);
});

test('two kernels that count in one node in transactions lose no count', () => {
  const { world, dom0, guest } = pair();
  world.run(dom0, dom0.store.write('/count', '0'));
  world.run(dom0, dom0.store.setPerms('/count', ['n0', 'b1']));
  const countUp = ({ store }: TestKernel) =>
    store.transaction(function* (tx) {
      yield* tx.write('/count', `${Number(yield* tx.read('/count')) + 1}`);
    });
  const outcomes = [dom0, guest, dom0, guest].map((kernel) => world.spawn(kernel, countUp(kernel)));
  world.settle();
  assert.deepEqual(
    outcomes.map((outcome) => outcome.error),
    [undefined, undefined, undefined, undefined],
  );
  assert.equal(world.run(dom0, dom0.store.read('/count')), '4');
});

test('a transaction that throws leaves nothing behind', () => {
  const { world, dom0 } = pair();
  assert.throws(() =>
    world.run(
      dom0,
      dom0.store.transaction(function* (tx) {
        yield* tx.write('/half', '1');
        throw new Error('no further');
      }),
    ),
  );
  assert.equal(world.run(dom0, dom0.store.readOrUndefined('/half')), undefined);
});

test('a watch calls back until it is taken away', () => {
  const { world, dom0 } = pair();
  const told: string[] = [];
  world.run(
    dom0,
    dom0.store.watch('/w', 'mine', (path) => told.push(path)),
  );
  world.run(dom0, dom0.store.write('/w/x', ''));
  assert.deepEqual(told, ['/w', '/w/x']);
  world.run(dom0, dom0.store.unwatch('/w', 'mine'));
  world.run(dom0, dom0.store.write('/w/x', ''));
  assert.deepEqual(told, ['/w', '/w/x']);
});

test('waiting ends with the value that was waited for, or with its time', () => {
  const { world, dom0, guest } = pair();
  const waiting = world.spawn(
    guest,
    guest.store.waitFor(`${BE}/ready`, (value) => value === 'yes', 1e9),
  );
  world.settle(world.now + 0.5e9);
  assert.equal(waiting.done, false);
  world.run(dom0, dom0.store.write(`${BE}/ready`, 'yes'));
  assert.equal(waiting.value, 'yes');

  const before = world.now;
  const inVain = world.spawn(
    guest,
    guest.store.waitFor(`${BE}/ready`, (value) => value === 'no', 1e9),
  );
  for (let i = 1; i <= 9; i++) {
    // Changes that bring nothing do not start the time anew.
    world.settle(before + i * 0.1e9);
    world.spawn(dom0, dom0.store.write(`${BE}/ready`, `${i}`));
  }
  world.settle(before + 0.99e9);
  assert.equal(inVain.error, undefined);
  world.settle(before + 1.1e9);
  assert.instanceOf(inVain.error, TimedOut);
});

test('two ends of a device follow each other’s states', () => {
  const { world, dom0, guest } = pair();
  const backend = new XenbusDevice(dom0.store, BE, 'frontend');
  const frontend = new XenbusDevice(guest.store, FE, 'backend');
  const back = world.spawn(
    dom0,
    (function* () {
      yield* backend.open();
      yield* backend.switchState(XenbusState.InitWait);
      yield* backend.waitForOtherState([XenbusState.Initialised], 10e9);
      yield* backend.switchState(XenbusState.Connected);
      return yield* backend.waitForOtherChange(XenbusState.Initialised, 10e9);
    })(),
  );
  const front = world.spawn(
    guest,
    (function* () {
      yield* frontend.open();
      yield* frontend.waitForOtherState([XenbusState.InitWait], 10e9);
      yield* frontend.switchState(XenbusState.Initialised);
      yield* frontend.waitForOtherState([XenbusState.Connected], 10e9);
      yield* frontend.switchState(XenbusState.Connected);
    })(),
  );
  world.settle();
  assert.equal(back.error ?? front.error, undefined);
  assert.equal(back.value, XenbusState.Connected);
  assert.equal(frontend.otherendId, 0);
  assert.equal(frontend.otherendPath, BE);
  assert.equal(world.run(dom0, backend.otherendState()), XenbusState.Connected);
});

test('what is fatal is written where the toolstack looks, and the device closes', () => {
  const { world, dom0, guest } = pair();
  const frontend = new XenbusDevice(guest.store, FE, 'backend');
  world.run(guest, frontend.open());
  world.run(guest, frontend.fatal(14, 'the page has no magic'));
  assert.equal(
    world.run(dom0, dom0.store.read('/local/domain/1/error/device/pci/0/error')),
    '14 the page has no magic',
  );
  assert.equal(world.run(dom0, dom0.store.read(`/local/domain/1/${FE}/state`)), '5');
});

test('a state is not written into a device that the toolstack has removed', () => {
  const { world, dom0, guest } = pair();
  const frontend = new XenbusDevice(guest.store, FE, 'backend');
  world.run(guest, frontend.open());
  world.run(dom0, dom0.store.rm(`/local/domain/1/${FE}`));
  const switched = world.spawn(guest, frontend.switchState(XenbusState.Closed));
  world.settle();
  assert.notEqual(switched.value, true);
  assert.equal(world.run(dom0, dom0.store.readOrUndefined(`/local/domain/1/${FE}/state`)), undefined);
});

test('a table of transitions says what to do and what follows, and nothing for what is not in it', () => {
  const table: Transitions<'attach' | 'detach'> = {
    Initialised: { Initialised: ['attach', 'Connected'], Closing: ['detach', 'Closing'] },
  };
  const { Initialised, Connected, Closed } = XenbusState;
  assert.deepEqual(transition(table, Initialised, Initialised), { action: 'attach', next: Connected });
  assert.equal(transition(table, Initialised, Closed), undefined);
  assert.equal(transition(table, Closed, Initialised), undefined);
});
