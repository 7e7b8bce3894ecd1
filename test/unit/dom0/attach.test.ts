/** Attach and detach on the machine, Xen, the store and real guests: what everybody has to agree on, and what is undone. */
import { assert, describe, test } from 'vitest';
import { XEN_DOMCTL, xen_domctl } from '#shared/abi/domctl.ts';
import { HYPERCALL } from '#shared/abi/hypercall.ts';
import { XS } from '#shared/abi/xs-wire.ts';
import { type Body, body, type Peer } from '#shared/core/core.ts';
import { Host, pciSpec } from './host.ts';

const NIC = '0000:01:00.0';
const NVME = '0000:02:00.0';
const USB = '0000:03:00.0';
const BACK = '/local/domain/0/backend/pci/1/0';

/** A host with all three endpoints assignable and a guest that runs. */
function hostWithGuest(): Host {
  const h = new Host();
  for (const bdf of [NIC, NVME, USB]) h.assignableAdd(bdf);
  assert.equal(h.create('guest1').rc, 0);
  h.runFor(1e9);
  return h;
}

const texts = (reply: { log: { text: string }[] }): string[] => reply.log.map((line) => line.text);

/** What must be the same before and after an attach that failed. */
function state(h: Host): unknown {
  const xen = h.inspect('xen');
  const guest = xen.domains.find((d: { domid: number }) => d.domid === 1);
  return {
    nodes: h.nodes('/'),
    assignable: h.assignable(),
    holes: h.inspect('d0').holes,
    devices: h.inspect('d0').domains,
    owners: xen.devices,
    iomem: guest.iomemRanges,
    irqRanges: guest.irqRanges,
    irqs: xen.irqs,
    p2m: guest.p2mEntries,
    foreignPages: h.inspect('d0').counts.foreignPages,
  };
}

function domctl(from: Peer, to: Peer, message: Body): number {
  if (from !== 'd0' || to !== 'xen' || message.$case !== 'hypercallRequest') return -1;
  return message.value.number === HYPERCALL.domctl ? xen_domctl.decode(message.value.arg).cmd : -1;
}

