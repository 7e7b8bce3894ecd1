import { assert, test } from 'vitest';
import { XS } from '#shared/abi/xs-wire.ts';
import {
  converse,
  directory,
  end,
  getPerms,
  introduce,
  mkdir,
  type Row,
  raw,
  read,
  release,
  rm,
  StoreBench,
  setPerms,
  start,
  unwatch,
  watch,
  write,
} from '../support/xenstore.ts';

function conversation(name: string, rows: readonly Row[]): void {
  test(name, () => {
    assert.deepEqual(converse(new StoreBench(), rows), [...rows]);
  });
}

conversation('the daemon makes three nodes, and all else is written by somebody', [
  ['d0', directory('/'), 'tool'],
  ['d0', directory('/tool'), 'xenstored'],
  ['d0', read('/tool/xenstored'), ''],
  ['d0', getPerms('/tool'), 'n0'],
  ['d0', getPerms('@releaseDomain'), 'n0'],
  ['d0', read('/local/domain/0/name'), 'ENOENT'],
]);

conversation('nodes are written, listed in order of creation and removed with all below', [
  ['d0', write('/a/c/deep', 'x'), 'OK'],
  ['d0', write('/a/b', ''), 'OK'],
  ['d0', directory('/a'), 'c,b'],
  ['d0', read('/a/b'), ''],
  ['d0', mkdir('/a/b'), 'OK'],
  ['d0', write('/a/b', 'two\0parts'), 'OK'],
  ['d0', read('/a/b'), 'two,parts'],
  ['d0', rm('/a/c'), 'OK'],
  ['d0', read('/a/c/deep'), 'ENOENT'],
  ['d0', directory('/a'), 'b'],
  ['d0', rm('/a/never'), 'OK'],
  ['d0', rm('/never/never'), 'ENOENT'],
  ['d0', rm('/'), 'EINVAL'],
]);

conversation('a path that breaks a rule is EINVAL', [
  ['d0', read('/a/'), 'EINVAL'],
  ['d0', read('/a//b'), 'EINVAL'],
  ['d0', read('/a b'), 'EINVAL'],
  ['d0', read('/a.b'), 'EINVAL'],
  ['d0', read(''), 'EINVAL'],
  ['d0', read('@releaseDomain'), 'EINVAL'],
  ['d0', read(`/${'x'.repeat(3072)}`), 'EINVAL'],
  ['d0', raw(XS.READ, '/no-nul-at-the-end'), 'EINVAL'],
  ['d0', raw(XS.READ, '/a\0/b\0'), 'EINVAL'],
]);

conversation('permissions: the owner, those listed, and the others', [
  ['d0', introduce(1), 'OK'],
  ['d0', introduce(2), 'OK'],
  ['d0', write('/local/domain/1/device/pci/0/state', '1'), 'OK'],
  ['d1', read('/local/domain/1/device/pci/0/state'), 'EACCES'],
  ['d0', setPerms('/local/domain/1/device/pci/0/state', 'n1,r0'), 'OK'],
  ['d1', write('/local/domain/1/device/pci/0/state', '3'), 'OK'],
  ['d1', read('device/pci/0/state'), '3'],
  ['d0', read('/local/domain/1/device/pci/0/state'), '3'],
  ['d2', read('/local/domain/1/device/pci/0/state'), 'EACCES'],
  ['d2', write('/local/domain/1/device/pci/0/state', '6'), 'EACCES'],
  ['d2', rm('/local/domain/1/device/pci/0/state'), 'EACCES'],
  ['d1', setPerms('device/pci/0/state', 'n1,r2'), 'OK'],
  ['d2', read('/local/domain/1/device/pci/0/state'), '3'],
  ['d2', write('/local/domain/1/device/pci/0/state', '6'), 'EACCES'],
  ['d2', setPerms('/local/domain/1/device/pci/0/state', 'n2'), 'EACCES'],
  ['d1', setPerms('device/pci/0/state', 'n2'), 'EPERM'],
  ['d1', setPerms('device/pci/0/state', 'x1'), 'EINVAL'],
  ['d1', raw(XS.SET_PERMS, 'device/pci/0/state\0'), 'EINVAL'],
]);

