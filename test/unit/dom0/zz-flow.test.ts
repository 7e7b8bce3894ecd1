import { assert, test } from 'vitest';
import { body } from '#shared/core/core.ts';
import { Host, pciSpec } from './host.ts';
import { readFileSync } from 'node:fs';
const show = (x: unknown) => console.log(JSON.stringify(x));
const tr = (h: Host) => { console.log(h.traces.splice(0).map((t) => `${t.peer} ${t.event} ${JSON.stringify(t.detail)}`).join('\n').slice(0, 5000)); };
test('nodes', () => {
  const h = new Host();
  show(h.create('domu1', {memoryMib: 256}, true));
  const { tree } = h.inspect('xenstored');
  const mine = new Map(Object.entries(tree).map(([p, n]: any) => [p.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, 'UUID'), `"${n.value}" (${n.perms})`.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, 'UUID')]));
  const real = new Map(readFileSync('/work/shared/data/xen-real/xenstore-ls.1-with-guest.txt','utf8').split('\n').filter(l => l && !/vif|vbd/.test(l)).map(l => { const m = /^(\S+) = (".*")\s+\((.*)\)/.exec(l.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, 'UUID'))!; return [m[1], `${m[2]} (${m[3]})`]; }));
  for (const [p, v] of real) if (mine.get(p!) !== v) console.log('real', p, v, 'mine', mine.get(p!));
  for (const [p, v] of mine) if (!real.has(p)) console.log('extra', p, v);
  show(Object.keys(h.inspect('xenstored'))); show(h.inspect('xenstored').counts);
});
test('multi', () => {
  const h = new Host();
  try {
  for (const d of ['0000:01:00.0','0000:02:00.0','0000:03:00.0']) h.assignableAdd(d);
  show(h.create('g1', {pci: [pciSpec('0000:01:00.0')]}));
  h.runFor(3e9);
  show(h.inspect('d0').backends);
  show(h.attach(1, '0000:02:00.0', {vslot: 8}));
  show(h.attach(1, '0000:03:00.0'));
  show(h.toolstack(body('pciListRequest', {domid:1})));
  show(h.inspect('d0').backends);
  show(h.inspect('d1').devices.map((d: any) => d.sbdf + d.driver));
  show(h.detach(1, '0000:01:00.0'));
  show(h.nodes('/local/domain/0/backend/pci'));
  show(h.toolstack(body('pciListRequest', {domid:1})));
  show(h.toolstack(body('listDomainsRequest', {})));
  h.deaf.add('d1');
  show(h.detach(1, '0000:02:00.0'));
  show(h.nodes('/local/domain/0/backend/pci/1/0/state'));
  show(h.detach(1, '0000:02:00.0', true));
  show(h.nodes('/local/domain/0/backend/pci/1/0/'));
  show(h.assignable());
  h.deaf.delete('d1');
  h.runFor(1e9);
  show(h.attach(1, '0000:02:00.0'));
  h.kill(1);
  h.runFor(5e9);
  show(h.toolstack(body('listDomainsRequest', {})));
  show(h.assignable()); show(h.nodes('/libxl')); show(h.revoked);
  show(h.inspect('xen').devices.map((d:any) => [d.sbdf, d.owner, d.quarantine])); show(h.inspect('xen').frames);
  show(h.inspect('d0').counts);
  } finally { tr(h); }
});