describe('pci-attach', () => {
  test('gives a running guest a function that does DMA and raises interrupts', () => {
    const h = hostWithGuest();
    assert.deepEqual(h.attach(1, NIC), { rc: 0, log: [], domid: 0, domains: [], pci: [] });
    const nodes = h.nodes(BACK);
    assert.equal(nodes[`${BACK}/state`], '4');
    assert.equal(nodes[`${BACK}/dev-0`], NIC);
    assert.equal(nodes[`${BACK}/vdev-0`], '0000:00:00.00');
    assert.equal(nodes[`${BACK}/BAR-0-IPA-0`], '0x23000000');
    assert.equal(nodes[`${BACK}/root-0`], '0000:00');
    assert.equal(h.nodes('/libxl/pci/0000-01-00-0')['/libxl/pci/0000-01-00-0/domid'], '1');
    assert.deepEqual(h.assignable(), [NVME, USB]);
    const command = (name: string, args: unknown) =>
      JSON.parse(
        h.ask('d1', body('guestCommandRequest', { command: name, args: JSON.stringify(args) }), 'guestCommandReply')
          .result,
      );
    assert.include(command('dma-check', { bytes: 65536, seed: 3 }), { mismatches: 0 });
    assert.include(command('interrupts', { count: 10, vectors: 2 }), { delivered: 10, lost: 0 });
  });

  test('adds a second and a third function while the guest runs, at the slot asked for or the next free one', () => {
    const h = hostWithGuest();
    assert.equal(h.attach(1, NIC).rc, 0);
    assert.equal(h.attach(1, NVME, { vslot: 8 }).rc, 0);
    assert.equal(h.attach(1, USB).rc, 0);
    const seen = h.inspect('d1').devices.map((d: { sbdf: string; driver: string }) => [d.sbdf, d.driver]);
    assert.deepEqual(seen, [
      ['0000:00:00.0', 'dma-probe'],
      ['0000:00:01.0', 'dma-probe'],
      ['0000:00:08.0', 'dma-probe'],
    ]);
    assert.equal(h.nodes(BACK)[`${BACK}/vdevfn-1`], '40');
    const { pci } = h.toolstack(body('pciListRequest', { domid: 1 }));
    assert.deepEqual(
      pci.map((p) => p.vdevfn),
      [0, 0x40, 0],
    );
  });

  test('a function can come with the domain', () => {
    const h = new Host();
    h.assignableAdd(NIC);
    h.assignableAdd(NVME);
    assert.equal(h.create('guest1', { pci: [pciSpec(NIC), pciSpec(NVME)] }).rc, 0);
    h.runUntil(() => h.inspect('d1').devices.length === 2);
    assert.equal(h.nodes(BACK)[`${BACK}/num_devs`], '2');
  });

  test('a function that is not assignable, or taken, is refused before any hypercall', () => {
    const h = hostWithGuest();
    h.attach(1, NIC);
    const before = h.sent.length;
    const twice = h.attach(1, NIC);
    const unseized = h.attach(1, '0000:00:03.0');
    assert.deepEqual(texts(twice), [
      'Domain 1:PCI device 0:1:0.0 is not assignable',
      'Domain 1:libxl__device_pci_add failed for PCI device 0:1:0.0 (rc -3)',
      'unable to add device',
    ]);
    assert.equal(unseized.rc, -3);
    assert.isFalse(h.sent.slice(before).some(({ from, to, envelope }) => domctl(from, to, envelope.body!) >= 0));
  });

  test('seize makes it assignable first, and a name stands for an address', () => {
    const h = hostWithGuest();
    assert.equal(h.attach(1, '0000:00:03.0', { seize: true }).rc, 0);
    const request = body('pciAssignableAddRequest', { spec: pciSpec(USB), name: 'usb' });
    assert.equal(h.toolstack(request).rc, 0);
    assert.equal(h.attach(1, NIC, { name: 'usb' }).rc, 0);
    assert.equal(h.nodes(BACK)[`${BACK}/dev-1`], USB);
    const unknown = h.attach(1, NIC, { name: 'foo' });
    assert.equal(unknown.rc, -23);
    assert.equal(texts(unknown)[0], "Domain 1:libxl__device_pci_add failed for PCI device 'foo' (rc -23)");
  });

  test.each([
    // Three BARs, permitted and mapped (two of 32 frames, one of 4), and the assignment.
    ['with a line that the guest has already', [NVME], 7],
    // The right to the line and the line, besides; its doorbell page came with a function that has gone.
    ['with a line of its own', [], 9],
  ])('leaves no trace when any of its hypercalls fails, %s', (_what, others, calls) => {
    const h = hostWithGuest();
    h.attach(1, NVME);
    if (others.length === 0) h.detach(1, NVME);
    h.runFor(1e9);
    const before = state(h);
    let failing = 0;
    for (; failing < 40; failing++) {
      let seen = 0;
      let failed = false;
      h.intercept = (from, to, message) => {
        if (domctl(from, to, message) < 0 || seen++ !== failing || message.$case !== 'hypercallRequest')
          return undefined;
        failed = true;
        return body('hypercallReply', { result: -5, arg: message.value.arg });
      };
      const reply = h.attach(1, NIC);
      h.intercept = () => undefined;
      if (!failed) {
        assert.equal(reply.rc, 0);
        break;
      }
      assert.equal(reply.rc, -3, `call ${failing}`);
      assert.match(texts(reply)[0]!, /Input\/output error$/);
      assert.deepEqual(state(h), before, `call ${failing}`);
    }
    assert.equal(failing, calls);
  });

  test('leaves no trace when the guest does not answer', () => {
    const h = hostWithGuest();
    // The doorbell page comes into stage 2 with the first function and stays.
    h.attach(1, NVME);
    h.detach(1, NVME);
    h.runFor(1e9);
    const before = state(h);
    h.deaf.add('d1');
    const reply = h.attach(1, NIC);
    assert.equal(texts(reply)[0], `Backend ${BACK} not ready`);
    assert.equal(reply.rc, -3);
    assert.deepEqual(state(h), before);
  });
});

