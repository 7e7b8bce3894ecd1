/** The guest kernel on the machine and the hypervisor themselves: what it programs, they take. */
import { assert, test } from 'vitest';
import { XEN_DOMCTL_CDF, XEN_DOMCTL_CONFIG_GIC_V3 } from '#shared/abi/domctl.ts';
import { packPacket, packStrings, XS } from '#shared/abi/xs-wire.ts';
import { readBoard } from '#shared/board/board-file.ts';
import { type Body, body, type Peer } from '#shared/core/core.ts';
import type { Op } from '#shared/core/op.ts';
import { Runtime, type Service } from '#shared/core/runtime.ts';
import { buildFdt, parseFdt } from '#shared/fdt/blob.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import { Hypercalls } from '#shared/kernel/hypercalls.ts';
import { createDomuCore } from '../../../services/domu/core.ts';
import { createHardwareCore } from '../../../services/hardware/core.ts';
import { createXenCore } from '../../../services/xen/core.ts';
import { createXenstoredCore } from '../../../services/xenstored/core.ts';
import { deviceTree, RAM_BASE, RAM_BYTES } from './guest.ts';
import { MiniWorld } from './machine.ts';

const DTB_IPA = RAM_BASE + 0x80_0000;

/** dom0 with nothing but hypercalls: what a toolstack does to build a domain. */
class Builder implements Service {
  readonly runtime = new Runtime({ idBase: 0 });
  readonly hypercalls = new Hypercalls();
  readonly cpu = new CpuBus();
  x0 = -1;
  domid = -1;

  constructor() {
    this.runtime.attach(this);
  }

  onRequest(_from: Peer, message: Body): Body | undefined {
    if (message.$case !== 'upcallRequest') return undefined;
    if (message.value.what?.$case === 'vcpuStart') {
      this.x0 = message.value.what.value.x0;
      this.runtime.spawn('build', this.#build(), (domid) => {
        this.domid = domid;
      });
    }
    return body('upcallReply', {});
  }

  inspect(): unknown {
    return {};
  }

  *#build(): Op<number> {
    const { hypercalls: h, cpu } = this;
    const size = new DataView((yield* cpu.read(this.x0, 8)).buffer).getUint32(4);
    const tree = parseFdt(yield* cpu.read(this.x0, size));
    const window = tree.compatibleNodes('xen,xen')[0]!.regions()[1]!.address;
    const { domid } = yield* h.createdomain({
      flags: XEN_DOMCTL_CDF.hvm | XEN_DOMCTL_CDF.hap | XEN_DOMCTL_CDF.iommu,
      max_vcpus: 1,
      max_evtchn_port: 1023,
      max_grant_frames: 4,
      max_maptrack_frames: 0,
      gic_version: XEN_DOMCTL_CONFIG_GIC_V3,
    });
    yield* h.max_vcpus(domid, 1);
    yield* h.max_mem(domid, RAM_BYTES / 1024 + 1024);
    const extents = Array.from({ length: RAM_BYTES / 0x20_0000 }, (_, i) => RAM_BASE / 4096 + i * 512);
    assert.equal(yield* h.populate_physmap(domid, extents, 9), extents.length);
    yield* h.map_foreign(domid, [DTB_IPA / 4096], [window / 4096]);
    yield* cpu.write(window, buildFdt(deviceTree()));
    yield* h.setvcpucontext(domid, 0, RAM_BASE, DTB_IPA);
    yield* h.unpausedomain(domid);
    return domid;
  }
}

test('a guest boots on the machine through the hypervisor: GIC, ITS, LPIs, event channels and watchdog', () => {
  const world = new MiniWorld();
  const builder = new Builder();
  world.addCore('hardware', createHardwareCore(readBoard('examples/boards/qemu-virt.yaml'), { idBase: 0 }));
  world.addCore('xenstored', createXenstoredCore({ idBase: 0 }));
  const introduce = packPacket(XS.INTRODUCE, 1, 0, packStrings('1', '1', '1'));
  world.ask('d0', 'xenstored', body('xenstoreRequest', { packet: introduce }), 'xenstoreReply');
  world.addCore('d1', createDomuCore({ idBase: 0, domid: 1 }));
  world.addCore('d0', builder.runtime);
  world.addCore('xen', createXenCore({ idBase: 0 }));
  const guest = () => {
    const { json } = world.ask('operator', 'd1', body('inspectRequest', { path: '' }), 'inspectReply');
    return JSON.parse(json);
  };
  world.runUntil(() => builder.domid !== -1);
  world.runUntil(() => !['off', 'booting'].includes(guest().state));
  assert.equal(guest().state, 'booted', JSON.stringify(world.traces.slice(-3)));
  assert.equal(guest().itsCommands, 2);
  const request = body('guestCommandRequest', { command: 'hostile', args: '{"attack":"memory_mapping"}' });
  const { result } = world.ask('operator', 'd1', request, 'guestCommandReply');
  assert.equal(JSON.parse(result).errno, 'EPERM');
});
