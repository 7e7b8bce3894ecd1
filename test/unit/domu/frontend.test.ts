import { assert, test } from 'vitest';
import { grant_entry_v1 } from '#shared/abi/grant-table.ts';
import { XEN_PCI_OP, XEN_PCI_SHAREDINFO, xen_pci_op_head } from '#shared/abi/pciif.ts';
import { packStrings, XS } from '#shared/abi/xs-wire.ts';
import { parseVdev } from '../../../services/domu/pcifront/frontend.ts';
import { GuestBench } from './guest.ts';

const FE = '/local/domain/1/device/pci/0';
const BE = '/local/domain/0/backend/pci/1/0';

test('the frontend publishes a granted page, a port and magic 7 before it is Initialised', () => {
  const b = new GuestBench().boot();
  b.attachFirst();
  assert.equal(b.read(`${FE}/magic`), '7');
  const ref = Number(b.read(`${FE}/pci-op-ref`));
  assert.isAtLeast(ref, 8);
  const entry = grant_entry_v1.decode(b.machine.read(0x3800_0000 + ref * 8, 8));
  assert.deepEqual([entry.flags, entry.domid], [1, 0]);
  const op = xen_pci_op_head.decode(b.machine.read(entry.frame * 4096 + XEN_PCI_SHAREDINFO.op, 36));
  assert.include([XEN_PCI_OP.conf_read, XEN_PCI_OP.conf_write] as number[], op.cmd);
});

test('a backend that closes takes every function with it, and the page and port are given back', () => {
  const b = new GuestBench().boot();
  const { freeBytes } = b.inspect();
  b.attachFirst();
  b.setBackendState('5');
  b.runUntilFrontend('6');
  const after = b.inspect();
  assert.deepEqual([after.devices, after.grants, after.lpis, after.freeBytes], [[], 0, 0, freeBytes]);
});

test('when the directories go the frontend is absent, and a new pair connects again', () => {
  const b = new GuestBench().boot();
  b.attachFirst();
  b.functions.clear();
  b.removeDirectories();
  b.world.pass(1e9);
  assert.equal(b.inspect().frontend.state, 'absent');
  assert.deepEqual(b.inspect().devices, []);
  assert.equal(b.frontendState(), 'ENOENT');
  b.attachFirst(4);
  assert.equal(b.inspect().devices[0].sbdf, '0000:00:04.0');
});

test('a backend that starts over gets a new page and port, and the functions stay', () => {
  const b = new GuestBench().boot();
  b.attachFirst();
  const port = b.read(`${FE}/event-channel`);
  b.setBackendState('2');
  b.runUntilFrontend('3');
  assert.notEqual(b.read(`${FE}/event-channel`), port);
  b.connectBackend();
  b.runUntilFrontend('4');
  assert.equal(b.command('devices').functions[0].driver, 'dma-probe');
  assert.equal(b.command('interrupts', { count: 2 }).delivered, 2);
  assert.equal(b.lspci().functions[0]!.config[0], 0xde);
});

test('a backend without root_num gets bus 0000:00 scanned', () => {
  const b = new GuestBench().boot();
  b.attachFirst();
  b.xs(XS.RM, packStrings(`${BE}/root_num`));
  b.hotAdd(2);
  assert.equal(b.inspect().devices.length, 2);
});

test('a malformed num_devs closes the device with an error node', () => {
  const b = new GuestBench().boot();
  b.attachFirst();
  b.write(`${BE}/num_devs`, 'many');
  b.setBackendState('7');
  b.runUntilFrontend('5');
  assert.match(b.read('/local/domain/1/error/device/pci/0/error'), /^22 /);
});

test('a backend that does not answer is given up after 2 s, and the function reads as all ones', () => {
  const b = new GuestBench().boot();
  b.attachFirst();
  b.mute = true;
  const before = b.world.now;
  const { functions } = b.lspci();
  assert.deepEqual([...functions[0]!.config.subarray(0, 4)], [0xff, 0xff, 0xff, 0xff]);
  assert.isAtLeast(b.world.now - before, 2e9);
  assert.equal(b.inspect().pciif.timeouts, 1);
  b.mute = false;
  assert.equal(b.lspci().functions[0]!.config[0], 0xde);
});

test('an answer to an earlier request is not taken for the answer to this one', () => {
  const b = new GuestBench().boot();
  b.attachFirst();
  b.late = true;
  assert.equal(b.lspci().functions[0]!.config[0], 0xff);
  b.late = false;
  assert.equal(b.inspect().pciif.errors['-5'], 1);
});

test('a virtual address is read with one or two digits of function', () => {
  assert.equal(parseVdev('0000:00:02.00'), 0x10);
  assert.equal(parseVdev('0001:00:02.1'), 0x1_0011);
  assert.equal(parseVdev('0000:00:20.00'), undefined);
  assert.equal(parseVdev('nonsense'), undefined);
});
