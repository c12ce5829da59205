// What a client says in version 3 of the protocol, as bytes: one method per message, gathered in one buffer, so
// that all that is said in one turn of the event loop leaves as one write. Nothing here knows a socket.

/** The server's own limit for one message: MaxAllocSize. */
const LARGEST_MESSAGE = 0x3fff_ffff
/** Room for a few hundred small statements; what is taken from a slab is never written over. */
const SLAB = 64 * 1024
/** Below this a loop over the characters is faster than the call into Node. */
const SHORT = 24

const NOTHING = Buffer.alloc(0)

/** A value as the server takes it: text, bytes, or null. */
export type Value = string | Buffer | null

/** What is too large about a statement, in words; null when nothing is. Looked at before anything is written. */
export function tooLarge(sql: string, values: readonly Value[], limit = LARGEST_MESSAGE): string | null {
  let units = sql.length
  for (const value of values) if (value !== null) units += value.length
  // No UTF-16 unit takes more than three bytes: the exact count is for the few that come near.
  if (3 * units + 8 * values.length + 1024 <= limit) return null
  if (Buffer.byteLength(sql) + 1024 > limit) return 'Its text'
  let bytes = 0
  for (const value of values) bytes += 8 + (value === null ? 0 : Buffer.byteLength(value))
  return bytes + 1024 > limit ? 'The sum of its parameters' : null
}

const PARSE = 0x50
const BIND = 0x42
const DESCRIBE = 0x44
const EXECUTE = 0x45
const CLOSE = 0x43
const SYNC = 0x53
const FLUSH = 0x48
const QUERY = 0x51
const COPY_FAIL = 0x66
const PORTAL = 0x50
const STATEMENT = 0x53

export class Encoder {
  #bytes = Buffer.allocUnsafeSlow(SLAB)
  /** Where that begins which nobody has taken yet. */
  #from = 0
  #at = 0

  get empty(): boolean {
    return this.#at === this.#from
  }

  /** Bytes since the last time somebody took them. */
  get length(): number {
    return this.#at - this.#from
  }

  /** All bytes since the last time. */
  take(): Buffer {
    const taken = this.#bytes.subarray(this.#from, this.#at)
    this.#from = this.#at
    // The memory of a large statement is not held for the small ones that follow.
    if (this.#bytes.length > SLAB) {
      this.#bytes = NOTHING
      this.#from = 0
      this.#at = 0
    }
    return taken
  }

  parse(name: string, sql: string): void {
    const start = this.#begin(PARSE)
    this.#cstring(name)
    this.#cstring(sql)
    // The server finds the types of the parameters itself.
    this.#int16(0)
    this.#end(start)
  }

  /** Text travels as text, bytes as bytes; every column comes back as text. */
  bind(portal: string, statement: string, values: readonly Value[]): void {
    const start = this.#begin(BIND)
    this.#cstring(portal)
    this.#cstring(statement)
    const count = values.length
    this.#int16(count)
    for (let i = 0; i < count; i++) this.#int16(values[i] !== null && typeof values[i] !== 'string' ? 1 : 0)
    this.#int16(count)
    for (let i = 0; i < count; i++) this.#value(values[i]!)
    this.#int16(0)
    this.#end(start)
  }

  describePortal(portal: string): void {
    const start = this.#begin(DESCRIBE)
    this.#byte(PORTAL)
    this.#cstring(portal)
    this.#end(start)
  }

  describeStatement(name: string): void {
    const start = this.#begin(DESCRIBE)
    this.#byte(STATEMENT)
    this.#cstring(name)
    this.#end(start)
  }

  /** `rows` 0: all of them. */
  execute(portal: string, rows: number): void {
    const start = this.#begin(EXECUTE)
    this.#cstring(portal)
    this.#int32(rows)
    this.#end(start)
  }

  closePortal(name: string): void {
    const start = this.#begin(CLOSE)
    this.#byte(PORTAL)
    this.#cstring(name)
    this.#end(start)
  }

  closeStatement(name: string): void {
    const start = this.#begin(CLOSE)
    this.#byte(STATEMENT)
    this.#cstring(name)
    this.#end(start)
  }

  sync(): void {
    this.#end(this.#begin(SYNC))
  }

  flush(): void {
    this.#end(this.#begin(FLUSH))
  }

  query(sql: string): void {
    const start = this.#begin(QUERY)
    this.#cstring(sql)
    this.#end(start)
  }

  copyFail(reason: string): void {
    const start = this.#begin(COPY_FAIL)
    this.#cstring(reason)
    this.#end(start)
  }

  /** How far the message begins behind `#from`, which moves with every new slab. */
  #begin(type: number): number {
    this.#ensure(5)
    const start = this.#at - this.#from
    this.#bytes[this.#at] = type
    this.#at += 5
    return start
  }

  #end(start: number): void {
    const length = this.#from + start + 1
    put32(this.#bytes, length, this.#at - length)
  }

  #value(value: Value): void {
    if (value === null) {
      this.#int32(-1)
      return
    }
    this.#ensure(4)
    const before = this.#at - this.#from
    this.#at += 4
    if (typeof value === 'string') {
      this.#text(value)
    } else {
      this.#ensure(value.length)
      value.copy(this.#bytes, this.#at)
      this.#at += value.length
    }
    const length = this.#from + before
    put32(this.#bytes, length, this.#at - length - 4)
  }

  #cstring(text: string): void {
    if (text !== '') this.#text(text)
    this.#byte(0)
  }

  #text(text: string): void {
    const { length } = text
    this.#ensure(length < SLAB ? 3 * length : Buffer.byteLength(text))
    const bytes = this.#bytes
    if (length <= SHORT) {
      let at = this.#at
      let i = 0
      for (; i < length; i++) {
        const unit = text.charCodeAt(i)
        if (unit > 0x7f) break
        bytes[at++] = unit
      }
      if (i === length) {
        this.#at = at
        return
      }
    }
    this.#at += bytes.write(text, this.#at)
  }

  #byte(value: number): void {
    this.#ensure(1)
    this.#bytes[this.#at++] = value
  }

  #int16(value: number): void {
    this.#ensure(2)
    this.#bytes[this.#at++] = value >>> 8
    this.#bytes[this.#at++] = value
  }

  #int32(value: number): void {
    this.#ensure(4)
    put32(this.#bytes, this.#at, value)
    this.#at += 4
  }

  #ensure(more: number): void {
    if (this.#at + more <= this.#bytes.length) return
    const kept = this.#at - this.#from
    const next = Buffer.allocUnsafeSlow(Math.max(SLAB, 2 * kept + more))
    this.#bytes.copy(next, 0, this.#from, this.#at)
    this.#bytes = next
    this.#from = 0
    this.#at = kept
  }
}

function put32(bytes: Buffer, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}
