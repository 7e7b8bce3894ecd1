import { assert, test } from 'vitest';
import {
  bytesOf,
  PacketReader,
  packPacket,
  packStrings,
  parsePacket,
  parseXsError,
  stringsOf,
  textOf,
  XENSTORE_PAYLOAD_MAX,
  XS,
  XsProtocolError,
} from '#shared/abi/xs-wire.ts';

test('a packet is four little-endian words and the payload', () => {
  const packet = packPacket(XS.WRITE, 0x01020304, 5, bytesOf('a\0v'));
  assert.deepEqual([...packet], [11, 0, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0, 3, 0, 0, 0, 0x61, 0, 0x76]);
  assert.deepEqual(parsePacket(packet), { type: 11, reqId: 0x01020304, txId: 5, payload: bytesOf('a\0v') });
});

test('a stream gives the same packets whatever its chunks are', () => {
  const first = packPacket(XS.READ, 1, 0, packStrings('/a'));
  const second = packPacket(XS.WRITE, 0xffffffff, 0xffffffff, new Uint8Array(0));
  const stream = new Uint8Array([...first, ...second]);
  for (let chunkBytes = 1; chunkBytes <= stream.length; chunkBytes++) {
    const types: number[] = [];
    const reader = new PacketReader();
    for (let at = 0; at < stream.length; at += chunkBytes) {
      reader.feed(stream.subarray(at, at + chunkBytes), (packet) => types.push(packet.type));
    }
    assert.deepEqual(types, [XS.READ, XS.WRITE]);
  }
});

test('a header that announces too much is an error before its payload arrives', () => {
  const packet = packPacket(XS.WRITE, 1, 0, new Uint8Array(XENSTORE_PAYLOAD_MAX));
  assert.equal(parsePacket(packet).payload.length, XENSTORE_PAYLOAD_MAX);
  packet[12] = 1; // 4097
  const reader = new PacketReader();
  reader.feed(packet.subarray(0, 15), () => assert.fail('no packet came'));
  assert.throws(() => reader.feed(packet.subarray(15, 16), () => assert.fail('no packet came')), XsProtocolError);
  assert.throws(() => packPacket(XS.WRITE, 1, 0, new Uint8Array(XENSTORE_PAYLOAD_MAX + 1)), XsProtocolError);
});

test('more or less than one packet is not one packet', () => {
  const packet = packPacket(XS.READ, 1, 0, packStrings('/a'));
  assert.throws(() => parsePacket(packet.subarray(0, packet.length - 1)), XsProtocolError);
  assert.throws(() => parsePacket(new Uint8Array([...packet, 0])), XsProtocolError);
  assert.throws(() => parsePacket(new Uint8Array(0)), XsProtocolError);
});

test('bytes that are no text survive the way to text and back', () => {
  const all = Uint8Array.from({ length: 256 }, (_, i) => i);
  assert.deepEqual(bytesOf(textOf(all)), all);
});

test('strings end at their NUL, and an empty one counts', () => {
  assert.deepEqual(stringsOf(bytesOf('a\0\0b\0rest')), ['a', '', 'b']);
  assert.deepEqual([...packStrings('', 'x')], [0, 0x78, 0]);
});

test('an error without a name is EINVAL', () => {
  assert.equal(parseXsError(packStrings('EAGAIN')), 'EAGAIN');
  assert.equal(parseXsError(packStrings('ELOOP')), 'EINVAL');
});
