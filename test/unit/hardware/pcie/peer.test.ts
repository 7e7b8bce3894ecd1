import { assert, describe, test } from 'vitest';
import { DMA_PROBE, DMA_PROBE_MISBEHAVE, DMA_PROBE_OP, DMA_PROBE_STATUS } from '#shared/arch/dma-probe.ts';
import { PCI_ACS, PCI_AER } from '#shared/arch/pci/capability.ts';
import { PCI_EXP_TYPE } from '#shared/arch/pci/express.ts';
import { PCI, PCI_COMMAND } from '#shared/arch/pci/header.ts';
import { PEER_DEPTH_MAX } from '../../../../services/hardware/pcie/route.ts';
import { at, type Bench } from './bench.ts';
import { ACS, AER, barOf, bench, MSIX, open, place } from './topology.ts';

const { RR, UF, SV, TB, CR, EC, DT } = PCI_ACS;
const ALL = SV | TB | RR | CR | UF | DT;
const ROOT = { type: PCI_EXP_TYPE.ROOT_PORT, bridge: true, acs: ALL };
const UP = { type: PCI_EXP_TYPE.UPSTREAM, bridge: true };
const DOWN = { type: PCI_EXP_TYPE.DOWNSTREAM, bridge: true, acs: ALL };
const DONE = DMA_PROBE_STATUS.DONE;
const FAILED = DMA_PROBE_STATUS.DONE | DMA_PROBE_STATUS.ERROR;

/** A switch with two endpoints below it, and a third one below another root port. */
function switched(): Bench {
  const b = bench(
    ['00:01.0', ROOT, '1'],
    ['01:00.0', UP, '2'],
    ['02:00.0', DOWN, '3'],
    ['02:01.0', DOWN, '4'],
    ['03:00.0', { vectors: 8 }],
    ['04:00.0', { vectors: 8 }],
    ['00:02.0', ROOT, '5'],
    ['05:00.0', { vectors: 8 }],
  );
  open(b, '00:01.0', 1, 4);
  open(b, '01:00.0', 2, 4);
  open(b, '02:00.0', 3);
  open(b, '02:01.0', 4);
  open(b, '00:02.0', 5);
  for (const address of ['03:00.0', '04:00.0', '05:00.0']) place(b, address);
  return b;
}

/** `from` writes one word into the PATTERN register of `to`. Returns the status of the command. */
function poke(b: Bench, from: string, to: string, value = 77, misbehave = 0, forged = 0): number {
  const bar = barOf(from);
  b.setMmio(bar + DMA_PROBE.PATTERN, value);
  b.setMmio(bar + DMA_PROBE.DST_LO, barOf(to) + DMA_PROBE.PATTERN);
  b.setMmio(bar + DMA_PROBE.MISBEHAVE, misbehave);
  b.setMmio(bar + DMA_PROBE.FORGED_RID, forged);
  b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.MESSAGE);
  b.pass(1e6);
  return b.mmio(bar + DMA_PROBE.STATUS);
}

function pattern(b: Bench, of: string): number {
  return b.mmio(barOf(of) + DMA_PROBE.PATTERN);
}

function control(b: Bench, address: string, bits: number): void {
  b.setCfg(at(address), ACS + PCI_ACS.CTRL, 2, bits);
}

