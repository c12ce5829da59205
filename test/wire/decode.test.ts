// The decoder alone: bytes in, messages out. However the bytes are split, the messages are the same; bytes that are
// no messages end in a ProtocolFault and in nothing else. What chance does here it does again at every run.

import { describe, expect, test } from 'vitest'
import { Decoder, ProtocolFault, readRow } from '../../src/wire/decode.ts'
import type { Description, Receiver, Tag } from '../../src/wire/decode.ts'
import { message } from './sessions.ts'

/** Writes down what it is told; rows are read by the last description, as a session does. */
class Recorder implements Receiver {
  readonly told: unknown[] = []
  #description: Description | null = null

  parseComplete = (): void => void this.told.push('parsed')
  emptyQuery = (): void => void this.told.push('empty')
  portalSuspended = (): void => void this.told.push('suspended')
  copyIn = (): void => void this.told.push('copy in')
  complete = (tag: Tag): void => void this.told.push({ tag })
  ready = (status: string): void => void this.told.push({ status })
  error = (error: Error): void => void this.told.push({ error: Object.assign({ message: error.message }, error) })
  notice = (notice: object): void => void this.told.push({ notice: { ...notice } })
  notification = (...what: unknown[]): void => void this.told.push(what)
  parameter = (...what: unknown[]): void => void this.told.push(what)

  description(description: Description | null): void {
    this.#description = description
    this.told.push({ description })
  }