conversation('what a domain may not read it is not told to be absent', [
  ['d0', introduce(1), 'OK'],
  ['d0', write('/secret/present', 's'), 'OK'],
  ['d1', read('/secret/present'), 'EACCES'],
  ['d1', read('/secret/absent'), 'EACCES'],
  ['d0', write('/open', ''), 'OK'],
  ['d0', setPerms('/open', 'r0'), 'OK'],
  ['d1', read('/open/absent'), 'ENOENT'],
  ['d1', write('/open/mine', 'x'), 'EACCES'],
]);

conversation('a new node inherits, and is owned by the unprivileged domain that made it', [
  ['d0', introduce(3), 'OK'],
  ['d0', mkdir('/local/domain/3/data'), 'OK'],
  ['d0', setPerms('/local/domain/3/data', 'n0,b3,r2'), 'OK'],
  ['d0', write('/local/domain/3/data/by0', ''), 'OK'],
  ['d0', getPerms('/local/domain/3/data/by0'), 'n0,b3,r2'],
  ['d3', write('data/by3/below', ''), 'OK'],
  ['d0', getPerms('/local/domain/3/data/by3'), 'n3,b3,r2'],
  ['d0', getPerms('/local/domain/3/data/by3/below'), 'n3,b3,r2'],
]);

conversation('a domain that was not introduced is refused, and is again after its release', [
  ['d5', read('name'), 'refused: domain 5 is not introduced'],
  ['d0', raw(XS.IS_DOMAIN_INTRODUCED, '5\0'), 'F'],
  ['d0', introduce(5), 'OK'],
  ['d0', raw(XS.IS_DOMAIN_INTRODUCED, '5\0'), 'T'],
  ['d5', raw(XS.GET_DOMAIN_PATH, '77\0'), '/local/domain/77'],
  ['d5', introduce(6), 'EACCES'],
  ['d5', raw(XS.IS_DOMAIN_INTRODUCED, '5\0'), 'EACCES'],
  ['d0', release(5), 'OK'],
  ['d5', read('name'), 'refused: domain 5 is not introduced'],
  ['d0', release(5), 'ENOENT'],
  ['d0', release(0), 'EINVAL'],
  ['d0', raw(XS.INTRODUCE, '5\0' + '1\0'), 'EINVAL'],
  ['d0', raw(XS.INTRODUCE, '5\0' + '1\0' + '0\0'), 'EINVAL'],
]);

conversation('a transaction is seen whole or not at all', [
  ['d0', write('/a', 'before'), 'OK'],
  ['d0', start(), '1'],
  ['d0', write('/a', 'inside', 1), 'OK'],
  ['d0', write('/b/c', 'new', 1), 'OK'],
  ['d0', read('/a', 1), 'inside'],
  ['d0', directory('/b', 1), 'c'],
  ['d0', read('/a'), 'before'],
  ['d0', read('/b/c'), 'ENOENT'],
  ['d0', end(1, 'T'), 'OK'],
  ['d0', read('/a'), 'inside'],
  ['d0', read('/b/c'), 'new'],
  ['d0', read('/a', 1), 'ENOENT'],
  ['d0', start(), '2'],
  ['d0', rm('/b', 2), 'OK'],
  ['d0', end(2, 'F'), 'OK'],
  ['d0', read('/b/c'), 'new'],
]);

conversation('a transaction meets a conflict when a node that it touched has changed', [
  ['d0', write('/a', '1'), 'OK'],
  ['d0', write('/other', '1'), 'OK'],
  ['d0', start(), '1'],
  ['d0', read('/a', 1), '1'],
  ['d0', write('/other', '2'), 'OK'],
  ['d0', end(1, 'T'), 'OK'],
  ['d0', start(), '2'],
  ['d0', read('/a', 2), '1'],
  ['d0', write('/a', '2'), 'OK'],
  ['d0', read('/a', 2), '1'],
  ['d0', end(2, 'T'), 'EAGAIN'],
  ['d0', end(2, 'T'), 'ENOENT'],
  ['d0', start(), '3'],
  ['d0', read('/absent', 3), 'ENOENT'],
  ['d0', write('/absent', ''), 'OK'],
  ['d0', end(3, 'T'), 'EAGAIN'],
]);

conversation('two transactions that create siblings are in conflict, since both write the parent', [
  ['d0', mkdir('/dir'), 'OK'],
  ['d0', start(), '1'],
  ['d0', start(), '2'],
  ['d0', write('/dir/x', '', 1), 'OK'],
  ['d0', write('/dir/y', '', 2), 'OK'],
  ['d0', end(1, 'T'), 'OK'],
  ['d0', end(2, 'T'), 'EAGAIN'],
  ['d0', directory('/dir'), 'x'],
]);

