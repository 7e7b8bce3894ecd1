import { assert, test } from 'vitest';
import { z } from 'zod';
import { FileError, parseYaml } from '#shared/yaml/document.ts';

const schema = z.strictObject({
  name: z.string(),
  steps: z.array(z.union([z.strictObject({ xl: z.string() }), z.strictObject({ snapshot: z.string() })])),
});

function complaint(text: string): string {
  try {
    parseYaml('a.yaml', text, schema);
  } catch (error) {
    if (error instanceof FileError) return error.message;
    throw error;
  }
  return '';
}

test('a good file is read', () => {
  assert.deepEqual(parseYaml('a.yaml', 'name: x\nsteps: [{xl: list}]', schema), { name: 'x', steps: [{ xl: 'list' }] });
});

test('a wrong value is told with its line, its place and what was expected', () => {
  assert.match(complaint('name: 3\nsteps: []'), /^a\.yaml:1: .*expected string.* in name$/);
});

test('an unknown key is told with the line it stands on', () => {
  assert.match(complaint('name: x\nsteps: []\ncolour: red\n'), /^a\.yaml:3: .*colour/);
});

test('a mistake inside one of several kinds of step is told for the kind that came closest', () => {
  assert.match(
    complaint('name: x\nsteps:\n  - xl: list\n  - xl: 7\n'),
    /^a\.yaml:4: .*expected string.* in steps\.1\.xl$/,
  );
});

test('broken YAML is told with its line', () => {
  assert.match(complaint('name: x\nsteps: [\n'), /^a\.yaml:\d+: /);
});
