// Follows who answers what on one connection: the statements a client sends, and which of them the message that the
// server sends now belongs to. What cannot be followed (TLS, cancel requests, nonsense) is opaque and just passes.

import { HEADER, isLast, Messages } from './messages.ts'
import type { Piece } from './messages.ts'

const TLS_RECORD = 0x16
const CANCEL_REQUEST = 80_877_102
const SSL_REQUEST = 80_877_103
const GSS_REQUEST = 80_877_104
/** How much of a message is read: enough for a statement's text, and of a Bind the two names before its values. */
const READ_BYTES: Readonly<Record<string, number>> = { '': 100, Q: 100_000, P: 100_000, B: 200, E: 200 }

export class Conversation {
  readonly #fromClient = new Messages(true)
  readonly #fromServer = new Messages()
  /** Texts by the names of prepared statements, and of portals. */
  readonly #prepared = new Map<string, string>()
  readonly #portals = new Map<string, string>()
  /** Texts of what ReadyForQuery will answer, the eldest first. The first answer of all is for the opening. */
  readonly #unanswered: string[][] = [[]]
  /** Sent, and Sync not yet. */
  #open: string[] = []
  #content: Buffer[] = []
  #opaque = false
  /** Requests for encryption, each answered by one byte. */
  #asked = 0

  /** Whether bytes pass unseen. */
  get opaque(): boolean {
    return this.#opaque
  }

  /** Texts of the statements that the server's current messages answer. */
  get answering(): readonly string[] {
    return this.#unanswered[0] ?? this.#open
  }

  /** Listens to the client; its bytes pass in any case. */
  clientSays(chunk: Buffer): void {
    if (this.#opaque) return
    if (this.#fromClient.opening && chunk[0] === TLS_RECORD) {
      this.#opaque = true
      return
    }
    for (const piece of this.#fromClient.pieces(chunk)) {
      this.#heard(piece)
      if (this.#opaque) return
    }
  }

  /** What the server says, message by message. An opaque conversation has pieces of no type. */
  *serverSays(chunk: Buffer): Generator<Piece> {
    if (this.#opaque) {
      const held = this.#fromServer.release()
      yield unknownPiece(held.length > 0 ? Buffer.concat([held, chunk]) : chunk)
      return
    }
    let rest = chunk
    while (this.#asked > 0 && rest.length > 0) {
      this.#asked--
      this.#opaque = rest[0] !== 'N'.charCodeAt(0)
      yield unknownPiece(rest.subarray(0, 1))
      rest = rest.subarray(1)
    }
    for (const piece of this.#fromServer.pieces(rest)) {
      yield piece
      if (piece.type === 'Z' && isLast(piece)) this.#unanswered.shift()
    }
  }

  #heard(piece: Piece): void {
    if (piece.at === 0) this.#content = []
    const unread = (READ_BYTES[piece.type] ?? 0) - piece.at
    if (unread > 0) this.#content.push(piece.bytes.subarray(0, unread))
    if (!isLast(piece)) return
    const message = Buffer.concat(this.#content)
    if (piece.type === '') this.#opened(message.readUInt32BE(4))
    else this.#said(piece.type, message.subarray(HEADER).toString('utf8').split('\0', 2))
  }

  #opened(code: number): void {
    if (code === CANCEL_REQUEST) this.#opaque = true
    else if (code === SSL_REQUEST || code === GSS_REQUEST) this.#asked++
    else this.#fromClient.opening = false
  }

  #said(type: string, [first = '', second = '']: string[]): void {
    switch (type) {
      case 'Q':
        this.#open.push(first)
        this.#synced()
        break
      case 'P':
        this.#prepared.set(first, second)
        this.#open.push(second)
        break
      case 'B':
        this.#portals.set(first, this.#prepared.get(second) ?? '')
        break
      case 'E':
        this.#open.push(this.#portals.get(first) ?? '')
        break
      case 'S':
      case 'F':
        this.#synced()
        break
    }
  }

  #synced(): void {
    this.#unanswered.push(this.#open)
    this.#open = []
  }
}

function unknownPiece(bytes: Buffer): Piece {
  return { type: '', size: bytes.length, at: 0, bytes }
}
