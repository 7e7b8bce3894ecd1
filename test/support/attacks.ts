/**
 * What a hostile guest tries, by its own credential: calls that are well formed and not its to make, and messages that
 * it may not send. One list for the simulated world and for the real processes; only the way there differs.
 */
import {
  XEN_DOMCTL,
  XEN_DOMCTL_BYTES,
  XEN_DOMCTL_CDF,
  XEN_DOMCTL_CONFIG_GIC_V3,
  XEN_DOMCTL_INTERFACE_VERSION,
  xen_domctl,
} from '#shared/abi/domctl.ts';
import { errnoName } from '#shared/abi/errno.ts';
import { EVTCHNOP, evtchn_port_arg } from '#shared/abi/event-channel.ts';
import { GNTST, GNTTABOP, gnttab_query_size } from '#shared/abi/grant-table.ts';
import { DOMID_IO, DOMID_SELF, HYPERCALL } from '#shared/abi/hypercall.ts';
import { packStrings, XS } from '#shared/abi/xs-wire.ts';
import { type Body, body, type Peer, peerOf } from '#shared/core/core.ts';
import { type Op, Refused } from '#shared/core/op.ts';
import { parseSbdf, type Sbdf } from '#shared/ids/sbdf.ts';
import { GrantFailed, HypercallFailed, Hypercalls } from '#shared/kernel/hypercalls.ts';
import { XenstoreClient, XenstoreError } from '#shared/kernel/xenstore-client.ts';

export interface Battlefield {
  readonly self: number;
  readonly victim: number;
  readonly victimDevice: Sbdf;
  /** A machine frame of the victim's device. */
  readonly victimMfn: number;
}

export interface Attack {
  readonly what: string;
  /** Xen's errno, the store's error, `GNTST_x`, or `refused`. */
  readonly stoppedBy: string;
  readonly attempt: (field: Battlefield) => Op<unknown>;
}

const xen = new Hypercalls();
const GUEST_GFN = 0x4_0000;
const FREE_GFN = 0x3_8100;
const FREE_IPA = 0x3810_0000;
const PORTS = 64;

const attack = (what: string, stoppedBy: string, attempt: Attack['attempt']): Attack => ({ what, stoppedBy, attempt });

function* rawCall(number: number, cmd: number, arg: Uint8Array): Op<Uint8Array> {
  const reply = yield* xen.raw(number, cmd, arg);
  if (reply.result < 0) throw new HypercallFailed('raw', -reply.result);
  return reply.arg;
}