conversation('transaction ids are one connection’s own, do not nest, and end with T or F', [
  ['d0', introduce(1), 'OK'],
  ['d0', start(), '1'],
  ['d1', read('x', 1), 'ENOENT'],
  ['d0', raw(XS.TRANSACTION_START, '\0', 1), 'EBUSY'],
  ['d0', end(1, 'X'), 'EINVAL'],
  ['d0', end(0, 'T'), 'ENOENT'],
  ['d0', end(1, 'T'), 'OK'],
]);

conversation('a watch fires at once, and for every change at and below its path', [
  ['d0', watch('/w', 'tok'), 'OK'],
  ['d0', 'hears', ['/w tok']],
  ['d0', write('/w', ''), 'OK'],
  ['d0', write('/w/x/y', ''), 'OK'],
  ['d0', setPerms('/w', 'r0'), 'OK'],
  ['d0', write('/wide', ''), 'OK'],
  ['d0', 'hears', ['/w tok', '/w/x/y tok', '/w tok']],
  ['d0', watch('/w', 'tok'), 'EEXIST'],
  ['d0', watch('/w', 'tok2'), 'OK'],
  ['d0', 'hears', ['/w tok2']],
  ['d0', unwatch('/w', 'tok'), 'OK'],
  ['d0', unwatch('/w', 'tok'), 'ENOENT'],
  ['d0', write('/w', '1'), 'OK'],
  ['d0', 'hears', ['/w tok2']],
]);

conversation('of a removed subtree, those above hear its top, and those inside hear of themselves', [
  ['d0', write('/t/a/b', ''), 'OK'],
  ['d0', watch('/t', 'above'), 'OK'],
  ['d0', watch('/t/a/b', 'inside'), 'OK'],
  ['d0', watch('/t/a/b/absent', 'below'), 'OK'],
  ['d0', 'hears', ['/t above', '/t/a/b inside', '/t/a/b/absent below']],
  ['d0', rm('/t/a'), 'OK'],
  ['d0', 'hears', ['/t/a/b inside', '/t/a above']],
]);

conversation('a depth says how far below a watch looks', [
  ['d0', watch('/d', 'exact', '0'), 'OK'],
  ['d0', watch('/d', 'one', '1'), 'OK'],
  ['d0', watch('/d', 'bad', 'x'), 'EINVAL'],
  ['d0', 'hears', ['/d exact', '/d one']],
  ['d0', write('/d/1', ''), 'OK'],
  ['d0', write('/d/1/2', ''), 'OK'],
  ['d0', write('/d', ''), 'OK'],
  ['d0', 'hears', ['/d/1 one', '/d exact', '/d one']],
]);

conversation('a watch on a relative path is told relative paths', [
  ['d0', introduce(4), 'OK'],
  ['d0', mkdir('/local/domain/4/device'), 'OK'],
  ['d0', setPerms('/local/domain/4/device', 'n4'), 'OK'],
  ['d4', watch('device', 't'), 'OK'],
  ['d0', write('/local/domain/4/device/pci', ''), 'OK'],
  ['d4', 'hears', ['device t', 'device/pci t']],
]);

conversation('a watch tells nothing about what its owner may read neither itself nor above', [
  ['d0', introduce(1), 'OK'],
  ['d0', write('/secret', ''), 'OK'],
  ['d1', watch('/', 'all'), 'OK'],
  ['d1', watch('/secret', 'one'), 'OK'],
  ['d1', 'hears', ['/ all', '/secret one']],
  ['d0', write('/secret', 'x'), 'OK'],
  ['d1', 'hears', []],
  ['d0', setPerms('/secret', 'n0,r1'), 'OK'],
  ['d0', write('/secret', 'y'), 'OK'],
  ['d1', 'hears', ['/secret all', '/secret one', '/secret all', '/secret one']],
  ['d0', setPerms('/secret', 'n0'), 'OK'],
  ['d1', 'hears', ['/secret all', '/secret one']],
  ['d0', rm('/secret'), 'OK'],
  ['d1', 'hears', []],
]);

