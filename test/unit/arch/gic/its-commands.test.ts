/** The bytes of the commands as IHI 0069 draws them, and back. */
import { assert, describe, test } from 'vitest';
import {
  decodeItsCommand,
  encodeClear,
  encodeDiscard,
  encodeInt,
  encodeInv,
  encodeInvall,
  encodeMapc,
  encodeMapd,
  encodeMapi,
  encodeMapti,
  encodeMovall,
  encodeMovi,
  encodeSync,
  formatItsCommand,
  type ItsCommand,
  itsCommandBytes,
  itsCommandWords,
} from '#shared/arch/gic/its-commands.ts';

const golden: [string, Uint32Array, string, ItsCommand][] = [
  [
    'MAPD with a table above 4 GiB',
    encodeMapd({ deviceId: 0x108, size: 4, ittAddress: 0x8_1234_5600, valid: true }),
    '0800000008010000 0400000000000000 0056341208000080 0000000000000000',
    { name: 'MAPD', deviceId: 0x108, size: 4, ittAddress: 0x8_1234_5600, valid: true },
  ],
  [
    'MAPC to processor 3',
    encodeMapc({ icid: 0x21, rdbase: 3, valid: true }),
    '0900000000000000 0000000000000000 2100030000000080 0000000000000000',
    { name: 'MAPC', icid: 0x21, rdbase: 3, valid: true },
  ],
  [
    'MAPTI',
    encodeMapti({ deviceId: 0x1_0100, eventId: 7, pIntid: 0x2005, icid: 1 }),
    '0a00000000010100 0700000005200000 0100000000000000 0000000000000000',
    { name: 'MAPTI', deviceId: 0x1_0100, eventId: 7, pIntid: 0x2005, icid: 1 },
  ],
  [
    'MAPI',
    encodeMapi({ deviceId: 8, eventId: 0x2001, icid: 2 }),
    '0b00000008000000 0120000000000000 0200000000000000 0000000000000000',
    { name: 'MAPI', deviceId: 8, eventId: 0x2001, icid: 2 },
  ],
  [
    'MOVI',
    encodeMovi({ deviceId: 8, eventId: 1, icid: 2 }),
    '0100000008000000 0100000000000000 0200000000000000 0000000000000000',
    { name: 'MOVI', deviceId: 8, eventId: 1, icid: 2 },
  ],
  [
    'INT',
    encodeInt({ deviceId: 8, eventId: 0xffff_ffff }),
    '0300000008000000 ffffffff00000000 0000000000000000 0000000000000000',
    { name: 'INT', deviceId: 8, eventId: 0xffff_ffff },
  ],
  [
    'CLEAR',
    encodeClear({ deviceId: 8, eventId: 1 }),
    '0400000008000000 0100000000000000 0000000000000000 0000000000000000',
    { name: 'CLEAR', deviceId: 8, eventId: 1 },
  ],
  [
    'INV',
    encodeInv({ deviceId: 8, eventId: 1 }),
    '0c00000008000000 0100000000000000 0000000000000000 0000000000000000',
    { name: 'INV', deviceId: 8, eventId: 1 },
  ],
  [
    'DISCARD',
    encodeDiscard({ deviceId: 8, eventId: 1 }),
    '0f00000008000000 0100000000000000 0000000000000000 0000000000000000',
    { name: 'DISCARD', deviceId: 8, eventId: 1 },
  ],
  [
    'INVALL',
    encodeInvall({ icid: 0xffff }),
    '0d00000000000000 0000000000000000 ffff000000000000 0000000000000000',
    { name: 'INVALL', icid: 0xffff },
  ],
  [
    'SYNC by the address of a redistributor (PTA=1)',
    encodeSync({ rdbase: 0x8010_8004 }),
    '0500000000000000 0000000000000000 0000048010800000 0000000000000000',
    { name: 'SYNC', rdbase: 0x8010_8004 },
  ],
  [
    'MOVALL',
    encodeMovall({ rdbase1: 1, rdbase2: 2 }),
    '0e00000000000000 0000000000000000 0000010000000000 0000020000000000',
    { name: 'MOVALL', rdbase1: 1, rdbase2: 2 },
  ],
];

describe('ITS commands', () => {
  for (const [name, words, hex, command] of golden) {
    test(`${name} has the bytes of the book and decodes to itself`, () => {
      const bytes = itsCommandBytes([words]);
      assert.equal(Buffer.from(bytes).toString('hex'), hex.replaceAll(' ', ''));
      assert.deepEqual(decodeItsCommand(itsCommandWords(bytes)), command);
    });
  }

  test('a command of GICv4 decodes as unknown with its opcode', () => {
    assert.deepEqual(decodeItsCommand([0x29, 0, 0, 0, 0, 0, 0, 0]), { name: 'unknown', opcode: 0x29 });
  });

  test('a command is shown with its fields by name', () => {
    const command = decodeItsCommand(encodeMapti({ deviceId: 8, eventId: 0, pIntid: 0x2000, icid: 0 }));
    assert.equal(formatItsCommand(command), 'MAPTI deviceId=0x8 eventId=0x0 pIntid=0x2000 icid=0x0');
  });
});