/** Every port of a domain in turn: it is done if one of them lets us in, and EINVAL if none does. */
function* bindAnyPortOf(domid: number): Op<void> {
  let last: unknown;
  for (let port = 1; port <= PORTS; port++) {
    try {
      yield* xen.evtchn_bind_interdomain(domid, port);
      return;
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

const NEW_DOMAIN = {
  ssidref: 0,
  handle: new Uint8Array(16),
  flags: XEN_DOMCTL_CDF.hvm | XEN_DOMCTL_CDF.hap,
  iommu_opts: 0,
  max_vcpus: 1,
  max_evtchn_port: 1023,
  max_grant_frames: 64,
  max_maptrack_frames: 64,
  grant_opts: 1,
  gic_version: XEN_DOMCTL_CONFIG_GIC_V3,
  pad0: 0,
  tee_type: 0,
  nr_spis: 0,
  clock_frequency: 0,
};

/** Hypercalls that are another's to make. */
export const FORBIDDEN_HYPERCALLS: readonly Attack[] = [
  attack("maps the other's device into itself", 'EPERM', (f) =>
    xen.memory_mapping(f.self, 0x2_3000, f.victimMfn, 1, true),
  ),
  attack("unmaps the other's device from it", 'EPERM', (f) =>
    xen.memory_mapping(f.victim, 0x2_3000, f.victimMfn, 1, false),
  ),
  attack("allows itself the other's device", 'EPERM', (f) => xen.iomem_permission(f.self, f.victimMfn, 1, true)),
  attack('creates a domain', 'EPERM', () => xen.createdomain(NEW_DOMAIN)),
  attack('destroys the other', 'EPERM', (f) => xen.destroydomain(f.victim)),
  attack('pauses the other', 'EPERM', (f) => xen.pausedomain(f.victim)),
  attack('unpauses dom0', 'EPERM', () => xen.unpausedomain(0)),
  attack('asks what the other is', 'EPERM', (f) => xen.getdomaininfo(f.victim)),
  attack('asks what a domain that is not there is', 'EPERM', () => xen.getdomaininfo(77)),
  attack('gives itself more memory', 'EPERM', (f) => xen.max_mem(f.self, 1 << 20)),
  attack('gives itself more CPUs', 'EPERM', (f) => xen.max_vcpus(f.self, 4)),
  attack("moves the other's program counter", 'EPERM', (f) => xen.setvcpucontext(f.victim, 0, 0x4000_0000, 0)),
  attack("takes the other's device", 'EPERM', (f) => xen.assign_device(f.self, f.victimDevice)),
  attack("puts the other's device into quarantine", 'EPERM', (f) => xen.assign_device(DOMID_IO, f.victimDevice)),
  attack("asks whether the other's device is free", 'EPERM', (f) => xen.test_assign_device(f.self, f.victimDevice)),
  attack("takes the other's device away from it", 'EPERM', (f) => xen.deassign_device(f.victim, f.victimDevice)),
  attack('binds an interrupt to itself', 'EPERM', (f) => xen.bind_pt_irq(f.self, 37)),
  attack("takes the other's interrupt away from it", 'EPERM', (f) => xen.unbind_pt_irq(f.victim, 37)),
  attack('allows itself an interrupt', 'EPERM', (f) => {
    const arg = new Uint8Array(XEN_DOMCTL_BYTES);
    const header = {
      cmd: XEN_DOMCTL.irq_permission,
      interface_version: XEN_DOMCTL_INTERFACE_VERSION,
      domain: f.self,
    };
    xen_domctl.encodeInto(arg, header);
    return rawCall(HYPERCALL.domctl, 0, arg);
  }),
  attack("maps the other's memory", 'EPERM', (f) => xen.map_foreign(f.victim, [GUEST_GFN], [FREE_GFN])),
  attack("maps dom0's memory", 'EPERM', () => xen.map_foreign(0, [GUEST_GFN], [FREE_GFN])),
  attack('puts memory into the other', 'EPERM', (f) => xen.populate_physmap(f.victim, [FREE_GFN], 0)),
  attack("takes a page out of the other's memory", 'EPERM', (f) => xen.remove_from_physmap(GUEST_GFN, f.victim)),
  attack("puts the other's grant table elsewhere", 'EPERM', (f) =>
    xen.add_to_physmap('grant_table', 0, FREE_GFN, f.victim),
  ),
  attack('reports a host bridge', 'EPERM', () => xen.pci_host_bridge_add(9, 0x4010_0000_00, 0x1000_0000)),
  attack('reports a function', 'EPERM', () => xen.pci_device_add(parseSbdf('0000:04:00.0')!)),
  attack("removes the other's function", 'EPERM', (f) => xen.pci_device_remove(f.victimDevice)),
  attack("resets the other's function", 'EPERM', (f) => xen.pci_device_reset(f.victimDevice, 0)),
  attack("binds a port of the other's", 'EINVAL', (f) => bindAnyPortOf(f.victim)),
  attack('binds a port of dom0 that was not offered to it', 'EINVAL', () => bindAnyPortOf(0)),
  attack('opens a port in the other', 'EPERM', (f) => xen.evtchn_alloc_unbound(f.victim, f.self)),
  attack("looks at the other's ports", 'EPERM', (f) => xen.evtchn_status(f.victim, 1)),
  attack("closes all of the other's ports", 'EPERM', (f) =>
    rawCall(HYPERCALL.event_channel_op, EVTCHNOP.reset, evtchn_port_arg.encode({ port: f.victim })),
  ),
  attack('takes the interrupt of dying domains', 'EBUSY', () => xen.evtchn_bind_virq(3, 0)),
  attack("reads the other's parameters", 'EPERM', (f) => xen.hvm_get_param(1, f.victim)),
  attack('changes its own parameters', 'EPERM', (f) => xen.hvm_set_param(f.self, 1, 0)),
  attack('maps a page that the other granted to dom0', 'GNTST_general_error', (f) => mapAnyGrantOf(f.victim)),
  attack('maps a page of dom0', 'GNTST_bad_gntref', () => mapAnyGrantOf(0)),
  attack('maps a grant of nobody', 'GNTST_bad_domain', () => xen.map_grant_ref(77, 8, FREE_IPA, false)),
  attack("asks how large the other's grant table is", 'GNTST_permission_denied', function* (f) {
    const arg = yield* rawCall(
      HYPERCALL.grant_table_op,
      GNTTABOP.query_size,
      gnttab_query_size.encode({ dom: f.victim }),
    );
    const { status } = gnttab_query_size.decode(arg);
    if (status !== GNTST.okay) throw new GrantFailed('query_size', status);
  }),
  attack('calls a hypercall that does not exist', 'ENOSYS', () => rawCall(60, 0, new Uint8Array(64))),
];

function* mapAnyGrantOf(domid: number): Op<void> {
  let last: unknown;
  for (let ref = 0; ref < 32; ref++) {
    try {
      yield* xen.map_grant_ref(domid, ref, FREE_IPA, false);
      return;
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

/** Requests of the store for what is not the guest's. */
export const FORBIDDEN_STORE: readonly Attack[] = [
  ...(
    [
      ["the other's name", (f) => `/local/domain/${f.victim}/name`],
      ["the other's front end", (f) => `/local/domain/${f.victim}/device/pci/0/state`],
      ['its own name', (f) => `/local/domain/${f.self}/name`],
      ['its own domid', (f) => `/local/domain/${f.self}/domid`],
      ['its own back end', (f) => `/local/domain/0/backend/pci/${f.self}/0/dev-0`],
      ["its own back end's state", (f) => `/local/domain/0/backend/pci/${f.self}/0/state`],
      ["the other's back end", (f) => `/local/domain/0/backend/pci/${f.victim}/0/state`],
      ['a device of the pool', () => '/libxl/pci/0000-02-00-0/domid'],
      ['a name at the root', () => '/intruder'],
    ] as readonly (readonly [string, (f: Battlefield) => string])[]
  ).map(([what, path]) => attack(`writes ${what}`, 'EACCES', (f) => store().write(path(f), 'intruder'))),
  attack("removes the other's nodes", 'EACCES', (f) =>
    store().request(XS.RM, packStrings(`/local/domain/${f.victim}`), ''),
  ),
  attack("gives itself the other's nodes", 'EACCES', (f) =>
    store().request(XS.SET_PERMS, packStrings(`/local/domain/${f.victim}`, `n${f.self}`), ''),
  ),
  attack('introduces a domain', 'EACCES', () => store().introduce(9, 1, 1)),
  attack('ends the connection of the other', 'EACCES', (f) => store().release(f.victim)),
  attack('makes the other its target', 'EACCES', (f) =>
    store().request(XS.SET_TARGET, packStrings(`${f.self}`, `${f.victim}`), ''),
  ),
];

function store(): XenstoreClient {
  return new XenstoreClient({ now: 0 });
}

/** Messages that no guest may send: to whom, and what. `here` where the receiver itself has to refuse it. */
export function forbiddenMessages(f: Battlefield): readonly { what: string; to: Peer; message: Body }[] {
  const victim = peerOf(f.victim);
  const config = {
    name: 'evil',
    uuid: '',
    memoryMib: 16,
    vcpus: 1,
    pci: [],
    kernel: '',
    cmdline: '',
    onCrash: '',
    passthrough: '',
    maxEventChannels: 0,
    maxGrantFrames: 0,
  };
  const read = { op: { $case: 'physRead' as const, value: { pa: 0x4000_0000, sizeBytes: 64, pcpu: 0 } } };
  return [
    { what: 'reads physical memory', to: 'hardware', message: body('el2Request', { ops: [read] }) },
    { what: 'asks the machine what is in it', to: 'hardware', message: body('inspectRequest', { path: '' }) },
    { what: 'has dom0 create a domain', to: 'd0', message: body('createDomainRequest', { config, paused: false }) },
    { what: 'has dom0 destroy the other', to: 'd0', message: body('destroyDomainRequest', { domid: f.victim }) },
    { what: 'asks dom0 who is there', to: 'd0', message: body('listDomainsRequest', {}) },
    { what: "reads dom0's configuration space", to: 'd0', message: body('lspciRequest', {}) },
    {
      what: 'interrupts the other',
      to: victim,
      message: body('upcallRequest', { vcpu: 0, what: { $case: 'interrupts', value: { intids: [8192, 31] } } }),
    },
    {
      what: 'starts the other again',
      to: victim,
      message: body('upcallRequest', { vcpu: 0, what: { $case: 'vcpuStart', value: { x0: 0 } } }),
    },
    {
      what: 'sends the other an event of the store',
      to: victim,
      message: body('xenstoreWatchEvent', { packet: new Uint8Array(16) }),
    },
    {
      what: "types at the other's console",
      to: victim,
      message: body('guestCommandRequest', { command: 'memory', args: '' }),
    },
    { what: "reads the other's configuration space", to: victim, message: body('lspciRequest', {}) },
    {
      what: "has dom0's kernel map the other's store page",
      to: 'd0',
      message: body('storeRingRequest', { what: { $case: 'map', value: { domid: f.victim } } }),
    },
    {
      what: 'tells the store daemon of events on a ring',
      to: 'xenstored',
      message: body('storeRingEvent', { port: 1 }),
    },
    {
      what: 'answers a trap in the place of the machine',
      to: 'xen',
      message: body('trapRequest', {
        port: f.victim,
        vcpu: 0,
        esrEl2: 0x9380_0047,
        ipa: 0x300_1000,
        data: new Uint8Array(4),
      }),
    },
    { what: 'interrupts Xen', to: 'xen', message: body('interruptPending', { pcpu: 0 }) },
    {
      what: "says that the other's connection is gone",
      to: 'xen',
      message: body('domainConnection', { domid: f.victim, connected: false }),
    },
    { what: 'asks Xen what it knows', to: 'xen', message: body('inspectRequest', { path: '' }) },
    {
      what: 'asks the store daemon for the whole tree',
      to: 'xenstored',
      message: body('inspectRequest', { path: 'tree' }),
    },
  ];
}

/** Sends one request as the hostile guest and gives the answer; throws Refused when it was refused. */
export type Ask = (to: Peer, message: Body) => Promise<Body>;

/** What became of an attack: `OK`, or what stopped it. */
export async function outcomeOf(op: Op<unknown>, ask: Ask): Promise<string> {
  try {
    let step = op.next();
    while (!step.done) {
      if (step.value.step !== 'call') throw new Error(`an attack is made of requests, not of ${step.value.step}`);
      let answer: Body;
      try {
        answer = await ask(step.value.to, step.value.body);
      } catch (error) {
        step = op.throw(error);
        continue;
      }
      step = op.next(answer);
    }
    return 'OK';
  } catch (error) {
    if (error instanceof HypercallFailed) return errnoName(error.errno);
    if (error instanceof XenstoreError) return error.code;
    if (error instanceof GrantFailed) {
      return `GNTST_${Object.entries(GNTST).find(([, number]) => number === error.status)?.[0] ?? error.status}`;
    }
    if (error instanceof Refused) return 'refused';
    throw error;
  }
}

/** DOMID_SELF is the caller, whatever a field says: the one call of the list that is allowed, so that the others mean something. */
export const ALLOWED: Attack = attack('opens a port of its own', 'OK', (f) =>
  xen.evtchn_alloc_unbound(DOMID_SELF, f.victim),
);