conversation('watches hear of a transaction when it commits, once for each path', [
  ['d0', watch('/x', 't'), 'OK'],
  ['d0', 'hears', ['/x t']],
  ['d0', start(), '1'],
  ['d0', write('/x/a', '1', 1), 'OK'],
  ['d0', write('/x/b', '1', 1), 'OK'],
  ['d0', write('/x/a', '2', 1), 'OK'],
  ['d0', 'hears', []],
  ['d0', end(1, 'T'), 'OK'],
  ['d0', 'hears', ['/x/a t', '/x/b t']],
  ['d0', start(), '2'],
  ['d0', write('/x/c', '1', 2), 'OK'],
  ['d0', end(2, 'F'), 'OK'],
  ['d0', 'hears', []],
]);

conversation('the special watches tell of domains that come and go, to those who may know', [
  ['d0', introduce(1), 'OK'],
  ['d1', watch('@releaseDomain', 'guest'), 'OK'],
  ['d1', 'hears', ['@releaseDomain guest']],
  ['d0', watch('@introduceDomain', 'in'), 'OK'],
  ['d0', watch('@releaseDomain', 'out', '1'), 'OK'],
  ['d0', 'hears', ['@introduceDomain in', '@releaseDomain out']],
  ['d0', introduce(2), 'OK'],
  ['d0', introduce(2), 'OK'],
  ['d0', release(2), 'OK'],
  ['d0', 'hears', ['@introduceDomain in', '@releaseDomain/2 out']],
  ['d1', 'hears', []],
  ['d0', setPerms('@releaseDomain', 'r0'), 'OK'],
  ['d1', 'hears', ['@releaseDomain guest']],
  ['d0', introduce(2), 'OK'],
  ['d0', release(2), 'OK'],
  ['d1', 'hears', ['@releaseDomain guest']],
]);

conversation('a release takes what the domain owned, its entries elsewhere, and its watches', [
  ['d0', introduce(1), 'OK'],
  ['d0', mkdir('/local/domain/1'), 'OK'],
  ['d0', setPerms('/local/domain/1', 'n0,r1'), 'OK'],
  ['d0', mkdir('/local/domain/1/data'), 'OK'],
  ['d0', setPerms('/local/domain/1/data', 'n1,r0'), 'OK'],
  ['d1', write('data/mine', ''), 'OK'],
  ['d1', watch('data', 't'), 'OK'],
  ['d1', 'hears', ['data t']],
  ['d0', watch('/local/domain/1/data', 't'), 'OK'],
  ['d0', 'hears', ['/local/domain/1/data t']],
  ['d0', release(1), 'OK'],
  ['d0', 'hears', ['/local/domain/1/data t']],
  ['d1', 'hears', []],
  ['d0', directory('/local/domain/1'), ''],
  ['d0', getPerms('/local/domain/1'), 'n0'],
  ['d0', introduce(1), 'OK'],
  ['d1', read('/local/domain/1'), 'EACCES'],
]);

conversation('a target lends its rights', [
  ['d0', introduce(1), 'OK'],
  ['d0', introduce(2), 'OK'],
  ['d0', write('/owned-by-1', ''), 'OK'],
  ['d0', setPerms('/owned-by-1', 'n1'), 'OK'],
  ['d2', write('/owned-by-1', 'x'), 'EACCES'],
  ['d0', raw(XS.SET_TARGET, '2\0' + '1\0'), 'OK'],
  ['d2', write('/owned-by-1', 'x'), 'OK'],
  ['d2', setPerms('/owned-by-1', 'n1,r2'), 'OK'],
  ['d0', raw(XS.SET_TARGET, '2\0' + '9\0'), 'ENOENT'],
  ['d1', raw(XS.SET_TARGET, '1\0' + '0\0'), 'EACCES'],
]);

conversation('a reset drops watches and transactions; an unknown request is ENOSYS', [
  ['d0', start(), '1'],
  ['d0', watch('/w', 't'), 'OK'],
  ['d0', 'hears', ['/w t']],
  ['d0', raw(XS.RESET_WATCHES, '\0'), 'OK'],
  ['d0', write('/w', ''), 'OK'],
  ['d0', 'hears', []],
  ['d0', end(1, 'T'), 'ENOENT'],
  ['d0', raw(20, '\0'), 'ENOSYS'],
  ['d0', raw(XS.WATCH_EVENT, '\0'), 'ENOSYS'],
  ['d0', raw(XS.CONTROL, 'check\0'), 'OK'],
  ['d0', raw(XS.CONTROL, 'live-update\0'), 'EINVAL'],
  ['d0', introduce(1), 'OK'],
  ['d1', raw(XS.CONTROL, 'check\0'), 'EACCES'],
]);