describe('the line of a function', () => {
  const LINE = 37;
  const irqs = (h: Host): unknown[] =>
    h.inspect('xen').irqs.map((i: { intid: number; domid: number }) => [i.intid, i.domid]);
  const irqCommands = (h: Host, since: number): number[] =>
    h.sent
      .slice(since)
      .map(({ from, to, envelope }) => domctl(from, to, envelope.body!))
      .filter((cmd) => (IRQ_COMMANDS as number[]).includes(cmd));
  const { irq_permission, bind_pt_irq, unbind_pt_irq } = XEN_DOMCTL;
  const IRQ_COMMANDS = [irq_permission, bind_pt_irq, unbind_pt_irq];

  test('is permitted, then bound, recorded, and told to pciback and the guest; detach takes all of that back', () => {
    const h = hostWithGuest();
    let since = h.sent.length;
    h.attach(1, NIC);
    assert.deepEqual(irqCommands(h, since), [irq_permission, bind_pt_irq]);
    assert.deepEqual(irqs(h), [[LINE, 1]]);
    assert.equal(h.nodes(BACK)[`${BACK}/intx-0`], `${LINE}`);
    assert.equal(h.nodes('/libxl/1')['/libxl/1/device/pci/0000-01-00-0/intx'], `${LINE}`);
    assert.equal(h.inspect('d1').devices[0].intx, LINE);
    since = h.sent.length;
    h.detach(1, NIC);
    assert.deepEqual(irqCommands(h, since), [unbind_pt_irq, irq_permission]);
    assert.deepEqual(irqs(h), []);
    const guest = h.inspect('xen').domains.find((d: { domid: number }) => d.domid === 1);
    assert.deepEqual(guest.irqRanges, []);
  });

  test('is bound once for all functions of a guest that share it, until the last has gone', () => {
    const h = hostWithGuest();
    h.attach(1, NIC);
    const since = h.sent.length;
    h.attach(1, NVME);
    h.detach(1, NIC);
    assert.deepEqual(irqCommands(h, since), []);
    assert.deepEqual(irqs(h), [[LINE, 1]]);
    assert.equal(h.nodes(BACK)[`${BACK}/intx-0`], `${LINE}`, 'of what was the second entry');
    h.detach(1, NVME);
    assert.deepEqual(irqs(h), []);
  });

  test('that is another domain’s is gone without: no pin, no right, and nothing to say to the operator', () => {
    const h = hostWithGuest();
    h.attach(1, NIC);
    assert.equal(h.create('guest2').rc, 0);
    h.runFor(1e9);
    assert.deepEqual(h.attach(2, NVME), { rc: 0, log: [], domid: 0, domains: [], pci: [] });
    assert.deepEqual(irqs(h), [[LINE, 1]]);
    const guest = h.inspect('xen').domains.find((d: { domid: number }) => d.domid === 2);
    assert.deepEqual(guest.irqRanges, []);
    assert.isUndefined(h.nodes('/local/domain/0/backend/pci/2/0')['/local/domain/0/backend/pci/2/0/intx-0']);
    assert.include(h.inspect('d2').devices[0], { intx: 0, irqs: 'msix' });
    assert.isTrue(h.traces.some((t) => t.event === 'libxl.no_intx'));
    h.destroy(1);
    h.detach(2, NVME);
    h.attach(2, NVME);
    assert.deepEqual(irqs(h), [[LINE, 2]]);
  });

  test('goes with a guest that is destroyed, and with one that crashes', () => {
    const h = hostWithGuest();
    h.attach(1, NIC);
    h.destroy(1);
    assert.deepEqual(irqs(h), []);
    h.create('guest2', { pci: [pciSpec(NIC)] });
    h.runUntil(() => h.inspect('d2').devices.length === 1);
    assert.deepEqual(irqs(h), [[LINE, 2]]);
    h.kill(2);
    h.runUntil(() => h.assignable().includes(NIC));
    assert.deepEqual(irqs(h), []);
  });
});

describe('a frontend that breaks the protocol', () => {
  test('with a wrong magic is told so and gets nothing, and the attach is undone', () => {
    const h = hostWithGuest();
    h.intercept = (from, to, message) => {
      if (from !== 'd1' || to !== 'xenstored' || message.$case !== 'xenstoreRequest') return undefined;
      const { packet } = message.value;
      const isMagic = new TextDecoder().decode(packet.subarray(16)) === 'device/pci/0/magic\u00007';
      if (isMagic) packet[packet.length - 1] = 0x38;
      return undefined;
    };
    const reply = h.attach(1, NIC);
    assert.equal(reply.rc, -3);
    const error = h.nodes('/local/domain/0/error')[`/local/domain/0/error/backend/pci/1/0/error`];
    assert.match(error!, /^14 version mismatch \(8\/7\)/);
    assert.include(h.assignable(), NIC);
    assert.equal(h.destroy(1).rc, 0);
    assert.deepEqual(h.nodes('/local/domain/0/error'), {});
  });
});

