// What a server says in version 3 of the protocol: bytes in any split become messages, each handed to a receiver.
// Nothing here knows a socket. Bytes that are no message throw a ProtocolFault, and nothing is read after it;
// memory is taken for bytes that have come, never for bytes that were announced.

import { DatabaseError } from 'pg'
import type { Row } from '../core/types.ts'
import { HEADER, KNOWN, LARGEST } from './framing.ts'

/** The bytes are not what PostgreSQL would send. */
export class ProtocolFault extends Error {}

/** The columns of a result. */
export interface Description {
  readonly names: readonly string[]
  readonly oids: readonly number[]
  readonly formats: readonly ('text' | 'binary')[]
  /** Every column, null. A copy of it is where each row begins: all rows of one shape, `__proto__` a plain property. */
  readonly template: Row
  /** One for each column, filled in anew for every result. */
  readonly parsers: Parser[]
}

/** What a command says of itself when it has ended: `INSERT 0 5`. */
export interface Tag {
  /** The first word; null where there is none. */
  readonly command: string | null
  /** The last number. */
  readonly count: number | null
}

export type Parser = (value: string | Buffer) => unknown

/** What pg tells its listeners of a notice. */
export interface Notice {
  readonly name: 'notice'
  readonly length: number
  readonly message: string | undefined
}

/** Who is told of the messages. What it throws ends the reading. */
export interface Receiver {
  parseComplete(): void
  /** null: the statement gives no rows. */
  description(description: Description | null): void
  row(bytes: Buffer, from: number, to: number): void
  complete(tag: Tag): void
  emptyQuery(): void
  portalSuspended(): void
  copyIn(): void
  error(error: DatabaseError): void
  ready(status: 'I' | 'T' | 'E'): void
  notice(notice: Notice): void
  notification(pid: number, channel: string, payload: string, length: number): void
  parameter(name: string, value: string, length: number): void
}

export class Decoder {
  readonly #receiver: Receiver
  readonly #largest: number
  /** A message whose end has not come yet. */
  #partial: Buffer = Buffer.alloc(1024)
  #have = 0
  #ended = false
  /** The lines of a COPY … TO STDOUT come. */
  #copying = false
  /** The last tag and its bytes: most commands say the same as the one before. */
  #tag: Tag = { command: null, count: null }
  #tagBytes: Buffer = Buffer.alloc(0)

  constructor(receiver: Receiver, largest: number = LARGEST) {
    this.#receiver = receiver
    this.#largest = largest
  }

  /** Bytes kept for a message that is not complete. */
  get kept(): number {
    return this.#have
  }

  /** Reads nothing more. */
  end(): void {
    this.#ended = true
    this.#have = 0
    this.#partial = Buffer.alloc(0)
  }

