import { assert, describe, test } from 'vitest';
import { notModelledPage, pageProblems, remarksOf } from '#tools/gen-docs.ts';

describe('remarks of a source file', () => {
  test('are the marked paragraphs of the comment it opens with, over as many lines as they take', () => {
    const source = [
      '/**',
      ' * A clock (a book, "Clocks").',
      ' * Not modelled: leap seconds; software sees sixty seconds a minute, whatever the observatories say about it, and no',
      ' * one has complained.',
      ' * Deviates from libfoo: it never stops.',
      ' */',
      'export const NS = 1;',
      '/** Not modelled: this is not an opening comment. */',
    ].join('\n');
    assert.deepEqual(remarksOf(source), [
      {
        kind: 'Not modelled',
        text: 'Not modelled: leap seconds; software sees sixty seconds a minute, whatever the observatories say about it, and no one has complained.',
      },
      { kind: 'Deviates', text: 'Deviates from libfoo: it never stops.' },
    ]);
  });

  test('end where the author began a new paragraph', () => {
    const source = '/**\n * Not modelled: I/O ports.\n * A requester without a map has no way to memory.\n */\n';
    assert.deepEqual(
      remarksOf(source).map((r) => r.text),
      ['Not modelled: I/O ports.'],
    );
  });

  test('may follow another sentence in the same line', () => {
    const source = '/** Reads as zero after power-on. Not modelled: caches. */\n';
    assert.deepEqual(
      remarksOf(source).map((r) => r.text),
      ['Not modelled: caches.'],
    );
  });

  test('are none when the file opens with code', () => {
    assert.deepEqual(remarksOf("import x from 'x';\n/** Not modelled: y. */\n"), []);
  });
});

test('the page has a file below its service, and leaves out files without remarks', () => {
  const page = notModelledPage([
    { path: 'services/xen/a.ts', remarks: [{ kind: 'Not modelled', text: 'Not modelled: SGIs.' }] },
    { path: 'services/xen/b.ts', remarks: [] },
  ]);
  assert.match(page, /## The hypervisor[^\n]*\n\n`services\/xen\/a\.ts`\n\n- Not modelled: SGIs\.\n$/);
  assert.notInclude(page, 'services/xen/b.ts');
});

describe('a page of the documents', () => {
  const exists = (path: string): boolean => ['docs/architecture.md', 'services/xen/core.ts'].includes(path);

  test('is wrong when it links to, or names, a file that does not exist', () => {
    const text = 'See [this](architecture.md#x), [that](gone.md), `services/xen/core.ts` and `services/xen/gone.ts`.';
    assert.deepEqual(pageProblems('docs/index.md', text, exists), [
      'docs/index.md: links to docs/gone.md, which does not exist',
      'docs/index.md: names services/xen/gone.ts, which does not exist',
    ]);
  });

  test('is wrong when it is a decision record that lacks a line', () => {
    const text = [
      '# 0001 A thing',
      'Status: accepted',
      'Thread: T1',
      'Question: ?',
      'Options: two',
      'Decision: one',
      'Code: services/xen/core.ts',
      'Proved by: services/xen/core.ts',
    ].join('\n');
    assert.deepEqual(pageProblems('docs/decisions/0001-a-thing.md', text, exists), [
      'docs/decisions/0001-a-thing.md: has no line "Follows:"',
    ]);
  });
});