describe('peer-to-peer inside a switch', () => {
  test('a request that nothing redirects hits the sibling and never meets the SMMU', () => {
    const b = switched();
    assert.equal(poke(b, '03:00.0', '04:00.0'), DONE);
    assert.equal(pattern(b, '04:00.0'), 77);
    assert.equal(b.memory.requesters.length, 0);
    assert.equal(b.fabric.route.peerRequests, 1);
  });

  test('a read at an IOVA that equals a sibling BAR brings registers, not memory', () => {
    const b = switched();
    const bar = barOf('03:00.0');
    b.setMmio(bar + DMA_PROBE.SRC_LO, barOf('04:00.0'));
    b.setMmio(bar + DMA_PROBE.DST_LO, 0x100);
    b.setMmio(bar + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.COPY);
    b.pass(1e6);
    assert.equal(new TextDecoder().decode(b.memory.bytes.subarray(0x100, 0x104)), 'PROB', 'the ID of the sibling');
  });

  test('Request Redirect with Upstream Forwarding above sends it to the SMMU instead', () => {
    const b = switched();
    control(b, '02:00.0', RR);
    control(b, '00:01.0', UF);
    poke(b, '03:00.0', '04:00.0');
    assert.equal(pattern(b, '04:00.0'), 0);
    assert.deepEqual(b.memory.messages.length + b.memory.requesters.length, 2);
    assert.equal(b.memory.requesters[0]!.rid, 0x0300);
  });

  test('redirected without Upstream Forwarding it ends at the root port, as an unsupported request', () => {
    const b = switched();
    control(b, '02:00.0', RR);
    assert.equal(poke(b, '03:00.0', '04:00.0'), FAILED);
    assert.equal(pattern(b, '04:00.0'), 0);
    assert.equal(b.memory.requesters.length, 0);
    assert.equal(b.cfg(at('00:01.0'), AER + PCI_AER.UNCOR_STATUS), 1 << 20);
  });

  test('Translation Blocking drops an address type other than untranslated, with an ACS violation in the port', () => {
    const b = switched();
    const translated = 2 << DMA_PROBE_MISBEHAVE.AT_SHIFT;
    assert.equal(poke(b, '03:00.0', '04:00.0', 5, translated), DONE, 'before it is on');
    control(b, '02:00.0', TB);
    assert.equal(poke(b, '03:00.0', '04:00.0', 6, translated), FAILED);
    assert.equal(pattern(b, '04:00.0'), 5);
    assert.equal(b.cfg(at('02:00.0'), AER + PCI_AER.UNCOR_STATUS), 1 << 21);
    assert.equal(poke(b, '03:00.0', '04:00.0', 7), DONE, 'untranslated ones pass');
  });

  test('Direct Translated P2P lets a translated request past Request Redirect', () => {
    const b = switched();
    control(b, '02:00.0', RR | DT);
    assert.equal(poke(b, '03:00.0', '04:00.0', 9, 2 << DMA_PROBE_MISBEHAVE.AT_SHIFT), DONE);
    assert.equal(pattern(b, '04:00.0'), 9);
  });

  test('Source Validation drops a requester id of a bus that is not below the port', () => {
    const b = switched();
    const { FORGE_RID } = DMA_PROBE_MISBEHAVE;
    assert.equal(poke(b, '03:00.0', '04:00.0', 5, FORGE_RID, 0x0500), DONE);
    control(b, '02:00.0', SV);
    assert.equal(poke(b, '03:00.0', '04:00.0', 6, FORGE_RID, 0x0500), FAILED);
    assert.equal(poke(b, '03:00.0', '04:00.0', 7, FORGE_RID, 0x03ff), DONE, 'a forged function of its own bus passes');
  });

  test('a memory request of a forged id reaches the SMMU under that id where no port validates', () => {
    const b = switched();
    const bar = barOf('03:00.0');
    b.setMmio(bar + DMA_PROBE.MISBEHAVE, DMA_PROBE_MISBEHAVE.FORGE_RID);
    b.setMmio(bar + DMA_PROBE.FORGED_RID, 0x0500);
    b.setMmio(bar + DMA_PROBE.LENGTH_LO, 4);
    b.setMmio(bar + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    b.pass(1e6);
    assert.deepEqual(
      b.memory.requesters.map((r) => r.rid),
      [0x0500],
    );
  });
});

describe('peer-to-peer elsewhere', () => {
  test('between root ports it always goes to the SMMU', () => {
    const b = switched();
    poke(b, '03:00.0', '05:00.0');
    assert.equal(pattern(b, '05:00.0'), 0);
    assert.equal(b.memory.requesters[0]!.rid, 0x0300);
  });

  test('functions of one device reach each other, unless their own ACS redirects', () => {
    const b = bench(['00:01.0', ROOT, '1'], ['01:00.0', { acs: RR | EC }], ['01:00.1', {}]);
    open(b, '00:01.0', 1);
    place(b, '01:00.0');
    place(b, '01:00.1');
    assert.equal(poke(b, '01:00.0', '01:00.1', 3), DONE);
    assert.equal(pattern(b, '01:00.1'), 3);
    control(b, '01:00.0', RR);
    assert.equal(poke(b, '01:00.0', '01:00.1', 4), FAILED, 'the port does not forward upstream');
    assert.equal(pattern(b, '01:00.1'), 3);
  });

  test('Egress Control stops, and with Request Redirect redirects, requests to the functions in its vector', () => {
    const b = bench(['00:01.0', ROOT, '1'], ['01:00.0', { acs: RR | EC }], ['01:00.1', {}], ['01:00.2', {}]);
    open(b, '00:01.0', 1);
    for (const address of ['01:00.0', '01:00.1', '01:00.2']) place(b, address);
    control(b, '01:00.0', EC);
    b.setCfg(at('01:00.0'), ACS + PCI_ACS.EGRESS, 1, 1 << 2);
    assert.equal(poke(b, '01:00.0', '01:00.1', 3), DONE);
    assert.equal(poke(b, '01:00.0', '01:00.2', 3), FAILED);
    assert.equal(b.cfg(at('01:00.0'), AER + PCI_AER.UNCOR_STATUS), 1 << 21);
  });

  test('on a conventional bus everybody reaches everybody', () => {
    const conventional = { type: -1 };
    const b = bench(['00:01.0', { type: -1, bridge: true }, '1'], ['01:04.0', conventional], ['01:05.0', conventional]);
    open(b, '00:01.0', 1);
    place(b, '01:04.0');
    place(b, '01:05.0');
    assert.equal(poke(b, '01:04.0', '01:05.0', 8), DONE);
    assert.equal(pattern(b, '01:05.0'), 8);
  });

  test('two devices that ring each other are stopped at PEER_DEPTH_MAX, and the machine goes on', () => {
    const b = switched();
    const [one, other] = ['03:00.0', '04:00.0'] as const;
    for (const [from, to] of [
      [one, other],
      [other, one],
    ] as const) {
      const table = barOf(from) + 0x8000;
      b.setMmio(table, barOf(to) + DMA_PROBE.RAISE_ONE); // its message raises vector 0 of the other one
      b.setMmio(table + 12, 0);
      b.setCfg(at(from), MSIX + 2, 2, 0x8000);
    }
    b.setMmio(barOf(one) + DMA_PROBE.RAISE_ONE, 0);
    assert.equal(b.fabric.route.tooDeep, 1);
    const sent = b.mmio(barOf(one) + DMA_PROBE.MESSAGES) + b.mmio(barOf(other) + DMA_PROBE.MESSAGES);
    assert.equal(sent, PEER_DEPTH_MAX + 1);
    assert.equal(poke(b, one, other, 4), DONE);
  });
});

describe('requester ids behind a bridge', () => {
  test.for([
    ['a PCIe-to-PCI bridge gives its secondary bus, device 0', PCI_EXP_TYPE.PCIE_TO_PCI, 0x0200],
    ['a conventional bridge gives its own', -1, 0x0100],
  ] as const)('%s', ([, type, rid]) => {
    const b = bench(
      ['00:01.0', ROOT, '1'],
      ['01:00.0', { type, bridge: true }, '2'],
      ['02:03.0', { type: -1 }],
      ['02:04.0', { type: -1 }],
    );
    open(b, '00:01.0', 1, 2);
    open(b, '01:00.0', 2);
    for (const address of ['02:03.0', '02:04.0']) {
      place(b, address);
      b.setMmio(barOf(address) + DMA_PROBE.LENGTH_LO, 4);
      b.setMmio(barOf(address) + DMA_PROBE.COMMAND, DMA_PROBE_OP.WRITE);
    }
    b.pass(1e6);
    assert.deepEqual(
      b.memory.requesters.map((r) => r.rid),
      [rid, rid],
    );
    b.setCfg(at('02:03.0'), PCI.COMMAND, 2, PCI_COMMAND.MASTER);
    assert.equal(b.mmio(barOf('02:03.0')), 0xffff_ffff);
  });
});