  row(bytes: Buffer, from: number, to: number): void {
    if (this.#description === null) throw new ProtocolFault('a row without a description')
    const parsers = this.#description.names.map(() => (value: unknown) => value)
    this.told.push({ row: Object.entries(readRow(bytes, from, to, this.#description, parsers)) })
  }
}

function decoded(...chunks: readonly Buffer[]): unknown[] {
  const recorder = new Recorder()
  const decoder = new Decoder(recorder)
  for (const chunk of chunks) decoder.push(chunk)
  expect(decoder.kept).toBe(0)
  return recorder.told
}

const int16 = (...numbers: number[]): Buffer => Buffer.from(numbers.flatMap((n) => [(n >> 8) & 255, n & 255]))
const field = (name: string, oid: number, format = 0): (string | number | Buffer)[] => [
  name,
  0,
  int16(0),
  oid,
  int16(4),
  -1,
  int16(format),
]
const value = (text: string | null): (number | Buffer)[] =>
  text === null ? [-1] : [Buffer.byteLength(text), Buffer.from(text)]
const words = (...pairs: string[]): Buffer =>
  Buffer.concat([...pairs.map((one) => Buffer.from(`${one}\0`)), Buffer.from([0])])

const conversation = Buffer.concat([
  message('1'),
  message('2'),
  message('T', int16(3), ...field('id', 23), ...field('ä 漢', 25), ...field('__proto__', 17, 1)),
  message('D', int16(3), ...value('1'), ...value('grüße 🐘'), ...value(null)),
  message('D', int16(3), ...value(''), ...value('x'.repeat(300)), ...value('\x01\x02')),
  message('C', 'SELECT 2'),
  message('Z', Buffer.from('I')),
  message('E', words('SERROR', 'VERROR', 'C42601', 'Msyntax error', 'P8', 'Fscan.l', 'L1', 'Rscanner_yyerror')),
  message('Z', Buffer.from('E')),
  message('N', words('SNOTICE', 'C00000', 'Mhello', 'Ddetail')),
  message('A', 4711, 'channel', 'payload'),
  message('S', 'TimeZone', 'UTC'),
  message('t', int16(1), 23),
  message('n'),
  message('I'),
  message('s'),
  message('3'),
  message('H', Buffer.from([0]), int16(1), int16(0)),
  message('d', Buffer.from('1\ttext\n')),
  message('c'),
  message('G', Buffer.from([0]), int16(1), int16(0)),
  message('T', int16(0)),
  message('D', int16(0)),
  message('Z', Buffer.from('T')),
])

/** Mulberry32: numbers in [0, 1) that are the same at every run. */
function chance(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

describe('messages', () => {
  test('a tag is read as pg reads it, also when it comes again or is as long as the one before', () => {
    const tags = ['SELECT 1', 'SELECT 1', 'SELECT 2', 'INSERT 0 12', 'CREATE TABLE', 'UPDATE 007', 'COPY 3', '', '5 X']
    const told = decoded(...[...tags, ...tags].map((tag) => message('C', tag)))
    const expected = [
      ['SELECT', 1],
      ['SELECT', 1],
      ['SELECT', 2],
      ['INSERT', 12],
      ['CREATE', null],
      ['UPDATE', 7],
      ['COPY', 3],
      [null, null],
      [null, null],
    ].map(([command, count]) => ({ tag: { command, count } }))
    expect(told).toEqual([...expected, ...expected])
  })

  test('are told one by one', () => {
    const told = decoded(conversation)
    expect(told).toMatchObject([
      'parsed',
      { description: { names: ['id', 'ä 漢', '__proto__'], oids: [23, 25, 17], formats: ['text', 'text', 'binary'] } },
      { row: [['id', '1'], ['ä 漢', 'grüße 🐘'], ['__proto__', null]] },
      { row: [['id', ''], ['ä 漢', 'x'.repeat(300)], ['__proto__', Buffer.from([1, 2])]] },
      { tag: { command: 'SELECT', count: 2 } },
      { status: 'I' },
      { error: { message: 'syntax error', code: '42601', position: '8', routine: 'scanner_yyerror' } },
      { status: 'E' },
      { notice: { message: 'hello', detail: 'detail' } },
      [4711, 'channel', 'payload', 24],
      ['TimeZone', 'UTC', 17],
      { description: null },
      'empty',
      'suspended',
      'copy in',
      { description: { names: [] } },
      { row: [] },
      { status: 'T' },
    ]) // prettier-ignore
  })

  test('are the same when the bytes are split at any point', () => {
    const whole = decoded(conversation)
    for (let at = 0; at <= conversation.length; at++) {
      expect(decoded(conversation.subarray(0, at), conversation.subarray(at))).toEqual(whole)
    }
  })

  test('are the same byte by byte, and in pieces of any size', () => {
    const whole = decoded(conversation)
    for (let size = 1; size < 40; size++) {
      const pieces = []
      for (let at = 0; at < conversation.length; at += size) pieces.push(conversation.subarray(at, at + size))
      expect(decoded(...pieces)).toEqual(whole)
    }
  })

  test('are the same in pieces of random sizes, a thousand times', () => {
    const random = chance(1)
    const twice = Buffer.concat([conversation, conversation])
    const whole = decoded(twice)
    for (let run = 0; run < 1000; run++) {
      const pieces = []
      for (let at = 0; at < twice.length;) {
        const size = 1 + Math.floor(random() ** 3 * 500)
        pieces.push(twice.subarray(at, at + size))
        at += size
      }
      expect(decoded(...pieces)).toEqual(whole)
    }
  })

  test('that are cut off anywhere are waited for, and no more is kept than has come', () => {
    for (let at = 0; at < conversation.length; at++) {
      const decoder = new Decoder(new Recorder())
      decoder.push(conversation.subarray(0, at))
      expect(decoder.kept).toBeLessThanOrEqual(at)
    }
  })

  test('told by a receiver who ends the reading are the last', () => {
    const recorder = new Recorder()
    const decoder = new Decoder(recorder)
    recorder.complete = () => decoder.end()
    decoder.push(conversation)
    decoder.push(conversation)
    expect(recorder.told).toHaveLength(4)
  })
})

/** How the decoder takes bytes that may be anything. */
function fate(bytes: Buffer, pieces: number): 'read' | 'fault' {
  const decoder = new Decoder(new Recorder(), 1 << 20)
  try {
    const size = Math.max(1, Math.ceil(bytes.length / pieces))
    for (let at = 0; at < bytes.length; at += size) decoder.push(bytes.subarray(at, at + size))
    expect(decoder.kept).toBeLessThanOrEqual(bytes.length)
    return 'read'
  } catch (error) {
    if (!(error instanceof ProtocolFault)) throw error
    expect(decoder.kept).toBe(0)
    decoder.push(bytes)
    return 'fault'
  }
}

describe('bytes that are no messages', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])('mutated with seed %i: read, or refused with a ProtocolFault', (seed) => {
    const random = chance(seed)
    const fates = { read: 0, fault: 0 }
    for (let run = 0; run < 3000; run++) {
      const bytes = Buffer.from(conversation)
      for (let n = 1 + Math.floor(random() * 6); n > 0; n--) {
        const at = Math.floor(random() * bytes.length)
        bytes[at] = random() < 0.3 ? [0, 255, 127, 128][Math.floor(random() * 4)]! : Math.floor(random() * 256)
      }
      fates[fate(bytes, 1 + Math.floor(random() * 9))]++
    }
    expect(fates.fault).toBeGreaterThan(100)
    expect(fates.read).toBeGreaterThan(100)
  })

  test.each([11, 12, 13])('with bytes left out or put in, seed %i', (seed) => {
    const random = chance(seed)
    let faults = 0
    for (let run = 0; run < 3000; run++) {
      const at = Math.floor(random() * conversation.length)
      const to = random() < 0.5 ? at : Math.min(conversation.length, at + Math.floor(random() * 40))
      const extra = Buffer.from(Array.from({ length: Math.floor(random() * 20) }, () => Math.floor(random() * 256)))
      if (fate(Buffer.concat([conversation.subarray(0, at), extra, conversation.subarray(to)]), 3) === 'fault') faults++
    }
    expect(faults).toBeGreaterThan(100)
  })

  test('of pure chance', () => {
    const random = chance(21)
    for (let run = 0; run < 5000; run++) {
      const bytes = Buffer.from(
        Array.from({ length: 1 + Math.floor(random() * 200) }, () => Math.floor(random() * 256)),
      )
      fate(bytes, 1 + Math.floor(random() * 3))
    }
  })

  const head = (type: string, length: number): Buffer => {
    const bytes = Buffer.alloc(5)
    bytes.write(type, 'latin1')
    bytes.writeInt32BE(length, 1)
    return bytes
  }
  const described = message('T', int16(1), ...field('a', 25))

  test.each<[string, Buffer]>([
    ['a length of 0', head('Z', 0)],
    ['a length of 3', head('Z', 3)],
    ['a negative length', head('D', -1)],
    ['a length of 2 GiB', head('D', 0x7fff_ffff)],
    ['a length above the limit', head('d', (64 << 20) + 1)],
    ['an unknown type', head('y', 4)],
    ['a type of zero', Buffer.alloc(5)],
    ['an authentication request', message('R', 0)],
    ['a key of the backend', message('K', 1, 2)],
    ['a replication stream', message('W', Buffer.from([0]), int16(0))],
    ['a line of a copy that nobody began', message('d', Buffer.from('x'))],
    ['the end of a copy that nobody began', message('c')],
    [
      'a line of a copy after its end',
      Buffer.concat([message('H', Buffer.from([0]), int16(0)), message('C', 'COPY 0'), message('d')]),
    ],
    ['ParseComplete with something in it', message('1', Buffer.from('x'))],
    ['BindComplete with something in it', message('2', Buffer.from('x'))],
    ['NoData with something in it', message('n', int16(0))],
    ['ReadyForQuery without a status', message('Z')],
    ['ReadyForQuery of an unknown status', message('Z', Buffer.from('?'))],
    ['ReadyForQuery of two statuses', message('Z', Buffer.from('II'))],
    ['a tag without its end', message('C', Buffer.from('SELECT'))],
    ['a tag with something behind it', message('C', 'SELECT', Buffer.from('x'))],
    ['an error without its end', message('E', Buffer.from('SFATAL'))],
    ['an error whose last word is missing', message('E', Buffer.from('SFATAL\0'))],
    ['an error of nothing', message('E')],
    ['a notification without a payload', message('A', 1, 'channel')],
    ['a parameter without a value', message('S', 'name')],
    ['a description of nothing', message('T')],
    ['a description of more columns than there are', message('T', int16(65_535), ...field('a', 25))],
    ['a description cut off in a name', message('T', int16(1), Buffer.from('abc'))],
    ['a description cut off behind a name', message('T', int16(1), 'abc', int16(1))],
    ['a description with something behind it', message('T', int16(0), int16(1))],
    ['a row without a description', message('D', int16(0))],
    ['a row of nothing', Buffer.concat([described, message('D')])],
    ['a row of fewer columns', Buffer.concat([described, message('D', int16(0))])],
    ['a row of more columns', Buffer.concat([described, message('D', int16(2), ...value('a'), ...value('b'))])],
    ['a row without its values', Buffer.concat([described, message('D', int16(1))])],
    ['a value longer than its row', Buffer.concat([described, message('D', int16(1), 5, Buffer.from('abcd'))])],
    ['a value of 2 GiB', Buffer.concat([described, message('D', int16(1), 0x7fff_ffff, Buffer.from('abcd'))])],
    ['a value of negative length', Buffer.concat([described, message('D', int16(1), -2, Buffer.from('abcd'))])],
    ['a row with something behind it', Buffer.concat([described, message('D', int16(1), ...value('a'), int16(0))])],
  ])('%s', (_, bytes) => {
    for (let pieces = 1; pieces <= bytes.length; pieces++) expect(fate(bytes, pieces)).toBe('fault')
  })

  test('a string whose end lies in the next message is none', () => {
    const bytes = Buffer.concat([message('C', Buffer.from('SELECT')), message('C', 'SELECT 1')])
    expect(() => decoded(bytes)).toThrow('a string without its end')
  })

  test('an announced length takes no memory before its bytes have come', () => {
    const decoder = new Decoder(new Recorder())
    decoder.push(head('d', 64 << 20))
    const before = process.memoryUsage().arrayBuffers
    for (let i = 0; i < 100; i++) decoder.push(Buffer.alloc(10))
    expect(decoder.kept).toBe(1005)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(8 << 20)
  })
})
