// Several statements sent as one: a single Sync stands behind the last of them, so that the server passes over
// everything behind the first that fails. Their answers come one after the other, and all settle together.

import type { DatabaseError } from 'pg'
import { NotExecutedError } from '../core/errors.ts'
import { Exchange, StatementExchange, closeLeaving } from './answer.ts'
import type { Wire } from './answer.ts'
import { ProtocolFault } from './decode.ts'
import type { Description, Tag } from './decode.ts'
import type { Encoder } from './encode.ts'

export class GroupExchange extends Exchange {
  readonly #members: readonly GroupMember[]
  /** The one whose answer comes; behind the last when all have been answered. */
  #at = 0
  #failure: Error | null = null

  constructor(wire: Wire, members: readonly GroupMember[]) {
    super(wire, undefined)
    this.#members = members
    this.size = members.length
  }

  override encode(out: Encoder): void {
    // What has to leave for one of these is closed with the next statement: in here it could be passed over.
    closeLeaving(this.wire, out)
    for (const member of this.#members) member.encodeIn(this, out)
    out.sync()
  }

  override get weight(): number {
    return this.#members.reduce((sum, { weight }) => sum + weight, 0)
  }

  /** Whose answer this is. */
  #current(): GroupMember {
    const member = this.#members[this.#at]
    if (member === undefined || this.#failure !== null) throw new ProtocolFault('an answer to nothing')
    return member
  }

  override parseComplete(): void {
    this.#current().parseComplete()
  }

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
    const cause = this.#failure
    for (const [i, member] of this.#members.entries()) {
      if (cause === null || i <= this.#at) member.ready()
      else member.neverRan(cause)
    }
  }

  override fail(reason: Error): void {
    const cause = this.#failure
    for (const [i, member] of this.#members.entries()) {
      // The server said which one failed: what stood behind that was never executed.
      if (cause !== null && i > this.#at) member.neverRan(cause)
      else member.fail(reason)
    }
  }
}

/** One of several: it is written without a Sync, has a portal even where it has no parameters, and never runs again. */
export class GroupMember extends StatementExchange {
  encodeIn(group: GroupExchange, out: Encoder): void {
    const { name } = this.statement
    this.encodeSteps(out, name === undefined ? undefined : this.wire.prepared.use(name, group), group)
  }

  override ready(): void {
    const { failure, prepared } = this
    this.settleName()
    if (failure === null) {
      this.answer()
      return
    }
    if (prepared !== undefined) this.wire.learns(failure, prepared)
    this.reject(failure)
  }

  /** One before it has failed. */
  neverRan(cause: Error): void {
    if (this.parses && this.prepared !== undefined) this.wire.prepared.gone(this.prepared)
    const message = 'The statement was not executed, because one before it, sent together with it, failed.'
    this.reject(new NotExecutedError(this.wire.node, message, 'execute', cause))
  }
}
