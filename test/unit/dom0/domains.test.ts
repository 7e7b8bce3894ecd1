/** Domains from create to the end, and functions between dom0, quarantine and guests. */
import { assert, describe, test } from 'vitest';
import { body } from '#shared/core/core.ts';
import { Host, pciSpec } from './host.ts';

const NIC = '0000:01:00.0';
const texts = (reply: { log: { text: string }[] }): string[] => reply.log.map((line) => line.text);
const owner = (h: Host, bdf: string): number =>
  h.inspect('xen').devices.find((d: { sbdf: string }) => d.sbdf === bdf).owner;

function domainState(h: Host): unknown {
  return {
    nodes: h.nodes('/'),
    assignable: h.assignable(),
    domains: h.inspect('d0').domains,
    xen: h.inspect('xen').domains.length,
    frames: h.inspect('xen').frames.free,
    foreignPages: h.inspect('d0').counts.foreignPages,
  };
}

/** A host on which one guest with the NIC lived and died: tables that are made on first use exist. */
function usedHost(): Host {
  const h = new Host();
  h.assignableAdd(NIC);
  h.create('first', { pci: [pciSpec(NIC)] });
  h.runFor(2e9);
  h.destroy(1);
  h.runFor(1e9);
  return h;
}

describe('create and destroy', () => {
  test('a domain has the nodes of a real one while it lives, and leaves none', () => {
    const h = usedHost();
    const before = domainState(h);
    const { domid, rc } = h.create('guest', { pci: [pciSpec(NIC)], memoryMib: 64 });
    assert.equal(rc, 0);
    h.runFor(2e9);
    const dom = `/local/domain/${domid}`;
    const nodes = h.nodes(dom);
    assert.equal(nodes[`${dom}/name`], 'guest');
    assert.equal(nodes[`${dom}/memory/target`], '65536');
    assert.equal(nodes[`${dom}/store/ring-ref`], '233473');
    assert.equal(nodes[`${dom}/console/ring-ref`], '233472');
    assert.equal(nodes[`${dom}/control/platform-feature-xs_reset_watches`], '1');
    const { domains } = h.toolstack(body('listDomainsRequest', {}));
    assert.deepInclude(domains.find((d) => d.domid === domid)!, { name: 'guest', memoryMib: 64, vcpus: 1 });
    assert.equal(h.destroy(domid).rc, 0);
    h.runFor(1e9);
    assert.deepEqual(domainState(h), before);
    assert.include(h.revoked, domid);
  });

  test('leaves nothing when no process takes the domain', () => {
    const h = usedHost();
    const before = domainState(h);
    h.vacancies = false;
    const reply = h.create('guest', { pci: [pciSpec(NIC)] });
    assert.equal(reply.rc, -3);
    assert.match(texts(reply)[0]!, /no guest process took the domain/);
    h.runFor(1e9);
    assert.deepEqual(domainState(h), before);
  });

  test('leaves nothing when its memory is not there', () => {
    const h = usedHost();
    const before = domainState(h);
    const reply = h.create('guest', { memoryMib: 4096 });
    assert.equal(reply.rc, -5);
    h.runFor(1e9);
    assert.deepEqual(domainState(h), before);
  });

  test('refuses a name that is taken and devices without passthrough', () => {
    const h = new Host();
    h.create('guest');
    assert.deepEqual(texts(h.create('guest')), ['Domain with name "guest" already exists.']);
    const reply = h.create('other', { pci: [pciSpec(NIC)], passthrough: 'disabled' });
    assert.equal(reply.rc, -6);
  });

  test('a domain created paused runs when it is unpaused, and unpausing it again is an error', () => {
    const h = new Host();
    h.create('guest', {}, true);
    h.runFor(1e9);
    assert.equal(h.inspect('d1').state, 'off');
    const unpause = body('pauseDomainRequest', { domid: 1, unpause: true });
    assert.equal(h.toolstack(unpause).rc, 0);
    h.runUntil(() => h.inspect('d1').state === 'booted');
    assert.deepEqual(texts(h.toolstack(unpause)), ['Domain 1:unpausing domain: Invalid argument']);
  });

  test('a domain that is not there cannot be destroyed', () => {
    const h = new Host();
    const reply = h.destroy(55);
    assert.equal(reply.rc, -21);
    assert.deepEqual(texts(reply), ['Domain 55:Non-existent domain']);
  });
});

