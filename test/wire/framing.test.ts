// The guard before pg's parser: whole messages pass however they are cut, and a message that is not what it says ends
// the connection instead of becoming somebody's answer.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Framing } from '../../src/wire/framing.ts'

function message(type: string, content: Buffer, length = content.length + 4): Buffer {
  const head = Buffer.alloc(5)
  head.write(type, 0, 'latin1')
  head.writeUInt32BE(length, 1)
  return Buffer.concat([head, content])
}

const int16 = (value: number): Buffer => {
  const bytes = Buffer.alloc(2)
  bytes.writeInt16BE(value)
  return bytes
}
const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

const row = (...values: (string | null)[]): Buffer =>
  message(
    'D',
    Buffer.concat([
      int16(values.length),
      ...values.flatMap((value) =>
        value === null ? [int32(-1)] : [int32(Buffer.byteLength(value)), Buffer.from(value)],
      ),
    ]),
  )
const description = (...names: string[]): Buffer =>
  message(
    'T',
    Buffer.concat([int16(names.length), ...names.flatMap((name) => [Buffer.from(`${name}\0`), Buffer.alloc(18)])]),
  )
const done = message('C', Buffer.from('SELECT 1\0'))
const ready = message('Z', Buffer.from('I'))

describe('an answer', () => {
  test('passes, however it is cut into chunks', () => {
    const answer = Buffer.concat([
      message('2', Buffer.alloc(0)),
      description('id', '__proto__'),
      row('7', null),
      row('', 'ä'),
      done,
      ready,
    ])
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 40 })), (sizes) => {
        const framing = new Framing()
        let at = 0
        for (const size of [...sizes, answer.length]) {
          expect(framing.fault(answer.subarray(at, at + size))).toBeNull()
          at += size
        }
      }),
    )
  })
})

test('a row of megabytes passes in chunks', () => {
  const large = row('x'.repeat(3_000_000), 'y')
  const framing = new Framing()
  for (let at = 0; at < large.length; at += 65_536) expect(framing.fault(large.subarray(at, at + 65_536))).toBeNull()
  expect(framing.fault(Buffer.concat([done, ready]))).toBeNull()
  const rows = Buffer.concat([row('a'.repeat(100_000)), row('b'), done, ready])
  for (let at = 0; at < rows.length; at += 1_000) expect(framing.fault(rows.subarray(at, at + 1_000))).toBeNull()
})

describe('a message', () => {
  test.each([
    ['of unknown type', message('q', Buffer.alloc(0)), 'unknown type'],
    ['of length 0', message('D', Buffer.alloc(0), 0), 'length 0'],
    ['of two gigabytes', message('D', Buffer.alloc(0), 2 ** 31), 'length'],
    ['whose string has no end', message('E', Buffer.from('Sbad')), 'string without its end'],
    [
      'that is a row with a value longer than itself',
      message('D', Buffer.concat([int16(1), int32(9), Buffer.from('7')])),
      'fields',
    ],
    [
      'that is a row with bytes to spare',
      message('D', Buffer.concat([int16(1), int32(1), Buffer.from('77')])),
      'fields',
    ],
    ['that is a row with a value of length -2', message('D', Buffer.concat([int16(1), int32(-2)])), 'fields'],
    [
      'that is a description cut off',
      message('T', Buffer.concat([int16(1), Buffer.from('id\0'), Buffer.alloc(3)])),
      'fields',
    ],
    ['that is a copy nobody asked for', message('d', Buffer.from('7')), 'copy'],
    ['that is a longer ReadyForQuery', message('Z', Buffer.from('II')), 'length'],
  ])('%s is refused', (_, bytes, because) => {
    expect(new Framing().fault(bytes)).toContain(because)
  })

  test('of any bytes at all is judged and never thrown at', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void new Framing().fault(Buffer.from(bytes))))
  })
})
