import { assert, test } from 'vitest';
import { packPacket, packStrings, parsePacket, textOf, XS } from '#shared/abi/xs-wire.ts';
import { body } from '#shared/core/core.ts';
import { call } from '#shared/core/op.ts';
import { createXenstoredCore } from '../../../services/xenstored/core.ts';
import { HostBench } from '../../support/host-bench.ts';

/** dom0 asks the store. */
function ask(host: HostBench, type: number, ...strings: string[]): string {
  const packet = packPacket(type, 1, 0, packStrings(...strings));
  const reply = host.run(0, () => call('xenstored', body('xenstoreRequest', { packet }), 'xenstoreReply'));
  return textOf(parsePacket(reply.packet).payload).replace(/\0$/, '');
}

test('Xen tells xenstored of a domain that crashes and of one that is gone, and its nodes go with it', () => {
  const host = new HostBench();
  host.world.add('xenstored', createXenstoredCore({ idBase: 0 }));
  const domid = host.guest();
  assert.equal(ask(host, XS.INTRODUCE, `${domid}`, '1', '1'), 'OK');
  ask(host, XS.MKDIR, `/local/domain/${domid}`);
  ask(host, XS.SET_PERMS, `/local/domain/${domid}`, `n${domid}`);

  host.connection(domid, false); // its process died
  host.until(() => host.domain(domid).shutdown !== null);
  assert.equal(ask(host, XS.IS_DOMAIN_INTRODUCED, `${domid}`), 'T');
  assert.equal(ask(host, XS.READ, `/local/domain/${domid}`), '');

  host.destroy(domid);
  host.until(() => ask(host, XS.IS_DOMAIN_INTRODUCED, `${domid}`) === 'F');
  assert.equal(ask(host, XS.READ, `/local/domain/${domid}`), 'ENOENT');
});

test('nobody but Xen may say so', () => {
  const host = new HostBench();
  host.world.add('xenstored', createXenstoredCore({ idBase: 0 }));
  const message = body('domainExcRequest', { domid: 1, gone: true });
  assert.throws(
    () => host.run(0, () => call('xenstored', message, 'domainExcReply')),
    /does not take domainExcRequest of d0/,
  );
});
