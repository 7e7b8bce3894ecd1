// Names the optional packages that package-lock.json asks for and does not hold: `npm ci` would refuse it.
import { readFileSync } from 'node:fs';

const { packages } = JSON.parse(readFileSync(process.argv[2] ?? 'package-lock.json', 'utf8'));

/** Whether the lock holds `name` where a package at `from` would find it. */
function isHeld(from, name) {
  for (let base = from; ; base = base.slice(0, Math.max(0, base.lastIndexOf('node_modules/') - 1))) {
    if (packages[`${base === '' ? '' : `${base}/`}node_modules/${name}`] !== undefined) return true;
    if (base === '') return false;
  }
}

let missing = 0;
for (const [path, { version, optionalDependencies }] of Object.entries(packages)) {
  const lacks = Object.keys(optionalDependencies ?? {}).filter((name) => !isHeld(path, name));
  if (lacks.length === 0) continue;
  missing++;
  console.log(`${path.replace(/^.*node_modules\//, '')}@${version} lacks ${lacks.join(', ')}`);
}
process.exitCode = missing === 0 ? 0 : 1;
