import { readFileSync } from 'node:fs';

const l = JSON.parse(readFileSync(process.argv[2] ?? 'package-lock.json', 'utf8')).packages;
const miss = {};
for (const [k, v] of Object.entries(l))
  for (const d of Object.keys(v.optionalDependencies ?? {})) {
    let base = k,
      ok = false;
    for (;;) {
      if (l[(base ? base + '/' : '') + 'node_modules/' + d]) {
        ok = true;
        break;
      }
      if (!base) break;
      const i = base.lastIndexOf('node_modules/');
      base = i <= 0 ? '' : base.slice(0, i - 1);
    }
    if (!ok) (miss[`${k.replace(/^.*node_modules\//, '')}@${v.version}`] ??= []).push(d);
  }
for (const [k, d] of Object.entries(miss))
  console.log(k, 'lacks', d.length, d.map((x) => x.split('/').pop()).join(' '));
process.exitCode = Object.keys(miss).length ? 1 : 0;
