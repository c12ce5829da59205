// The protocol as a server sees it: bytes of a client in any split become messages, and answers become bytes.

export interface Message {
  /** `P`, `B`, `E` … as on the wire; `startup` for the first. */
  readonly type: string
  readonly body: Reader
}

/** Reads the fields of one message. */
export class Reader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  byte(): string {
    return String.fromCharCode(this.#bytes[this.#at++]!)
  }

  int16(): number {
    this.#at += 2
    return this.#bytes.readInt16BE(this.#at - 2)
  }

  int32(): number {
    this.#at += 4
    return this.#bytes.readInt32BE(this.#at - 4)
  }

  text(): string {
    const end = this.#bytes.indexOf(0, this.#at)
    const text = this.#bytes.toString('utf8', this.#at, end)
    this.#at = end + 1
    return text
  }

  value(): string | null {
    const length = this.int32()
    if (length < 0) return null
    this.#at += length
    return this.#bytes.toString('utf8', this.#at - length, this.#at)
  }
}

const HEADER = 5

/** What a client sends, message by message. */
export class Inbox {
  #partial: Buffer = Buffer.alloc(0)
  #started = false

  /** The messages that these bytes complete. */
  push(bytes: Buffer): Message[] {
    const all = this.#partial.length === 0 ? bytes : Buffer.concat([this.#partial, bytes])
    const messages: Message[] = []
    let at = 0
    for (;;) {
      const header = this.#started ? HEADER : HEADER - 1
      if (all.length - at < header) break
      const end = at + header - 4 + all.readInt32BE(at + header - 4)
      if (end > all.length) break
      const type = this.#started ? String.fromCharCode(all[at]!) : 'startup'
      messages.push({ type, body: new Reader(all.subarray(at + header, end)) })
      this.#started = true
      at = end
    }
    this.#partial = all.subarray(at)
    return messages
  }
}

// Answers.

function message(type: string, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(HEADER)
  head.write(type, 'latin1')
  head.writeInt32BE(4 + body.length, 1)
  return Buffer.concat([head, body])
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`)
const int16 = (value: number): Buffer => Buffer.from([(value >> 8) & 0xff, value & 0xff])
const int32 = (value: number): Buffer =>
  Buffer.from([value >>> 24, (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff])

export const parseComplete = message('1')
export const bindComplete = message('2')
export const closeComplete = message('3')
export const noData = message('n')
export const portalSuspended = message('s')
export const authenticated = message('R', int32(0))

const TEXT_OID = 25

export function backendKey(pid: number): Buffer {
  return message('K', int32(pid), int32(pid))
}

/** Every column is a text. */
export function rowDescription(columns: readonly string[]): Buffer {
  const fields = columns.map((name) =>
    Buffer.concat([text(name), int32(0), int16(0), int32(TEXT_OID), int16(-1), int32(-1), int16(0)]),
  )
  return message('T', int16(columns.length), ...fields)
}

export function dataRow(values: readonly (string | null)[]): Buffer {
  const fields = values.map((value) => {
    if (value === null) return int32(-1)
    const bytes = Buffer.from(value)
    return Buffer.concat([int32(bytes.length), bytes])
  })
  return message('D', int16(values.length), ...fields)
}

export function commandComplete(tag: string): Buffer {
  return message('C', text(tag))
}

export function readyForQuery(status: 'I' | 'T' | 'E'): Buffer {
  return message('Z', Buffer.from(status))
}

/** What a server refuses with. */
export interface Refusal {
  readonly severity?: 'ERROR' | 'FATAL'
  readonly code: string
  readonly message: string
  /** The server's C function. */
  readonly routine?: string
}

export function errorResponse({ severity = 'ERROR', code, message: words, routine = 'nowhere' }: Refusal): Buffer {
  const fields = [`S${severity}`, `V${severity}`, `C${code}`, `M${words}`, `R${routine}`]
  return message('E', ...fields.map(text), Buffer.from([0]))
}
