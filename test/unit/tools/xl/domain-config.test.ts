import { assert, describe, test } from 'vitest';
import { parseCfg } from '#tools/xl/config-file.ts';
import { parseDomainConfig } from '#tools/xl/domain-config.ts';

describe('the syntax of a configuration', () => {
  test('strings, numbers, nested lists, comments, semicolons and trailing commas are read', () => {
    const text = 'a = "x\\"y" ; b = 0x10 # comment\nc = [ \'1\', # one\n [ 2, ], ]\n';
    const entries = parseCfg('f', text);
    assert.equal(entries.get('a')?.value, 'x"y');
    assert.equal(entries.get('b')?.value, '0x10');
    assert.deepEqual(entries.get('c')?.value, ['1', ['2']]);
  });

  test('a key given twice: the later value counts', () => {
    assert.equal(parseCfg('f', 'a = 1\na = 2').get('a')?.value, '2');
  });

  test('an unclosed string is a lexical error with file and line', () => {
    const { config, messages } = parseDomainConfig('bad.cfg', 'name = "ok"\nkernel = "x', []);
    assert.isUndefined(config);
    assert.deepEqual(messages, [
      'bad.cfg:2: config parsing error near `"x\': lexical error',
      'Failed to parse config: Invalid argument',
    ]);
  });

  test('a missing value names the line', () => {
    const { messages } = parseDomainConfig('bad.cfg', 'name = "a"\nmemory =\n', []);
    assert.match(messages[0]!, /^bad\.cfg:2: config parsing error.*syntax error$/);
  });
});

describe('what a domain is made of', () => {
  test('unknown keys are ignored without a word', () => {
    const { config, messages } = parseDomainConfig('f', 'name = "a"\nnonsense = 3', []);
    assert.equal(config?.name, 'a');
    assert.deepEqual(messages, []);
  });

  test('a warned value counts as absent and creation goes on', () => {
    const { config, messages } = parseDomainConfig(
      'f',
      'name = "a"\nvcpus = [ 2 ]\nmemory = "lots"\npci = "03:00.0"',
      [],
    );
    assert.deepEqual([...messages].sort(), [
      "f:2: warning: parameter `vcpus' is a list but should be a single value",
      "f:3: warning: parameter `memory' is not a valid number",
      "f:4: warning: parameter `pci' is a single value but should be a list",
    ]);
    assert.equal(config?.vcpus, 1);
    assert.deepEqual(config?.pci, []);
  });

  test('a bad pci entry ends it', () => {
    const { config, messages, exit } = parseDomainConfig('f', 'name = "a"\npci = [ "zz" ]', []);
    assert.isUndefined(config);
    assert.equal(exit, 6);
    assert.deepEqual(messages, ["unable to parse PCI_SPEC_STRING `zz' for passthrough"]);
  });

  test('a name is needed', () => {
    assert.deepEqual(parseDomainConfig('f', 'memory = 5', []).messages, ['Domain name must be specified.']);
  });

  test('a number that fits no int is none', () => {
    const { config, messages } = parseDomainConfig('f', 'name = "a"\nmemory = 99999999999\nvcpus = 2147483647', []);
    assert.deepEqual(messages, ["f:2: warning: parameter `memory' is not a valid number"]);
    assert.equal(config?.memoryMib, 128);
  });

  test('a number with a leading zero is octal', () => {
    assert.equal(parseDomainConfig('f', 'name = "a"\nmemory = 0100', []).config?.memoryMib, 64);
    assert.match(parseDomainConfig('f', 'name = "a"\nmemory = 09', []).messages[0]!, /`memory' is not a valid number/);
  });

  test('arguments of the command line win over the file', () => {
    assert.equal(parseDomainConfig('f', 'name = "a"\nmemory = 5', ['memory=64']).config?.memoryMib, 64);
  });
});
