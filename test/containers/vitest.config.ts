import { defineConfig } from 'vitest/config';

/** The container tests alone: one host at a time, one after another. They need a Docker engine with compose. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    reporters: ['default', './tools/plain-reporter.ts'],
    include: ['test/containers/**/*.test.ts'],
    fileParallelism: false,
    bail: 1,
    testTimeout: 120_000,
    hookTimeout: 240_000,
  },
});
