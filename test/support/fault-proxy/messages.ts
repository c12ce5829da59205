// Cuts a stream of bytes where PostgreSQL's messages begin and end, without waiting for their ends: each piece of a
// chunk is handed on with what is known of its message. Only a header is held back until it is whole.

export interface Piece {
  /** The message's type letter; '' for the untyped messages with which a client opens. */
  readonly type: string
  /** Of the whole message, header included. */
  readonly size: number
  /** Where in its message this piece begins. The piece at 0 has the whole header. */
  readonly at: number
  readonly bytes: Buffer
}

export const isLast = ({ at, bytes, size }: Piece): boolean => at + bytes.length >= size

/** Type and length. */
export const HEADER = 5
/** A client's first messages have no type: length and a code. */
const OPENING_HEADER = 8

export class Messages {
  /** The next message is one without a type. */
  opening: boolean
  #held = Buffer.alloc(0)
  #type = ''
  #size = 0
  #at = 0

  constructor(opening = false) {
    this.opening = opening
  }

  *pieces(chunk: Buffer): Generator<Piece> {
    let rest = chunk
    while (rest.length > 0) {
      if (this.#at === this.#size) {
        const header = this.opening ? OPENING_HEADER : HEADER
        const whole = Buffer.concat([this.#held, rest])
        if (whole.length < header) {
          this.#held = whole
          return
        }
        this.#begin(whole)
        rest = whole
      }
      const bytes = rest.subarray(0, this.#size - this.#at)
      const piece = { type: this.#type, size: this.#size, at: this.#at, bytes }
      this.#at += bytes.length
      rest = rest.subarray(bytes.length)
      yield piece
    }
  }

  /** What is held back, for when the stream turns out to be no messages at all. */
  release(): Buffer {
    const held = this.#held
    this.#held = Buffer.alloc(0)
    return held
  }

  #begin(bytes: Buffer): void {
    this.#held = Buffer.alloc(0)
    this.#type = this.opening ? '' : String.fromCharCode(bytes[0]!)
    this.#size = this.opening ? bytes.readUInt32BE(0) : bytes.readUInt32BE(1) + 1
    this.#at = 0
    if (this.#size >= (this.opening ? OPENING_HEADER : HEADER)) return
    // Nonsense: where the next message begins will never be known.
    this.#type = ''
    this.#size = Infinity
  }
}
