/**
 * Serving operations of a guest from the shared page (xen/include/public/io/pciif.h; Linux
 * drivers/xen/xen-pciback/pciback_ops.c). The operation is copied once and only the copy is looked at (XSA-155).
 * Not modelled: enable_msi and the like, which answer not_implemented: a guest with an ITS needs none of them (T9). Error
 * reporting to the guest (aer_*).
 */
import { XEN_PCI_ERR, XEN_PCI_OP, XEN_PCI_SHAREDINFO, XEN_PCIF_active, xen_pci_op_head } from '#shared/abi/pciif.ts';
import type { Op } from '#shared/core/op.ts';
import { type CpuBus, clearBitsOp, le32, word, write32Op } from '#shared/kernel/cpu-bus.ts';
import type { VirtualConfig } from './config-fields.ts';

/** Finds an exported function by the devfn that the guest uses. */
export type FindExported = (vdevfn: number) => VirtualConfig | undefined;

type PciOp = ReturnType<typeof xen_pci_op_head.decode>;

/** Serves the operation in the page, if there is one. Gives false when the event was for nothing. */
export function* serveOperation(cpu: CpuBus, pageIpa: number, find: FindExported): Op<boolean> {
  const copy = yield* cpu.read(pageIpa, XEN_PCI_SHAREDINFO.op + xen_pci_op_head.size);
  if ((word(copy, XEN_PCI_SHAREDINFO.flags) & XEN_PCIF_active) === 0) return false;
  const op = xen_pci_op_head.decode(copy, XEN_PCI_SHAREDINFO.op);
  const { err, value } = yield* perform(op, find);
  const at = pageIpa + XEN_PCI_SHAREDINFO.op;
  yield* cpu.batch([
    write32Op(at + xen_pci_op_head.offsets.err, err),
    write32Op(at + xen_pci_op_head.offsets.value, value),
    clearBitsOp(pageIpa + XEN_PCI_SHAREDINFO.flags, le32(XEN_PCIF_active)),
  ]);
  return true;
}

function* perform(op: PciOp, find: FindExported): Op<{ err: number; value: number }> {
  const config = op.domain === 0 && op.bus === 0 ? find(op.devfn) : undefined;
  if (config === undefined) return { err: XEN_PCI_ERR.dev_not_found, value: op.value };
  switch (op.cmd) {
    case XEN_PCI_OP.conf_read:
      return yield* config.read(op.offset, op.size);
    case XEN_PCI_OP.conf_write:
      return { err: yield* config.write(op.offset, op.size, op.value), value: op.value };
    default:
      return { err: XEN_PCI_ERR.not_implemented, value: op.value };
  }
}
