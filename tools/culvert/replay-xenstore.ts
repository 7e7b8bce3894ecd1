/** `culvert replay-xenstore FILE`: the trace of a real xenstored on our store (docs/reference/replay.md). */
import { textOf } from '#shared/abi/xs-wire.ts';
import { readUnpacked } from '#shared/yaml/files.ts';
import { replayXenstoreTrace } from '../replay/xenstore-replay.ts';

/**
 * Prints what agreed and what did not; status 1 when something differs that has no reason. Throws FileError, and
 * TraceError for a file that is no trace or has nothing to compare.
 */
export function replayXenstore(file: string): number {
  const result = replayXenstoreTrace(file, textOf(readUnpacked(file)));
  const { connections, requests, replies, events, ordersAgreed, differences } = result;
  const lines = [
    `connections  ${connections}, the order of what was sent agrees on ${ordersAgreed}`,
    `requests     ${requests}`,
    `replies      ${replies.agreed} of ${replies.compared} agree`,
    `watch events ${events.agreed} of ${events.compared} agree`,
    ...differences.map(
      ({ connection, line, real, ours, reason }) =>
        `line ${line}, ${connection}: real "${real}", here "${ours}"${reason === '' ? '' : ` (${reason})`}`,
    ),
  ];
  const wrong = differences.filter(({ reason }) => reason === '').length;
  lines.push(wrong === 0 ? 'nothing differs without a reason' : `${wrong} differences without a reason`);
  process.stdout.write(`${lines.join('\n')}\n`);
  return wrong === 0 ? 0 : 1;
}
