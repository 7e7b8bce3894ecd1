import { assert, test } from 'vitest';
import { canonicalPath, levelsBelow, parentOf, quotaLength } from '../../../services/xenstored/path.ts';
import { accessOf, formatPerm, parsePerm } from '../../../services/xenstored/permissions.ts';

test('a relative path starts where the domain’s own nodes are', () => {
  assert.equal(canonicalPath('device/pci', '/local/domain/7', false), '/local/domain/7/device/pci');
  assert.equal(canonicalPath('/', '/local/domain/7', false), '/');
  assert.equal(canonicalPath('@releaseDomain', '/local/domain/7', true), '@releaseDomain');
});

test('levels are counted by whole components', () => {
  assert.equal(levelsBelow('/a', '/a'), 0);
  assert.equal(levelsBelow('/a/b/c', '/a'), 2);
  assert.equal(levelsBelow('/a/b', '/'), 2);
  assert.equal(levelsBelow('/ab', '/a'), -1);
  assert.equal(levelsBelow('/a', '/a/b'), -1);
  assert.equal(levelsBelow('@releaseDomain', '/'), -1);
});

test('the parent of a node directly below the root is the root', () => {
  assert.equal(parentOf('/a'), '/');
  assert.equal(parentOf('/a/b'), '/a');
  assert.equal(parentOf('@releaseDomain'), '/');
});

test('the path quota leaves out what stands before a domain’s own part', () => {
  assert.equal(quotaLength('/local/domain/123/abc'), 3);
  assert.equal(quotaLength('/local/domain/123'), 17);
});

test('a permission entry is a letter and a domain', () => {
  for (const text of ['n0', 'r5', 'w32751', 'b1']) assert.equal(formatPerm(parsePerm(text)!), text);
  for (const text of ['', 'n', 'x1', 'r-1', 'r1 ', 'r99999']) assert.equal(parsePerm(text), undefined);
});

test('an entry of one’s own comes before what the others may', () => {
  const perms = ['b1', 'n2', 'r3'].map((text) => parsePerm(text)!);
  const access = (domid: number, targetDomid = -1) => {
    const { read, write, owner } = accessOf({ domid, targetDomid }, perms);
    return `${read ? 'r' : ''}${write ? 'w' : ''}${owner ? 'o' : ''}`;
  };
  assert.equal(access(0), 'rwo');
  assert.equal(access(1), 'rwo');
  assert.equal(access(2), '');
  assert.equal(access(3), 'r');
  assert.equal(access(4), 'rw');
  assert.equal(access(2, 1), 'rwo');
});
