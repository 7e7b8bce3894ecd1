import { assert, describe, test } from 'vitest';
import { importsOf, withoutTexts } from '#tools/tidy/scan.ts';
import { checkTree } from '#tools/tidy.ts';

/** The smallest tree without a violation, plus `files`; what is said of it as `file:line: what`. */
function check(files: Record<string, string>, existing: readonly string[] = []): string[] {
  const tree = new Map(
    Object.entries({
      'services/xen/main.ts':
        "import { serve } from '#shared/bus/serve.ts';\nimport { core } from './core.ts';\nserve(core);\n",
      'services/xen/core.ts': "import { page } from '#shared/abi/memory.ts';\nexport const core = page;\n",
      'services/dom0/main.ts': "import { core } from './core.ts';\ncore();\n",
      'services/dom0/core.ts': 'export const core = () => 0;\n',
      'shared/bus/serve.ts': "import { connect } from 'nats';\nexport const serve = async () => await connect();\n",
      'shared/abi/memory.ts': 'export const page = 4096;\n',
      'tools/go.ts': 'export const go = 1;\n',
      'package.json': '{ "scripts": { "go": "node tools/go.ts" } }',
      ...files,
    }),
  );
  const found = checkTree(tree, (path) => tree.has(path) || existing.includes(path));
  return found.map(({ file, line, what }) => `${file}:${line}: ${what}`);
}

const used = (extra: string): string =>
  `import { page } from '#shared/abi/memory.ts';\n${extra}\nexport const core = page;\n`;

