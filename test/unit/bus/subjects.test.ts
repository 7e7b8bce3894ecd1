import { assert, describe, test } from 'vitest';
import { Envelope } from '#gen/bus.ts';
import { INTERFACE_OF, parseSubject, permissionsOf, subjectOf } from '#shared/bus/subjects.ts';

/** Does a permission pattern cover a subject (NATS wildcards)? */
function covers(pattern: string, subject: string): boolean {
  const [p, s] = [pattern.split(' ')[0]!.split('.'), subject.split('.')];
  for (let i = 0; i < p.length; i++) {
    if (p[i] === '>') return s.length > i;
    if (p[i] !== '*' && p[i] !== s[i]) return false;
  }
  return p.length === s.length;
}

const mayPublish = (peer: Parameters<typeof permissionsOf>[0], subject: string): boolean =>
  permissionsOf(peer).publish.some((pattern) => covers(pattern, subject));
const mayHear = (peer: Parameters<typeof permissionsOf>[0], subject: string): boolean =>
  permissionsOf(peer).subscribe.some((pattern) => covers(pattern, subject));

describe('what a guest may do', () => {
  test('it speaks to its own CPU bus, hypercalls and store, and answers Xen, the store and the operator', () => {
    assert.deepEqual([...permissionsOf('d3').publish].sort(), [
      'cv.hardware.cpu.d3',
      'cv.operator.reply.d3',
      'cv.xen.hello.d3',
      'cv.xen.hypercall.d3',
      'cv.xen.reply.d3',
      'cv.xenstored.reply.d3',
      'cv.xenstored.store.d3',
    ]);
  });

  test('it speaks for nobody else, whatever the interface', () => {
    const interfaces = new Set(Object.values(INTERFACE_OF));
    const others = ['d0', 'd1', 'd30', 'xen', 'xenstored', 'hardware', 'operator', 'vacant'] as const;
    for (const to of [...others, 'd3'] as const) {
      for (const iface of interfaces) {
        for (const from of others)
          assert.isFalse(mayPublish('d3', subjectOf(to, iface, from)), `${to} ${iface} ${from}`);
      }
    }
  });

  test('it cannot reach EL2, another domain, or the toolstack under its own name', () => {
    for (const subject of [
      'cv.hardware.el2.d3',
      'cv.d1.upcall.d3',
      'cv.d0.toolstack.d3',
      'cv.d0.lifecycle.d3',
      'cv.d1.reply.d3',
    ]) {
      assert.isFalse(mayPublish('d3', subject), subject);
    }
  });

  test('it hears only what is sent to it', () => {
    assert.isTrue(mayHear('d3', 'cv.d3.reply.xen'));
    for (const subject of ['cv.d30.reply.xen', 'cv.d1.reply.xen', 'cv.xen.hypercall.d1', 'cv.operator.reply.d0']) {
      assert.isFalse(mayHear('d3', subject), subject);
    }
  });
});

test('xenstored speaks as a process of dom0: on its CPUs and to its kernel, and watches go to anybody', () => {
  assert.deepEqual([...permissionsOf('xenstored').publish].sort(), [
    'cv.*.hello.xenstored',
    'cv.*.reply.xenstored',
    'cv.*.watch.xenstored',
    'cv.d0.ring.xenstored',
    'cv.hardware.cpu.xenstored',
  ]);
  assert.isFalse(mayPublish('xenstored', 'cv.hardware.cpu.d0'));
});

test('only dom0 tells xenstored of events on store rings', () => {
  for (const peer of ['hardware', 'xen', 'd1', 'operator', 'vacant'] as const)
    assert.isFalse(mayPublish(peer, `cv.xenstored.ring.${peer}`), peer);
  assert.isTrue(mayPublish('d0', 'cv.xenstored.ring.d0'));
});

test('only xen reaches the EL2 interface', () => {
  for (const peer of ['hardware', 'xenstored', 'd0', 'd1', 'operator', 'vacant'] as const) {
    assert.isFalse(mayPublish(peer, 'cv.hardware.el2.xen'), peer);
  }
  assert.isTrue(mayPublish('xen', 'cv.hardware.el2.xen'));
});

test('a vacant replica may do nothing but be taken', () => {
  assert.deepEqual(permissionsOf('vacant').publish, ['cv.d0.reply.vacant']);
  assert.isFalse(mayHear('vacant', 'cv.d0.reply.xen'));
});

test('every kind of message has an interface', () => {
  const source = Envelope.encode.toString();
  for (const kind of Object.keys(INTERFACE_OF)) assert.include(source, kind);
});

test('a subject names sender and interface, and anything else is none of ours', () => {
  assert.deepEqual(parseSubject('cv.xen.hypercall.d1'), { to: 'xen', iface: 'hypercall', from: 'd1' });
  assert.isUndefined(parseSubject('cv.xen.hypercall'));
  assert.isUndefined(parseSubject('cv.xen.hypercall.d1.x'));
  assert.isUndefined(parseSubject('other.xen.hypercall.d1'));
});

test('no credential is made for an unknown peer', () => {
  assert.throws(() => permissionsOf('dx' as 'd1'), RangeError);
});
