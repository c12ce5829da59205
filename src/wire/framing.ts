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

export class Framing {
  readonly #header = Buffer.alloc(HEADER)
  #headerBytes = 0
  /** Bytes of the current message still to come. */
  #left = 0

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
      if (this.#left > 0) return null
      this.#headerBytes = 0
      if (ENDS_WITH_STRING.has(this.#header[0]!) && bytes[at - 1] !== 0) return 'a string without its end'
    }
    return null
  }

  #readHeader(): string | null {
    const type = this.#header[0]!
    if (!KNOWN.has(type)) return `a message of unknown type 0x${type.toString(16)}`
    const length = this.#header.readUInt32BE(1)
    if (length < 4 || length > LARGEST) return `a message of length ${length}`
    this.#left = length - 4
    if (this.#left === 0 && ENDS_WITH_STRING.has(type)) return 'a string without its end'
    return null
  }
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