describe('tidy', () => {
  test('says nothing about a tree that keeps the rules', () => {
    assert.deepEqual(check({}), []);
  });

  test('reports a service that imports another, with the line', () => {
    assert.deepEqual(
      check({ 'services/xen/core.ts': used("import { core as other } from '../dom0/core.ts';\nother();") }),
      ['services/xen/core.ts:2: a service imports another: ../dom0/core.ts'],
    );
  });

  test('reports an import that only a type needs too', () => {
    const text = used("import type { core as Other } from '../dom0/core.ts';\nexport type O = typeof Other;");
    assert.lengthOf(check({ 'services/xen/core.ts': text }), 1);
  });

  test('reports shared code that imports a service or a tool', () => {
    const text =
      "import { core } from '../../services/xen/core.ts';\nimport { go } from '#tools/go.ts';\nexport const page = core + go;\n";
    const found = check({
      'shared/core/late.ts': text,
      'services/xen/core.ts': used("import '#shared/core/late.ts';"),
    });
    assert.deepEqual(found, [
      'shared/core/late.ts:1: shared code imports its users: ../../services/xen/core.ts',
      'shared/core/late.ts:2: shared code imports its users: #tools/go.ts',
    ]);
  });

  test('lets the simulator take cores, and nothing behind them', () => {
    const found = check({
      'tools/sim/host.ts':
        "import { core } from '../../services/xen/core.ts';\nimport { part } from '../../services/xen/part.ts';\nexport const host = [core, part];\n",
      'tools/go.ts': "import { host } from './sim/host.ts';\nhost();\n",
      'services/xen/part.ts': 'export const part = 1;\n',
    });
    assert.deepEqual(found, ['tools/sim/host.ts:2: a tool reaches behind a core: ../../services/xen/part.ts']);
  });

  test.each([
    ['const t = Date.now();', 'Date'],
    ['const t = new Date();', 'Date'],
    ['const r = Math.random();', 'Math.random'],
    ['setTimeout(() => 0, 1);', 'a timer'],
    ['const e = process.env;', 'an ambient object'],
    ['const f = async () => 0;', 'a promise'],
    ['const p = Promise.resolve(0);', 'a promise'],
  ])('reports a core that says %s', (line, what) => {
    const found = check({ 'services/xen/core.ts': used(line) });
    assert.lengthOf(found, 1);
    assert.include(found[0], `services/xen/core.ts:2: a core takes ${what}`);
  });

  test('takes words in comments, texts, regular expressions and member names for what they are', () => {
    const lines = [
      '// Date.now() and await x',
      '/* Math.random() */',
      "const a = 'process.exit() setTimeout';",
      `const b = \`new Date() \${a} await x\`;`,
      'const c = /["\'] setTimeout/.test(a);',
      'const d = { b, c, setTimeout: 1 }.setTimeout / 2; // a quotient /',
      'host.process.start(d); host.Date.now();',
    ];
    const found = check({ 'services/xen/core.ts': used(lines.join('\n')) });
    // A member that is declared under such a name is reported: one that is only read is not.
    assert.deepEqual(found, ['services/xen/core.ts:7: a core takes a timer: setTimeout']);
  });

  test('sees code inside the braces of a template', () => {
    assert.lengthOf(check({ 'services/xen/core.ts': used(`const t = \`at \${Date.now()} now\`;`) }), 1);
  });

  test('reports Node, packages and the process side in a core, and none of them in what only main.ts uses', () => {
    const process =
      "import { readFileSync } from 'node:fs';\nimport pino from 'pino';\nexport const watch = async () => [readFileSync, pino];\n";
    assert.deepEqual(
      check({
        'services/xen/broker.ts': process,
        'services/xen/main.ts':
          "import { serve } from '#shared/bus/serve.ts';\nimport { core } from './core.ts';\nimport { watch } from './broker.ts';\nserve(core, watch);\n",
      }),
      [],
    );
    assert.deepEqual(
      check({ 'services/xen/core.ts': used(`import { serve } from '#shared/bus/serve.ts';\n${process}`) }),
      [
        'services/xen/core.ts:2: a core imports the process side: #shared/bus/serve.ts',
        "services/xen/core.ts:3: a core uses Node's node:fs",
        'services/xen/core.ts:4: a core uses the package pino',
        'services/xen/core.ts:5: a core takes a promise: async (',
      ],
    );
  });

  test('reports a table that imports behaviour', () => {
    const found = check({
      'shared/abi/memory.ts':
        "import { mask } from '../regs/field.ts';\nimport { late } from '../core/late.ts';\nexport const page = mask + late;\n",
      'shared/regs/field.ts': 'export const mask = 1;\n',
      'shared/core/late.ts': 'export const late = 1;\n',
    });
    assert.deepEqual(found, ['shared/abi/memory.ts:2: a table imports behaviour: ../core/late.ts']);
  });

  test('reports default exports and barrels', () => {
    const found = check({
      'services/xen/core.ts': used("import './all.ts';\nimport './one.ts';"),
      'services/xen/all.ts': "export { page } from '#shared/abi/memory.ts';\nexport * from './one.ts';\n",
      'services/xen/one.ts': 'export default 1;\n',
    });
    assert.deepEqual(found, [
      'services/xen/all.ts:1: a barrel: it only hands on the exports of others',
      'services/xen/one.ts:1: a default export',
    ]);
  });

  test('reports a file that only its test imports', () => {
    const found = check({
      'shared/core/late.ts': 'export const late = 1;\n',
      'test/unit/core/late.test.ts': "import { late } from '#shared/core/late.ts';\nlate();\n",
    });
    assert.deepEqual(found, ['shared/core/late.ts:1: nothing but tests imports this file, and no script runs it']);
  });

  test('reports what a decision points at and is not there', () => {
    const text =
      '# 0001 A title\nCode: services/xen/core.ts, services/xen/gone.ts\nProved by: test/unit/xen/core.test.ts\n';
    assert.deepEqual(check({ 'docs/decisions/0001-a-title.md': text }, ['test/unit/xen/core.test.ts']), [
      'docs/decisions/0001-a-title.md:2: Code: there is no services/xen/gone.ts',
    ]);
    assert.deepEqual(check({ 'docs/decisions/0001-a-title.md': '# 0001\nCode: services/xen/core.ts\n' }), [
      'docs/decisions/0001-a-title.md:1: the decision has no "Proved by:"',
    ]);
  });
});

describe('the scanner of tidy', () => {
  test('finds every form of import with its line', () => {
    const text = [
      "import type { A } from './a.ts';",
      'import {',
      '  b,',
      "} from './b.ts';",
      "import './c.ts';",
      "export { d } from './d.ts';",
      "const e = await import('./e.ts');",
      "// import './f.ts';",
      'const g = "import \'./g.ts\'";',
    ].join('\n');
    assert.deepEqual(
      importsOf(text).map(({ specifier, line, typeOnly }) => [specifier, line, typeOnly]),
      [
        ['./a.ts', 1, true],
        ['./b.ts', 2, false],
        ['./c.ts', 5, false],
        ['./d.ts', 6, false],
        ['./e.ts', 7, false],
      ],
    );
  });

  test('keeps the length and the lines of what it blanks', () => {
    const text = [
      "const a = 'gone\\'gone'; /* gone",
      "gone */ const r = /[/'\"] gone/g; const q = a / b / c; // gone '",
      `\`gone \${\`gone \${a}\`} gone\`;`,
    ].join('\n');
    const blank = withoutTexts(text);
    assert.equal(blank.length, text.length);
    assert.equal(blank.split('\n').length, text.split('\n').length);
    assert.include(blank, 'a / b / c');
    assert.notInclude(blank, 'gone');
  });
});
