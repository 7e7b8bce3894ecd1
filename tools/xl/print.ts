/** xl's output, column by column (xl_list.c, xl_pci.c). */
import type { DomainInfo, PciListEntry, ToolstackLog } from '#gen/toolstack.ts';
import { formatSbdf } from '#shared/ids/sbdf.ts';

export function printList(domains: readonly DomainInfo[], verbose: boolean): string {
  const extra = verbose ? '   UUID                            Reason-Code\tSecurity Label' : '';
  const heading = `Name                                        ID   Mem VCPUs\tState\tTime(s)${extra}\n`;
  return heading + domains.map((domain) => printDomain(domain, verbose)).join('');
}

function printDomain(d: DomainInfo, verbose: boolean): string {
  const number = (n: number, width: number): string => String(n).padStart(width);
  const time = d.cpuSeconds.toFixed(1).padStart(8);
  const line = `${(d.name || '(null)').padEnd(40)} ${number(d.domid, 5)} ${number(d.memoryMib, 5)} ${number(d.vcpus, 5)}     ${d.state}  ${time}`;
  return verbose ? `${line} ${d.uuid}        -                -\n` : `${line}\n`;
}

export function printPciList(entries: readonly PciListEntry[]): string {
  if (entries.length === 0) return '';
  const rows = entries.map(({ sbdf, vdevfn }) => {
    const slot = (vdevfn >> 3).toString(16).padStart(2, '0');
    return `${slot}.${(vdevfn & 7).toString(16)} ${formatSbdf(sbdf)}\n`;
  });
  return `Vdev Device\n${rows.join('')}`;
}

export function printAssignable(entries: readonly PciListEntry[], names: boolean): string {
  return entries.map(({ sbdf, name }) => `${formatSbdf(sbdf)} ${names ? name : ''}\n`).join('');
}

/** The library's messages as they reach stderr. */
export function printLog(log: readonly ToolstackLog[]): string {
  return log.map(({ level, text }) => `libxl: ${level}: ${text}\n`).join('');
}
