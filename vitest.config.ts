import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    reporters: ['default', './tools/plain-reporter.ts'],
    include: ['test/**/*.test.ts'],
    exclude: ['test/containers/**', 'node_modules/**'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    coverage: { provider: 'v8', include: ['shared/**', 'services/**', 'tools/**'], exclude: ['**/gen/**'] },
  },
});
