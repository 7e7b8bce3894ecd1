import { assert, describe, test } from 'vitest';
import { expandCases, type PeerSuite, SUITES } from '../../../tools/conformance/cases.ts';
import { casesOf, conformancePage, problemsOf } from '../../../tools/gen-conformance.ts';

const FILE = 'test/peer/x/a.test.ts';
const suite = (...cases: PeerSuite['cases']): PeerSuite[] => [{ peer: 'x', title: 'X', cases }];
const found = (...names: string[]) => casesOf(names.map((name) => ({ name, file: FILE })));

describe('the page of conformance', () => {
  test('expands lists and ranges, and leaves names with hyphens alone', () => {
    assert.deepEqual(expandCases('e001,e009-e011,its-migration'), ['e001', 'e009', 'e010', 'e011', 'its-migration']);
  });

  test('finds every case that a name carries, in a group too', () => {
    assert.deepEqual(
      [...found('[x/e001] all > [x/e002,e004-e005] one').keys()],
      ['x/e001', 'x/e002', 'x/e004', 'x/e005'],
    );
  });

  test('says where a case passes and what software sees of another', () => {
    const page = conformancePage(
      suite({ cases: 'e001', asks: 'this' }, { cases: 'e002-e003', asks: 'that', notModelled: 'all ones' }),
      found('[x/e001] it does'),
    );
    assert.include(page, '1 cases pass; 2 are not modelled.');
    assert.include(page, `| e001 | this | passes: \`${FILE}\` |`);
    assert.include(page, '| e002-e003 | that | not modelled: all ones |');
  });

  test('says what passing means, and which cases one test goes through by table', () => {
    const page = conformancePage(
      suite({ cases: 'i001-i003', asks: 'all' }, { cases: 'i004-i005', asks: 'some' }, { cases: 'i006', asks: 'one' }),
      found('[x/i001-i003,i005] it does', '[x/i004] it does', '[x/i006] it does'),
    );
    assert.include(page, 'a test which carries its name exists and that CI');
    assert.include(page, '6 cases pass, 4 of them by table; 0 are not modelled.');
    assert.include(page, `| i001-i003 | all | passes: \`${FILE}\` (one test by table) |`);
    assert.include(page, `| i004-i005 | some | passes: \`${FILE}\` (one test by table, but for i004) |`);
    assert.include(page, `| i006 | one | passes: \`${FILE}\` |`);
  });

  test('has a problem with a case in neither place, in both, twice, and with one that nobody listed', () => {
    assert.deepEqual(problemsOf(suite({ cases: 'e001', asks: '' }), found()), [
      'x/e001 has neither a test nor a reason why it has none',
    ]);
    assert.deepEqual(problemsOf(suite({ cases: 'e001', asks: '', notModelled: 'nothing' }), found('[x/e001]')), [
      'x/e001 has a test and a reason why it has none',
    ]);
    assert.deepEqual(problemsOf(suite({ cases: 'e001,e001', asks: '' }), found('[x/e001]')), [
      'x/e001 is listed twice',
    ]);
    assert.deepEqual(problemsOf(suite(), found('[x/e001]')), [`${FILE} names x/e001, which is not listed`]);
  });

  test('lists the suites by names that tests can carry', () => {
    for (const { peer, cases } of SUITES)
      for (const one of cases.flatMap((row) => expandCases(row.cases)))
        assert.deepEqual([...found(`[${peer}/${one}]`).keys()], [`${peer}/${one}`]);
  });
});
