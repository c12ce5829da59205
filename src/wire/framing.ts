// Watches the bytes of a server before pg's parser sees them. That parser throws on nonsense inside a socket
// event, which would end the process, or looks for the end of a string for ever; here nonsense ends one
// connection, with an error that says so.

import { SmartPgError } from '../core/errors.ts'

/** The largest message a server may send. A bytea of 1 GiB would need more; nothing sane does. */
export const LARGEST = 64 * 1024 * 1024
/** A type and a length. */
export const HEADER = 5
/** Every message type a server sends in version 3 of the protocol. */
export const KNOWN: ReadonlySet<number> = new Set(Buffer.from('RSKZTDCENA123ntsIGHWdcvV'))
/** Messages that end with a string, and so with a zero byte. */
const ENDS_WITH_STRING = new Set(Buffer.from('ENSCA'))
/** Messages whose content is always as long. */
const LENGTHS = new Map([...Buffer.from('123nsIc')].map((type): [number, number] => [type, 4]))
LENGTHS.set('Z'.charCodeAt(0), 5)
/** Nobody asked for a copy, so nobody would miss the row that has become one of these. */
const COPY = new Set(Buffer.from('dc'))
const COPY_BEGINS = new Set(Buffer.from('GHW'))
const COPY_ENDS = new Set(Buffer.from('CEZ'))
const ROW_DESCRIPTION = 'T'.charCodeAt(0)
const DATA_ROW = 'D'.charCodeAt(0)
/** A larger message that comes in several chunks is not gathered to be checked. */
const MOST_GATHERED = 1024 * 1024

export class Framing {
  readonly #header = Buffer.alloc(HEADER)
  #headerBytes = 0
  /** Bytes of the current message still to come. */
  #left = 0
  #copying = false
  /** Earlier parts of a message whose fields are to be checked. */
  #parts: Buffer[] = []

  /** Every message that has begun is complete. */
  get betweenMessages(): boolean {
    return this.#left === 0 && this.#headerBytes === 0
  }

  /** What is wrong with the next bytes; null when nothing is. */
  fault(bytes: Buffer): string | null {
    let at = 0
    while (at < bytes.length) {
      if (this.#left === 0) {
        if (this.#headerBytes < HEADER) {
          this.#header[this.#headerBytes++] = bytes[at++]!
          if (this.#headerBytes < HEADER) continue
        }
        const fault = this.#readHeader()
        if (fault !== null) return fault
        if (this.#left === 0) this.#headerBytes = 0
        continue
      }
      const step = Math.min(this.#left, bytes.length - at)
      at += step
      this.#left -= step
      const type = this.#header[0]!
      if (type === DATA_ROW || type === ROW_DESCRIPTION) {
        const fault = this.#fieldsFault(type, bytes.subarray(at - step, at))
        if (fault !== null) return fault
      }
      if (this.#left > 0) return null
      this.#headerBytes = 0
      if (ENDS_WITH_STRING.has(type) && bytes[at - 1] !== 0) return 'a string without its end'
    }
    return null
  }

  /** pg's parser does not look where a message ends: fields that do not fill it exactly would be read from the next. */
  #fieldsFault(type: number, part: Buffer): string | null {
    const length = this.#header.readUInt32BE(1) - 4
    // Of a large one in several chunks no part is kept, and its last is not the whole.
    if (length > MOST_GATHERED && part.length < length) return null
    if (part.length < length) this.#parts.push(part)
    if (this.#left > 0) return null
    const content = part.length === length ? part : Buffer.concat(this.#parts)
    this.#parts = []
    const end = type === DATA_ROW ? endOfRow(content) : endOfDescription(content)
    return end === content.length ? null : 'fields that do not fill their message'
  }

  #readHeader(): string | null {
    const type = this.#header[0]!
    if (!KNOWN.has(type)) return `a message of unknown type 0x${type.toString(16)}`
    const length = this.#header.readUInt32BE(1)
    if (length < 4 || length > LARGEST) return `a message of length ${length}`
    if ((LENGTHS.get(type) ?? length) !== length) return `a message '${String.fromCharCode(type)}' of length ${length}`
    if (COPY.has(type) && !this.#copying) return 'data of a copy that nobody began'
    if (COPY_BEGINS.has(type)) this.#copying = true
    else if (COPY_ENDS.has(type)) this.#copying = false
    this.#left = length - 4
    if (this.#left === 0 && ENDS_WITH_STRING.has(type)) return 'a string without its end'
    return null
  }
}

/** Where the last field ends; -1 when there is no such place. */
function endOfRow(content: Buffer): number {
  if (content.length < 2) return -1
  let at = 2
  for (let fields = content.readUInt16BE(0); fields > 0; fields--) {
    if (at + 4 > content.length) return -1
    const length = content.readInt32BE(at)
    // -1 is null.
    if (length < -1) return -1
    at += 4 + Math.max(0, length)
  }
  return at
}

function endOfDescription(content: Buffer): number {
  if (content.length < 2) return -1
  let at = 2
  for (let fields = content.readUInt16BE(0); fields > 0; fields--) {
    const zero = content.indexOf(0, at)
    if (zero < 0) return -1
    // Table, column, type, size, modifier, format.
    at = zero + 1 + 18
  }
  return at
}

interface Stream {
  listeners(event: 'data'): ((bytes: Buffer) => void)[]
  on(event: 'data', listener: (bytes: Buffer) => void): void
  once(event: 'data', listener: (bytes: Buffer) => void): void
  off(event: 'data', listener: (bytes: Buffer) => void): void
  destroy(error: Error): void
}

/** The guard on one stream. */
export interface Guard {
  /** The reader behind the guard holds no part of a message. */
  readonly betweenMessages: boolean
  /** Settles after the next bytes. */
  nextBytes(): Promise<void>
  /** Hands the stream to another reader, who guards it himself; only between messages. */
  handOver(read: (bytes: Buffer) => void): void
}

/** Puts the guard before whoever reads `stream` now. */
export function guardFraming(stream: Stream, node: string): Guard {
  const framing = new Framing()
  let broken = false
  const readers = stream.listeners('data').map((read) => {
    stream.off('data', read)
    return (bytes: Buffer): void => {
      if (broken) return
      try {
        const fault = framing.fault(bytes)
        if (fault !== null) throw new Error(fault)
        read(bytes)
      } catch (cause) {
        broken = true
        stream.destroy(nonsense(node, cause))
      }
    }
  })
  for (const read of readers) stream.on('data', read)
  return {
    nextBytes: () => new Promise((resolve) => stream.once('data', () => resolve())),
    get betweenMessages() {
      return framing.betweenMessages && !broken
    },
    handOver: (read) => {
      stream.on('data', read)
      for (const before of readers) stream.off('data', before)
    },
  }
}

/** The connection's end when the server speaks something else. */
export function nonsense(node: string, cause: unknown): SmartPgError {
  const what = cause instanceof Error ? cause.message : String(cause)
  return new SmartPgError('SMARTPG_CONNECTION_LOST', `Node '${node}' does not speak PostgreSQL's protocol: ${what}.`, {
    node,
    phase: 'execute',
    hint: 'Check that host and port are those of a PostgreSQL server.',
    cause,
  })
}
