/**
 * The cases of peer test suites that the models are held against (what their sources ask, in our own words), and for
 * those that the models cannot express what software sees instead. Which of the others pass is found from the tests: a
 * test's name carries `[peer/case]` or `[peer/case-case,case]`.
 */

export interface PeerCase {
  /** One name, or several as `e001,e003-e005`. */
  readonly cases: string;
  readonly asks: string;
  /** What software sees; absent for a case that has a test. */
  readonly notModelled?: string;
}

export interface PeerSuite {
  /** As in `[peer/case]`. */
  readonly peer: string;
  readonly title: string;
  readonly cases: readonly PeerCase[];
}

export const SUITES: readonly PeerSuite[] = [
  {
    peer: 'kvm-unit-tests',
    title: 'kvm-unit-tests: arm/gic.c, arm/pci-test.c',
    cases: [
      {
        cases: 'its-introspection',
        asks: 'GITS_TYPER and GITS_IIDR are read-only and say physical LPIs; a device and a collection table are found',
      },
      {
        cases: 'its-trigger',
        asks: 'INT raises an LPI once, where its collection is; not when it is disabled, not when enabled without INV, not after MAPD V=0',
      },
      { cases: 'its-migration', asks: 'the same after the machine is saved and restored' },
      {
        cases: 'its-migrate-unmapped-collection',
        asks: 'an event of a collection that is mapped only after the restore',
      },
      {
        cases: 'its-pending-migration',
        asks: 'pending tables in RAM, LPIs enabled with PTZ=0 after the restore: each PE has its 128',
      },
      { cases: 'ipi', asks: 'SGIs to oneself, to a list, to all others: once each, with no one else' },
      { cases: 'active', asks: 'GICD_ISACTIVER and ICACTIVER of an SGI or PPI' },
      { cases: 'gicv2-ipi', asks: 'the same of a GICv2, where the one that takes an SGI sees who sent it' },
      { cases: 'gicv2-active', asks: 'the active state of a GICv2, of which each CPU has its own' },
      {
        cases: 'gicv2-mmio,gicv2-mmio-3p,gicv2-mmio-up',
        asks: 'read-only identification, byte access to priorities and targets, bits of CPUs that do not exist, with 8, 3 and 1 CPUs',
      },
      { cases: 'gic-mmio', asks: 'read-only identification, byte access to priorities, reserved bits' },
      {
        cases: 'pci-test',
        asks: 'pci-testdev counts 16 writes of each width',
        notModelled:
          'there is no pci-testdev; dma-probe takes aligned 32-bit accesses, other widths read 0 and are dropped',
      },
    ],
  },
  {
    peer: 'linux-selftests',
    title: 'Linux: tools/testing/selftests/kvm/arm64',
    cases: [
      { cases: 'vgic_lpi_stress', asks: 'every message of many devices is accepted and taken as an LPI' },
      {
        cases: 'vgic_irq',
        asks: 'SGIs, PPIs and SPIs, edge and level, both EOI modes: order by priority, states, preemption, restore of the active state, INTIDs that do not exist',
      },
      {
        cases: 'no-vgic-v3,vgic_init',
        asks: 'errors of KVM_CREATE_DEVICE and of register regions that overlap',
        notModelled:
          'this is the interface of KVM to its user space; a board whose parts overlap is refused when it is loaded',
      },
    ],
  },
  {
    peer: 'linux-kunit-smmu',
    title: 'Linux: drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-test.c',
    cases: [
      { cases: 'write_ste_bypass_to_abort,write_ste_abort_to_bypass', asks: 'STE bypass and abort, 2 syncs each way' },
      { cases: 'write_ste_cdtable_to_abort,write_ste_abort_to_cdtable', asks: 'STE of a CD table and abort, 2 syncs' },
      {
        cases: 'write_ste_cdtable_to_bypass,write_ste_bypass_to_cdtable',
        asks: 'STE of a CD table and bypass, 3 syncs',
      },
      { cases: 'write_ste_cdtable_s1dss_change', asks: 'S1DSS alone, 1 sync' },
      {
        cases: 'write_ste_s1dssbypass_to_stebypass,write_ste_stebypass_to_s1dssbypass',
        asks: 'S1DSS bypass and STE bypass, 2 syncs',
      },
      { cases: 'write_ste_s2_to_abort,write_ste_abort_to_s2', asks: 'STE of stage 2 and abort, 2 syncs' },
      { cases: 'write_ste_s2_to_bypass,write_ste_bypass_to_s2', asks: 'STE of stage 2 and bypass, 2 syncs' },
      { cases: 'write_ste_s1_to_s2,write_ste_s2_to_s1', asks: 'STE of stage 1 and stage 2, 3 syncs' },
      { cases: 'write_ste_non_hitless', asks: 'an entry that cannot change without a gap, 3 syncs' },
      { cases: 'write_cd_s1_clear,write_cd_s1_set', asks: 'a CD comes or goes, 2 syncs' },
      { cases: 'write_cd_s1_change_asid', asks: 'another ASID, 1 sync' },
      {
        cases: 'write_cd_sva_clear,write_cd_sva_release',
        asks: 'CDs that share a process, and their release with EPD0 while streams still run',
        notModelled:
          'an SMMU here has no stalls and no PRI, which SVA needs (SMMU_IDR0.STALL_MODEL is 1, PRI 0); a CD with EPD0 aborts with F_TRANSLATION',
      },
      {
        cases: 'write_ste_s1_to_s2_stall,write_ste_s2_to_s1_stall',
        asks: 'the same with CD.S or STE.S2S',
        notModelled: 'SMMU_IDR0.STALL_MODEL is 1: an entry that asks for stalls is C_BAD_STE or C_BAD_CD',
      },
    ],
  },
  {
    peer: 'qemu-iommu-testdev',
    title: 'QEMU: tests/qtest/iommu-smmuv3-test.c, tests/avocado/smmu.py, docs/specs/edu.rst',
    cases: [
      { cases: 'ns-s2-only', asks: 'a DMA write of a device through stage 2' },
      { cases: 'ns-s1-only', asks: 'through stage 1' },
      { cases: 'ns-nested', asks: 'through both' },
      { cases: 'result-codes', asks: 'a DMA that fails is told from one that succeeds' },
      {
        cases: 'smmu-fedora31,smmu-fedora33',
        asks: 'a distribution boots with its virtio devices behind the SMMU',
        notModelled:
          'no machine code runs here; recorded boots of real kernels are replayed instead (docs/reference/replay.md)',
      },
      {
        cases: 'edu',
        asks: 'the edu device: liveness, factorial, DMA within 28 bits, interrupts',
        notModelled:
          'there is no edu device; dma-probe does DMA and raises interrupts on demand (docs/reference/hardware/dma-probe.md)',
      },
    ],
  },
  {
    peer: 'arm-acs',
    title: 'Arm SystemReady ACS: sysarch-acs test_pool (exerciser, gic, pcie, smmu)',
    cases: [
      {
        cases: 'e001',
        asks: 'PCI_PP_04: peer DMA under two ports with ACS; with a foreign bus or AT≠0 the port reports it',
      },
      {
        cases: 'e002',
        asks: 'RR and UF redirect peer writes to the SMMU: read-only they fail, read-write they arrive',
      },
      { cases: 'e003,e021', asks: 'writes to device memory stay in order and are not gathered' },
      { cases: 'e004', asks: 'ITS_DEV_6: a PE that writes GITS_TRANSLATER raises nothing' },
      { cases: 'e006', asks: 'PCI_LI_02: INTx is an SPI, taken once; status bit 3 follows' },
      { cases: 'e007', asks: 'a PE sees what DMA wrote' },
      { cases: 'e010', asks: 'a configuration read of the secondary bus arrives as type 0' },
      { cases: 'e011', asks: 'ITS_03: a message to the ITS of the group is taken' },
      { cases: 'e012', asks: 'ITS_05: one to an ITS of another group is not' },
      { cases: 'e013', asks: 'ITS_DEV_4: an event of A that B sends is not' },
      { cases: 'e014', asks: 'peer traffic in both directions does not deadlock' },
      { cases: 'e015,p036,p064,p071', asks: 'ARI forwarding: functions from 8 on only while it is enabled' },
      { cases: 'e016', asks: 'a BAR as device and as normal memory' },
      {
        cases: 'e039',
        asks: 'the same, unaligned through normal memory',
        notModelled: 'an access is cut into aligned words for a register block; dma-probe answers 32-bit ones only',
      },
      { cases: 'e019', asks: 'RI_SMU_1: DMA through a stage 1 map, both directions' },
      { cases: 'e020,p080,p089', asks: 'ATS of functions and of the SMMU match: neither has it' },
      {
        cases: 'e022,e025',
        asks: 'a store of a PE of 2, 4 or 8 bytes is one access of the device',
        notModelled: '8 bytes are two accesses of 4, low half first; dma-probe has registers of 32 bits only',
      },
      { cases: 'e023', asks: 'an injected error shows in AER of device and root port' },
      {
        cases: 'e024',
        asks: 'DPC contains an error',
        notModelled: 'no function has DPC; the error is reported by AER and the link stays up',
      },
      {
        cases: 'e028,e029',
        asks: 'poison and external aborts are recorded',
        notModelled:
          'nothing is poisoned; an access of a PE that fails below a root port reads all ones, its cause is in AER',
      },
      {
        cases: 'e030',
        asks: 'STE.DCP toggled',
        notModelled: 'there are no caches to prefetch into: STE.DCP has no effect',
      },
      { cases: 'e033,p097', asks: 'every vector is an INTID of its own' },
      { cases: 'e035', asks: 'ITS_04: a device may use every ITS of its group' },
      {
        cases: 'e036',
        asks: 'transactions with a PASID',
        notModelled: 'no function has the PASID capability; SMMU_IDR1.SSIDSIZE is 0 on the bundled boards',
      },
      { cases: 'its001', asks: 'ITSs are in groups' },
      { cases: 'its002,its003', asks: 'StreamIDs and DeviceIDs are unique in a group' },
      { cases: 'its004,its005', asks: 'StreamID and DeviceID are the RID and a constant, with and without an SMMU' },
      { cases: 'its006', asks: 'every function with messages has a DeviceID' },
      {
        cases: 'g001-g016',
        asks: 'GIC version, LPIs where there is PCIe, numbers of PPIs',
        notModelled:
          'no timer, PMU or watchdog raises a PPI: they read as idle. GICD_PIDR2 says GICv3, and every msi-map leads to an ITS with LPIs (its001, its006)',
      },
      { cases: 'p001,p002', asks: 'ECAM is there; a full scan finds no function that reads 0, and chains end' },
      { cases: 'p003,p037,p038,p072', asks: 'what is below a root port is in its ECAM' },
      { cases: 'p004,p062', asks: 'the memory window of a root port' },
      { cases: 'p005,p086', asks: 'the prefetchable one' },
      { cases: 'p006,p096', asks: 'INTx are SPIs, levels, one for each pin' },
      { cases: 'p008', asks: 'an absent function reads all ones' },
      { cases: 'p011', asks: 'byte enables in a root port' },
      { cases: 'p017,p019,p081,p093', asks: 'ACS where peers could meet' },
      { cases: 'p020-p026,p048-p054,p088', asks: 'attributes of registers, all in one test by table (p023 also INTx)' },
      { cases: 'p030', asks: 'a BAR with Memory Space Enable off: all ones, URD' },
      { cases: 'p031-p033', asks: 'BIST, capability pointer, payload' },
      { cases: 'p035', asks: 'FLR: after 100 ms BME and MSE are off' },
      { cases: 'p063', asks: 'FLR: the vendor id answers within 5 s' },
      { cases: 'p039,p046', asks: 'functions can send messages' },
      { cases: 'p069', asks: 'messages are LPIs' },
      { cases: 'p056,p057,p070', asks: 'power management' },
      { cases: 'p068,p095,p105', asks: 'devices and PEs see one physical memory, coherently' },
      { cases: 'p079', asks: 'secondary bus reset' },
      { cases: 'p083', asks: 'BARs by type' },
      { cases: 'p087', asks: 'Enhanced Allocation' },
      { cases: 'i001-i021,i023-i025', asks: 'what the identification registers of the SMMU say, all in one test' },
      { cases: 'i022', asks: 'every master is behind an SMMU' },
    ],
  },
];

/** The single names in `e001,e003-e005`; a range counts up the digits at its end. Other hyphens are part of a name. */
export function expandCases(text: string): string[] {
  return text.split(',').flatMap((part) => {
    const range = /^([a-z]+)(\d+)-\1(\d+)$/.exec(part);
    if (range === null) return [part];
    const [first, last] = [Number(range[2]), Number(range[3])];
    return Array.from(
      { length: last - first + 1 },
      (_, i) => `${range[1]}${String(first + i).padStart(range[2]!.length, '0')}`,
    );
  });
}