describe('pci-detach', () => {
  test('tells the guest before anything is taken from it', () => {
    const h = hostWithGuest();
    h.attach(1, NIC);
    const start = h.sent.length;
    assert.equal(h.detach(1, NIC).rc, 0);
    const steps = h.sent.slice(start);
    const released = steps.findIndex(({ from, to, envelope }) => {
      if (from !== 'd1' || to !== 'xenstored' || envelope.body?.$case !== 'xenstoreRequest') return false;
      const { packet } = envelope.body.value;
      return packet[0] === XS.WRITE && new TextDecoder().decode(packet.subarray(16)) === 'device/pci/0/state\u00007';
    });
    const taken = steps.findIndex(
      ({ from, to, envelope }) => domctl(from, to, envelope.body!) === XEN_DOMCTL.memory_mapping,
    );
    assert.isAbove(released, 0);
    assert.isAbove(taken, released);
  });

  test('gives back all that the attach took, and the function can go to another guest', () => {
    const h = hostWithGuest();
    h.attach(1, NVME);
    const before = state(h);
    h.attach(1, NIC);
    assert.equal(h.detach(1, NIC).rc, 0);
    h.runFor(1e9);
    assert.deepEqual(state(h), before);
    assert.equal(h.create('guest2').rc, 0);
    h.runFor(1e9);
    assert.equal(h.attach(2, NIC).rc, 0);
  });

  test('the same function comes and goes any number of times', () => {
    const h = hostWithGuest();
    for (let round = 0; round < 4; round++) {
      assert.equal(h.attach(1, NIC).rc, 0, `attach ${round}`);
      assert.lengthOf(h.inspect('d1').devices, 1);
      assert.equal(h.detach(1, NIC).rc, 0, `detach ${round}`);
      assert.lengthOf(h.inspect('d1').devices, 0);
    }
  });

  test('moves the entries behind it down by one, with everything of theirs', () => {
    const h = hostWithGuest();
    for (const bdf of [NIC, NVME, USB]) h.attach(1, bdf, bdf === NVME ? { vslot: 8 } : {});
    assert.equal(h.detach(1, NIC).rc, 0);
    const nodes = h.nodes(BACK);
    assert.equal(nodes[`${BACK}/num_devs`], '2');
    assert.equal(nodes[`${BACK}/dev-0`], NVME);
    assert.equal(nodes[`${BACK}/vdevfn-0`], '40');
    assert.equal(nodes[`${BACK}/vdev-0`], '0000:00:08.00');
    assert.equal(nodes[`${BACK}/dev-1`], USB);
    assert.equal(nodes[`${BACK}/root-0`], '0000:00');
    assert.isUndefined(nodes[`${BACK}/BAR-0-IPA-2`]);
    assert.equal(h.attach(1, NIC).rc, 0);
  });

  test('a guest that does not answer keeps its function, and loses it with force', () => {
    const h = hostWithGuest();
    h.attach(1, NIC);
    const before = state(h);
    h.deaf.add('d1');
    const reply = h.detach(1, NIC);
    assert.deepEqual(texts(reply), [`Backend ${BACK} not ready`, 'unable to remove device']);
    assert.deepEqual(state(h), before);
    assert.equal(h.detach(1, NIC, true).rc, 0);
    assert.include(h.assignable(), NIC);
    const nic = h.inspect('xen').devices.find((d: { sbdf: string }) => d.sbdf === NIC);
    assert.equal(nic.owner, 0x7ff1);
  });

  test('what is not attached cannot be detached', () => {
    const h = hostWithGuest();
    assert.deepEqual(texts(h.detach(1, NIC)), ['unable to remove device']);
    h.attach(1, NVME);
    assert.deepEqual(texts(h.detach(1, NIC)), [
      'Domain 1:PCI device not attached to this domain',
      'unable to remove device',
    ]);
  });
});
