// Reads of many callers under one Sync: the server answers them with one write instead of one for each, and both sides
// wake up once. That is half of the server's time for a small read. Each still has an answer of its own: one that fails
// fails alone, and those that the server passed over behind it, unexecuted, are sent once more.

import type { DatabaseError } from 'pg'
import { Exchange } from './answer.ts'
import type { StatementExchange, Wire } from './answer.ts'
import { ProtocolFault } from './decode.ts'
import type { Description, Tag } from './decode.ts'
import type { Encoder } from './encode.ts'
import type { Prepared } from './prepared.ts'

export class SharedExchange extends Exchange {
  readonly #members: StatementExchange[] = []
  /** The one whose answer comes; behind the last when all have been answered. */
  #at = 0
  #failure: Error | null = null

  constructor(wire: Wire) {
    super(wire, undefined)
    this.size = 0
  }

  /** One more, under a name that the server holds. */
  add(member: StatementExchange, prepared: Prepared, out: Encoder): void {
    this.#members.push(member)
    this.size++
    member.encodeSteps(out, prepared, member)
  }

  /** Nothing: each member was encoded when it came, and the Sync follows the last. */
  override encode(): void {}

  override description(description: Description | null): void {
    this.#current().description(description)
  }

  override row(bytes: Buffer, from: number, to: number): void {
    this.#current().row(bytes, from, to)
  }

  override complete(tag: Tag): void {
    this.#current().complete(tag)
    this.#at++
  }

  override emptyQuery(): void {
    this.#current()
    this.#at++
  }

  override parseComplete(): void {
    throw new ProtocolFault('an answer to a Parse that nobody sent')
  }

  override portalSuspended(): void {
    throw new ProtocolFault('a portal that stops although nobody asked it to')
  }

  override refuseCopy(): void {
    throw new ProtocolFault('a COPY that nobody asked for')
  }

  override error(error: DatabaseError): void {
    if (this.#failure !== null) return
    this.#failure = error
    // What fails when all have been answered is what the server does at the end: it is the last one's.
    this.#at = Math.min(this.#at, this.#members.length - 1)
    this.#members[this.#at]!.error(error)
  }

  override mustBeAnswered(): void {
    if (this.#failure === null && this.#at < this.#members.length) throw new ProtocolFault('an end before the answers')
  }

  override ready(): void {
    const members = this.#members
    const failed = this.#failure === null ? members.length : this.#at
    for (let i = 0; i < members.length; i++) {
      if (i <= failed) members[i]!.ready()
      else members[i]!.passedOver()
    }
  }

  override fail(reason: Error): void {
    for (const member of this.#members) member.fail(reason)
  }

  /** Whose answer this is. */
  #current(): StatementExchange {
    const member = this.#members[this.#at]
    if (member === undefined || this.#failure !== null) throw new ProtocolFault('an answer to nothing')
    return member
  }
}