describe('a guest that dies', () => {
  test('is destroyed, and its function is cleaned, quarantined and assignable again', () => {
    const h = usedHost();
    const before = domainState(h);
    const { domid } = h.create('guest', { pci: [pciSpec(NIC)] });
    h.runFor(2e9);
    h.kill(domid);
    h.runUntil(() => h.inspect('d0').domains.length === 0);
    h.runFor(1e9);
    assert.deepEqual(domainState(h), before);
    assert.equal(owner(h, NIC), 0x7ff1);
  });

  test('in the middle of an attach ends the attach, and nothing of it stays', () => {
    const h = usedHost();
    const before = domainState(h);
    const { domid } = h.create('guest');
    h.runFor(1e9);
    h.deaf.add(`d${domid}`);
    const reply = h.begin('d0', body('pciAttachRequest', { domid, spec: pciSpec(NIC) }));
    h.runFor(1e9);
    assert.isUndefined(reply());
    h.kill(domid);
    h.runUntil(() => reply() !== undefined && h.inspect('d0').domains.length === 0, 5e9);
    h.runFor(1e9);
    assert.deepEqual(domainState(h), before);
  });

  test('is kept when on_crash says preserve', () => {
    const h = new Host();
    const { domid } = h.create('guest', { onCrash: 'preserve' });
    h.runFor(1e9);
    h.kill(domid);
    h.runFor(5e9);
    const { domains } = h.toolstack(body('listDomainsRequest', {}));
    assert.match(domains.find((d) => d.domid === domid)!.state, /sc-$/);
    assert.equal(h.destroy(domid).rc, 0);
  });

  test('does not disturb another guest', () => {
    const h = new Host();
    for (const bdf of [NIC, '0000:02:00.0']) h.assignableAdd(bdf);
    h.create('one', { pci: [pciSpec(NIC)] });
    h.create('two', { pci: [pciSpec('0000:02:00.0')] });
    h.runFor(2e9);
    h.kill(1);
    h.runUntil(() => h.inspect('d0').domains.length === 1);
    const request = body('guestCommandRequest', { command: 'dma-check', args: '{"bytes":65536,"seed":1}' });
    const { result } = h.ask('d2', request, 'guestCommandReply');
    assert.equal(JSON.parse(result).mismatches, 0);
  });
});

describe('pci-assignable', () => {
  test('add quarantines, a second add warns, remove gives it back to dom0', () => {
    const h = new Host();
    const add = h.assignableAdd(NIC);
    assert.deepEqual(texts(add), ['0000:01:00.0 not bound to a driver, will not be rebound.']);
    assert.equal(owner(h, NIC), 0x7ff1);
    assert.deepEqual(texts(h.assignableAdd(NIC)), ['0000:01:00.0 already assigned to pciback']);
    const remove = body('pciAssignableRemoveRequest', { spec: pciSpec(NIC), name: '', rebind: false });
    assert.deepEqual(h.toolstack(remove), { rc: 0, log: [], domid: 0, domains: [], pci: [] });
    assert.equal(owner(h, NIC), 0);
    assert.deepEqual(h.assignable(), []);
    assert.deepEqual(texts(h.toolstack(remove)), ['Not bound to pciback']);
  });

  test('names are listed, and stand for the address in remove', () => {
    const h = new Host();
    h.toolstack(body('pciAssignableAddRequest', { spec: pciSpec(NIC), name: 'fast' }));
    const { pci } = h.toolstack(body('pciAssignableListRequest', {}));
    assert.deepEqual(pci, [{ sbdf: 0x100, vdevfn: 0, name: 'fast' }]);
    const remove = body('pciAssignableRemoveRequest', { spec: undefined, name: 'fast', rebind: false });
    assert.equal(h.toolstack(remove).rc, 0);
    assert.deepEqual(h.nodes('/libxl/pci/'), {});
  });

  test('what is not there, a bridge, and a bad name are refused', () => {
    const h = new Host();
    const absent = h.assignableAdd('0000:05:00.0');
    assert.deepEqual(texts(absent), ["Couldn't lstat /sys/bus/pci/devices/0000:05:00.0: No such file or directory"]);
    assert.include(texts(h.assignableAdd('0000:00:02.0')), "Couldn't bind device to pciback!");
    const name = (text: string) => body('pciAssignableAddRequest', { spec: pciSpec(NIC), name: text });
    assert.deepEqual(texts(h.toolstack(name('x'.repeat(65)))), ['Name too long']);
    assert.deepEqual(texts(h.toolstack(name('a b'))), ['Names may only include printable characters']);
  });

  test('a function that a guest has cannot be taken out', () => {
    const h = new Host();
    h.assignableAdd(NIC);
    h.create('guest', { pci: [pciSpec(NIC)] });
    const remove = body('pciAssignableRemoveRequest', { spec: pciSpec(NIC), name: '', rebind: false });
    assert.deepEqual(texts(h.toolstack(remove)), [`failed to de-quarantine ${NIC}`]);
    assert.equal(owner(h, NIC), 1);
  });
});
