/** `culvert lspci`: configuration space as dom0 or a guest sees it, in the text that `lspci -F` reads. */
import { body, peerOf } from '#shared/core/core.ts';
import { call } from '#shared/core/op.ts';
import { formatLspci } from '#shared/lspci/dump.ts';
import { asOperator, findTarget, UsageError } from './session.ts';

export interface LspciOptions {
  readonly url?: string;
  readonly creds?: string;
  readonly domain?: string;
  readonly hex: boolean;
}

export async function lspci(options: LspciOptions): Promise<number> {
  const functions = await asOperator(findTarget(options), function* () {
    let domid = 0;
    if (options.domain !== undefined) {
      const { domains } = yield* call('d0', body('listDomainsRequest', {}), 'toolstackReply');
      const found = domains.find((d) => d.name === options.domain || String(d.domid) === options.domain);
      if (found === undefined) throw new UsageError(`there is no domain "${options.domain}"`);
      domid = found.domid;
    }
    const reply = yield* call(peerOf(domid), body('lspciRequest', {}), 'lspciReply');
    if (reply.error !== '') throw new UsageError(reply.error);
    return reply.functions.map(({ sbdf, config }) => ({ sbdf, config, header: headerOf(config) }));
  });
  const text = formatLspci(functions);
  const shown = options.hex
    ? text
    : text
        .split('\n')
        .filter((line) => /^[0-9a-f]{4}:/.test(line))
        .join('\n')
        .concat(functions.length > 0 ? '\n' : '');
  process.stdout.write(shown);
  return 0;
}

/** What lspci's first line says behind the address: class, vendor and device, revision. */
function headerOf(config: Uint8Array): string {
  const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
  const at = (offset: number): number => config[offset] ?? 0xff;
  const classCode = hex((at(0x0b) << 8) | at(0x0a), 4);
  const ids = `${hex((at(1) << 8) | at(0), 4)}:${hex((at(3) << 8) | at(2), 4)}`;
  const revision = at(8) === 0 ? '' : ` (rev ${hex(at(8), 2)})`;
  return `Class ${classCode}: Device ${ids}${revision}`;
}