  /** Throws ProtocolFault, or what the receiver throws, and has ended then. */
  push(chunk: Buffer): void {
    if (this.#ended) return
    try {
      this.#read(chunk)
    } catch (error) {
      this.end()
      throw error
    }
  }

  #read(chunk: Buffer): void {
    let at = this.#have > 0 ? this.#completePartial(chunk) : 0
    while (!this.#ended && at + HEADER <= chunk.length) {
      const end = at + 1 + this.#lengthOf(chunk, at)
      if (end > chunk.length) break
      this.#hand(chunk, at, end)
      at = end
    }
    if (!this.#ended && at < chunk.length) this.#keep(chunk, at, chunk.length)
  }

  /** How many bytes of the chunk belong to the message that had begun before. */
  #completePartial(chunk: Buffer): number {
    let at = 0
    if (this.#have < HEADER) {
      at = Math.min(HEADER - this.#have, chunk.length)
      this.#keep(chunk, 0, at)
      if (this.#have < HEADER) return at
    }
    const size = 1 + this.#lengthOf(this.#partial, 0)
    const end = Math.min(at + size - this.#have, chunk.length)
    this.#keep(chunk, at, end)
    if (this.#have < size) return end
    const message = this.#partial
    // What a large message needed is not held for the next.
    this.#partial = Buffer.alloc(1024)
    this.#have = 0
    this.#hand(message, 0, size)
    return end
  }

  #keep(chunk: Buffer, from: number, to: number): void {
    const size = this.#have + to - from
    if (size > this.#partial.length) {
      const larger = Buffer.allocUnsafe(2 * size)
      this.#partial.copy(larger, 0, 0, this.#have)
      this.#partial = larger
    }
    chunk.copy(this.#partial, this.#have, from, to)
    this.#have = size
    // Nobody waits for the end of what cannot be a message.
    if (size >= HEADER) this.#lengthOf(this.#partial, 0)
  }

  #tagOf(bytes: Buffer, from: number, to: number): Tag {
    const before = this.#tagBytes
    if (before.length === to - from) {
      let i = 0
      while (i < before.length && before[i] === bytes[from + i]) i++
      if (i === before.length) return this.#tag
    }
    this.#tag = readTag(new Fields(bytes, from, to).last())
    this.#tagBytes = Buffer.from(bytes.subarray(from, to))
    return this.#tag
  }

  #lengthOf(bytes: Buffer, at: number): number {
    const type = bytes[at]!
    if (KNOWN_TYPES[type] === 0) throw new ProtocolFault(`a message of unknown type 0x${type.toString(16)}`)
    const length = int32(bytes, at + 1)
    if (length < 4 || length > this.#largest) throw new ProtocolFault(`a message of length ${length}`)
    return length
  }

  #hand(bytes: Buffer, start: number, end: number): void {
    const from = start + HEADER
    const receiver = this.#receiver
    switch (bytes[start]) {
      case DATA_ROW:
        return receiver.row(bytes, from, end)
      case COMMAND_COMPLETE:
        this.#copying = false
        return receiver.complete(this.#tagOf(bytes, from, end))
      case READY_FOR_QUERY:
        this.#copying = false
        return receiver.ready(statusOf(bytes, from, end))
      case BIND_COMPLETE:
      case CLOSE_COMPLETE:
        return mustBeEmpty(from, end)
      case PARAMETER_DESCRIPTION:
        return
      case PARSE_COMPLETE:
        mustBeEmpty(from, end)
        return receiver.parseComplete()
      case ROW_DESCRIPTION:
        return receiver.description(readDescription(new Fields(bytes, from, end)))
      case NO_DATA:
        mustBeEmpty(from, end)
        return receiver.description(null)
      case ERROR_RESPONSE:
        this.#copying = false
        return receiver.error(readError(bytes, from, end))
      case NOTICE_RESPONSE:
        return receiver.notice(readNotice(bytes, from, end))
      case PARAMETER_STATUS: {
        const fields = new Fields(bytes, from, end)
        return receiver.parameter(fields.cstring(), fields.last(), end - start - 1)
      }
      case NOTIFICATION: {
        const fields = new Fields(bytes, from, end)
        return receiver.notification(fields.int32(), fields.cstring(), fields.last(), end - start - 1)
      }
      case PORTAL_SUSPENDED:
        mustBeEmpty(from, end)
        return receiver.portalSuspended()
      case EMPTY_QUERY:
        mustBeEmpty(from, end)
        return receiver.emptyQuery()
      case COPY_IN:
        return receiver.copyIn()
      case COPY_OUT:
        this.#copying = true
        return
      case COPY_DATA:
      case COPY_DONE:
        // COPY … TO STDOUT as a query: its lines are dropped, as pg does. Of a row that has become one, nobody would.
        if (!this.#copying) throw new ProtocolFault('data of a copy that nobody began')
        return
      default:
        throw new ProtocolFault(`a message of type '${String.fromCharCode(bytes[start]!)}' out of place`)
    }
  }
}

const [PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE] = [0x31, 0x32, 0x33]
const [NOTIFICATION, COMMAND_COMPLETE, DATA_ROW, ERROR_RESPONSE] = [0x41, 0x43, 0x44, 0x45]
const [COPY_IN, COPY_OUT, EMPTY_QUERY, NOTICE_RESPONSE] = [0x47, 0x48, 0x49, 0x4e]
const [PARAMETER_STATUS, ROW_DESCRIPTION, READY_FOR_QUERY] = [0x53, 0x54, 0x5a]
const [COPY_DONE, COPY_DATA, NO_DATA, PORTAL_SUSPENDED, PARAMETER_DESCRIPTION] = [0x63, 0x64, 0x6e, 0x73, 0x74]

/** KNOWN, one byte each: every message is looked at. */
const KNOWN_TYPES = Uint8Array.from({ length: 256 }, (_, type) => Number(KNOWN.has(type)))

/** As pg reads it: the first word, and the last of up to two numbers. */
const TAG = /^([A-Za-z]+)(?: (\d+))?(?: (\d+))?/

function readTag(text: string): Tag {
  const parts = TAG.exec(text)
  const count = parts?.[3] ?? parts?.[2]
  return { command: parts?.[1] ?? null, count: count === undefined ? null : Number(count) }
}

/** One row, through the parsers of this result. A column that stands twice has its last value, as in pg. */
export function readRow(
  bytes: Buffer,
  from: number,
  to: number,
  { names, formats, template }: Description,
  parsers: readonly Parser[],
): Row {
  const count = names.length
  if (to - from < 2 || ((bytes[from]! << 8) | bytes[from + 1]!) !== count) {
    throw new ProtocolFault('a row of other columns than were described')
  }
  const row = { ...template }
  let at = from + 2
  for (let i = 0; i < count; i++) {
    if (at + 4 > to) throw new ProtocolFault('a row that is cut off')
    const length = int32(bytes, at)
    at += 4
    if (length === -1) {
      row[names[i]!] = null
      continue
    }
    if (length < 0 || length > to - at) throw new ProtocolFault('a value that is longer than its row')
    const end = at + length
    row[names[i]!] = parsers[i]!(formats[i] === 'text' ? textOf(bytes, at, end) : Buffer.from(bytes.subarray(at, end)))
    at = end
  }
  if (at !== to) throw new ProtocolFault('a row with something behind it')
  return row
}

function readDescription(fields: Fields): Description {
  const count = fields.int16()
  const [names, oids, formats]: [string[], number[], ('text' | 'binary')[]] = [[], [], []]
  const template: Row = Object.create(null)
  for (let i = 0; i < count; i++) {
    const name = fields.cstring()
    // Table and column, of which nobody asks.
    fields.skip(6)
    names.push(name)
    oids.push(fields.int32() >>> 0)
    // Size and modifier.
    fields.skip(6)
    formats.push(fields.int16() === 0 ? 'text' : 'binary')
    template[name] = null
  }
  fields.end()
  // A column `__proto__` is a property of its own here and in every copy.
  return { names, oids, formats, template: { ...template }, parsers: [] }
}

/** The same object, with the same properties in the same order, as pg makes of it. */
function readError(bytes: Buffer, from: number, to: number): DatabaseError {
  const words = wordsOf(bytes, from, to)
  const error = new DatabaseError(words['M']!, to - from + 4, 'error')
  return fill(error, words)
}

function readNotice(bytes: Buffer, from: number, to: number): Notice {
  const words = wordsOf(bytes, from, to)
  return fill({ length: to - from + 4, message: words['M'], name: 'notice' }, words)
}

function fill<T extends object>(message: T, words: Record<string, string>): T {
  return Object.assign(message, {
    severity: words['S'],
    code: words['C'],
    detail: words['D'],
    hint: words['H'],
    position: words['P'],
    internalPosition: words['p'],
    internalQuery: words['q'],
    where: words['W'],
    schema: words['s'],
    table: words['t'],
    column: words['c'],
    dataType: words['d'],
    constraint: words['n'],
    file: words['F'],
    line: words['L'],
    routine: words['R'],
  })
}

function wordsOf(bytes: Buffer, from: number, to: number): Record<string, string> {
  const fields = new Fields(bytes, from, to)
  const words: Record<string, string> = Object.create(null)
  for (let type = fields.byte(); type !== 0; type = fields.byte()) {
    words[String.fromCharCode(type)] = fields.cstring()
  }
  fields.end()
  return words
}

function mustBeEmpty(from: number, to: number): void {
  if (from !== to) throw new ProtocolFault('a message with something behind its end')
}

function statusOf(bytes: Buffer, from: number, to: number): 'I' | 'T' | 'E' {
  const status = to - from === 1 ? String.fromCharCode(bytes[from]!) : ''
  if (status === 'I' || status === 'T' || status === 'E') return status
  throw new ProtocolFault('a ReadyForQuery without a status')
}

/** The parts of one message; asking beyond its end throws. */
class Fields {
  readonly #bytes: Buffer
  readonly #to: number
  #at: number

  constructor(bytes: Buffer, from: number, to: number) {
    this.#bytes = bytes
    this.#at = from
    this.#to = to
  }

  byte(): number {
    return this.#bytes[this.skip(1)]!
  }

  int16(): number {
    const at = this.skip(2)
    return (this.#bytes[at]! << 8) | this.#bytes[at + 1]!
  }

  int32(): number {
    return int32(this.#bytes, this.skip(4))
  }

  cstring(): string {
    const end = this.#bytes.indexOf(0, this.#at)
    if (end < 0 || end >= this.#to) throw new ProtocolFault('a string without its end')
    return textOf(this.#bytes, this.skip(end + 1 - this.#at), end)
  }

  /** The string with which the message ends. */
  last(): string {
    const text = this.cstring()
    this.end()
    return text
  }

  end(): void {
    if (this.#at !== this.#to) throw new ProtocolFault('a message with something behind its end')
  }

  /** Where it stood before. */
  skip(bytes: number): number {
    const at = this.#at
    if (at + bytes > this.#to) throw new ProtocolFault('a message that is cut off')
    this.#at = at + bytes
    return at
  }
}

function int32(bytes: Buffer, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!
}

/** Up to here a loop over the bytes is faster than the call into Node. */
const SHORT = 12

function textOf(bytes: Buffer, from: number, to: number): string {
  if (to - from > SHORT) return bytes.toString('utf8', from, to)
  let text = ''
  for (let i = from; i < to; i++) {
    const byte = bytes[i]!
    if (byte > 0x7f) return bytes.toString('utf8', from, to)
    text += String.fromCharCode(byte)
  }
  return text
}
