// The encoder alone: messages in, bytes out, as the protocol's documentation writes them; and its limits, which are
// looked at before anything is written.

import { expect, test } from 'vitest'
import { Encoder, tooLarge } from '../../src/wire/encode.ts'
import { message } from './sessions.ts'

function encoded(write: (out: Encoder) => void): Buffer {
  const out = new Encoder()
  write(out)
  return out.take()
}

const int16 = (...numbers: number[]): Buffer => Buffer.from(numbers.flatMap((n) => [(n >> 8) & 255, n & 255]))

test('every message is written as the protocol has it', () => {
  expect(encoded((out) => out.parse('s_1', 'select ü'))).toEqual(message('P', 's_1', 'select ü', int16(0)))
  expect(encoded((out) => out.describePortal(''))).toEqual(message('D', Buffer.from('P'), ''))
  expect(encoded((out) => out.describeStatement('s'))).toEqual(message('D', Buffer.from('S'), 's'))
  expect(encoded((out) => out.execute('p', 7))).toEqual(message('E', 'p', 7))
  expect(encoded((out) => out.closePortal('p'))).toEqual(message('C', Buffer.from('P'), 'p'))
  expect(encoded((out) => out.closeStatement('s'))).toEqual(message('C', Buffer.from('S'), 's'))
  expect(encoded((out) => out.query('select 1'))).toEqual(message('Q', 'select 1'))
  expect(encoded((out) => out.copyFail('why'))).toEqual(message('f', 'why'))
  expect(encoded((out) => out.sync())).toEqual(message('S'))
  expect(encoded((out) => out.flush())).toEqual(message('H'))
})

test('values travel as text or bytes, null as null', () => {
  const values = ['ä', null, null, '', Buffer.from([0, 255]), 'x'.repeat(100)]
  const expected = message(
    'B',
    'p',
    's',
    int16(6, 0, 0, 0, 0, 1, 0, 6),
    2,
    Buffer.from('ä'),
    -1,
    -1,
    0,
    2,
    Buffer.from([0, 255]),
    100,
    Buffer.from('x'.repeat(100)),
    int16(0),
  )
  expect(encoded((out) => out.bind('p', 's', values))).toEqual(expected)
})

test('65,535 values are counted right', () => {
  const bytes = encoded((out) => out.bind('', '', Array(65_535).fill(null)))
  expect(bytes.readInt32BE(1)).toBe(bytes.length - 1)
  expect(bytes.readUInt16BE(7)).toBe(65_535)
})

test('what was taken is never written over, and messages of any size follow each other', () => {
  const out = new Encoder()
  const taken: [Buffer, Buffer][] = []
  for (const size of [1, 10, 23, 24, 25, 1000, 65_000, 65_530, 65_536, 200_000, 3, 70_000, 1]) {
    for (const letter of ['a', 'ü', '🐘']) {
      const text = letter.repeat(size)
      const before = out.length
      out.query(text)
      out.sync()
      expect(out.length - before).toBe(1 + 4 + Buffer.byteLength(text) + 1 + 5)
      if (size % 2 === 0) continue
      taken.push([out.take(), message('Q', text)])
    }
    out.take()
    expect(out.empty).toBe(true)
  }
  for (const [bytes, last] of taken) expect(bytes.subarray(-5 - last.length, -5).equals(last)).toBe(true)
})

test('a statement above the limit is too large, one at the limit is not', () => {
  expect(tooLarge('select 1', ['x', null, Buffer.alloc(10)])).toBeNull()
  expect(tooLarge('x'.repeat(2000), [], 2500)).toBe('Its text')
  expect(tooLarge('x'.repeat(1000), [], 2500)).toBeNull()
  expect(tooLarge('', ['ü'.repeat(1000)], 2500)).toBe('The sum of its parameters')
  expect(tooLarge('', ['x'.repeat(1000)], 2500)).toBeNull()
  expect(tooLarge('', [Buffer.alloc(2000)], 2500)).toBe('The sum of its parameters')
})
