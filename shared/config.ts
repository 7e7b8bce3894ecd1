/** Settings of a service from its environment: the only reader of process.env in services. */
import { readFileSync } from 'node:fs';

export interface Settings {
  /** nats://HOST:PORT of the broker. */
  readonly natsUrl: string;
  /** Text of the creds file of this service. */
  readonly creds: string;
  /** Log level of pino. */
  readonly logLevel: string;
  /** How long to wait for the broker at the start, in milliseconds. */
  readonly brokerWaitMs: number;
}

/** A setting is missing or wrong: one line. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

export function readSettings(): Settings {
  return {
    natsUrl: setting('NATS_URL'),
    creds: fileSetting('CULVERT_CREDS'),
    logLevel: process.env['CULVERT_LOG'] ?? 'info',
    brokerWaitMs: numberSetting('CULVERT_BROKER_WAIT_MS', 30_000),
  };
}

export function setting(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === '') throw new ConfigError(`the environment has no ${name}`);
  return value;
}

export function optionalSetting(name: string): string | undefined {
  const value = process.env[name];
  return value === '' ? undefined : value;
}

export function numberSetting(name: string, otherwise: number): number {
  const text = optionalSetting(name);
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new ConfigError(`${name}="${text}" is not a number`);
  return value;
}

/** The contents of the file that the variable names. */
export function fileSetting(name: string): string {
  const path = setting(name);
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new ConfigError(`cannot read ${path} (from ${name}): ${(error as Error).message}`);
  }
}
