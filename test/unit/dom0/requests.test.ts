/** Operations in the shared page, as a frontend puts them there: well formed, unknown and hostile. */
import { assert, test } from 'vitest';
import { type CpuOp, CpuOpKind } from '#gen/hardware.ts';
import { XEN_PCI_ERR, XEN_PCI_OP, XEN_PCI_SHAREDINFO, XEN_PCIF_active, xen_pci_op_head } from '#shared/abi/pciif.ts';
import type { Body } from '#shared/core/core.ts';
import { body } from '#shared/core/core.ts';
import type { Op, Step } from '#shared/core/op.ts';
import { CpuBus } from '#shared/kernel/cpu-bus.ts';
import type { ConfigAccess } from '#shared/kernel/pci-core.ts';
import { VirtualConfig } from '../../../services/dom0/pciback/config-fields.ts';
import { serveOperation } from '../../../services/dom0/pciback/requests.ts';

const PAGE_IPA = 0x9000_0000;
const VDEVFN = 8;

/** A page of memory that the guest may rewrite while dom0 looks at it. */
class SharedPage {
  readonly bytes = new Uint8Array(4096);
  reads = 0;
  /** What the guest does after each read of dom0's. */
  afterRead: () => void = () => {};

  put(op: Parameters<typeof xen_pci_op_head.encodeInto>[1]): void {
    new DataView(this.bytes.buffer).setUint32(0, XEN_PCIF_active, true);
    xen_pci_op_head.encodeInto(this.bytes, { devfn: VDEVFN, ...op }, XEN_PCI_SHAREDINFO.op);
  }

  get op(): ReturnType<typeof xen_pci_op_head.decode> {
    return xen_pci_op_head.decode(this.bytes, XEN_PCI_SHAREDINFO.op);
  }

  get active(): boolean {
    return (this.bytes[0]! & XEN_PCIF_active) !== 0;
  }

  serve(): boolean {
    return this.#run(serveOperation(new CpuBus(), PAGE_IPA, (devfn) => (devfn === VDEVFN ? config : undefined)));
  }

  #run<T>(op: Op<T>): T {
    let next: IteratorResult<Step, T> = op.next(undefined);
    while (!next.done) {
      const step = next.value;
      if (step.step !== 'call' || step.body.$case !== 'cpuAccessRequest') throw new Error(`a step ${step.step}`);
      next = op.next(this.#answer(step.body.value.ops));
    }
    return next.value;
  }

  #answer(ops: readonly CpuOp[]): Body {
    const results = ops.map((op) => {
      const at = op.ipa - PAGE_IPA;
      const data = this.bytes.slice(at, at + op.sizeBytes);
      const isClear = op.kind === CpuOpKind.CPU_OP_KIND_CLEAR_BITS;
      if (op.kind === CpuOpKind.CPU_OP_KIND_READ) this.reads++;
      else
        op.data.forEach((b, i) => {
          this.bytes[at + i] = isClear ? this.bytes[at + i]! & ~b : b;
        });
      return { fault: 0, data } as const;
    });
    if (ops[0]?.kind === CpuOpKind.CPU_OP_KIND_READ) this.afterRead();
    return body('cpuAccessReply', { results });
  }
}

const hardware: ConfigAccess = {
  // biome-ignore lint/correctness/useYield: it answers at once
  *read(_sbdf, offset, size) {
    return offset === 0 ? 0x10d3_8086 % 2 ** (8 * size) : 0;
  },
  *write() {},
};
const config = VirtualConfig.open(hardware, 0x100, 256, { bars: [], intx: 0, messages: true }).next()
  .value as VirtualConfig;

test('a read is answered in the page, and the page is given back', () => {
  const page = new SharedPage();
  page.put({ cmd: XEN_PCI_OP.conf_read, offset: 0, size: 4 });
  assert.isTrue(page.serve());
  assert.include(page.op, { err: XEN_PCI_ERR.success, value: 0x10d3_8086 });
  assert.isFalse(page.active);
});

test('an event without an operation does nothing', () => {
  const page = new SharedPage();
  assert.isFalse(page.serve());
});

test('what is not exported is not found, on whatever bus it is looked for', () => {
  for (const where of [{ devfn: 0 }, { devfn: 0xffff_ffff }, { bus: 1 }, { domain: 1 }]) {
    const page = new SharedPage();
    page.put({ cmd: XEN_PCI_OP.conf_read, offset: 0, size: 4, ...where });
    page.serve();
    assert.equal(page.op.err, XEN_PCI_ERR.dev_not_found);
  }
});

test('other commands are not implemented, known or not', () => {
  for (const cmd of [XEN_PCI_OP.enable_msi, XEN_PCI_OP.enable_msix, 99, 0xffff_ffff]) {
    const page = new SharedPage();
    page.put({ cmd, offset: 0, size: 4 });
    page.serve();
    assert.equal(page.op.err, XEN_PCI_ERR.not_implemented);
  }
});

test('an offset that is negative or beyond the end is invalid', () => {
  for (const offset of [-4, 256, 0x7fff_fffc]) {
    const page = new SharedPage();
    page.put({ cmd: XEN_PCI_OP.conf_write, offset, size: 4 });
    page.serve();
    assert.equal(page.op.err, XEN_PCI_ERR.invalid_offset);
  }
});

test('the operation is read once: what the guest changes afterwards has no effect', () => {
  const page = new SharedPage();
  page.put({ cmd: XEN_PCI_OP.conf_read, offset: 0, size: 4 });
  page.afterRead = () => page.put({ cmd: XEN_PCI_OP.conf_read, offset: 0x7000, size: 4 });
  page.serve();
  assert.equal(page.reads, 1);
  assert.include(page.op, { err: XEN_PCI_ERR.success, value: 0x10d3_8086 });
});
