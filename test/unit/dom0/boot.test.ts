/** dom0 on the machine and the hypervisor themselves, from reset to a host that is ready for guests. */
import { assert, test } from 'vitest';
import { body } from '#shared/core/core.ts';
import { parseSbdf } from '#shared/ids/sbdf.ts';
import { Host } from './host.ts';

test('dom0 boots', () => {
  const h = new Host();
  console.log(JSON.stringify(h.inspect('d0'), null, 1).slice(0, 6000));
  console.log(JSON.stringify(h.inspect('xen').devices));
  console.log(h.traces.map((t) => `${t.peer} ${t.event} ${JSON.stringify(t.detail)}`).join('\n').slice(0, 3000));
});
