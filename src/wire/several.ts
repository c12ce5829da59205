// Several statements under one Sync, whatever the reason: their answers come one after the other, and the server passes
// over everything behind the first that fails.

import type { DatabaseError } from 'pg'
import { Exchange } from './answer.ts'
import type { StatementExchange, Wire } from './answer.ts'
import { ProtocolFault } from './decode.ts'
import type { Description, Tag } from './decode.ts'

export abstract class SeveralExchange<Member extends StatementExchange> extends Exchange {
  protected readonly members: Member[]
  /** The one whose answer comes; behind the last when all have been answered. */
  protected at = 0
  /** What that one failed with. */
  protected failure: Error | null = null

  constructor(wire: Wire, members: Member[]) {
    super(wire, undefined)
    this.members = members
    this.size = members.length
  }

  /** Whose answer this is. */
  protected current(): Member {
    const member = this.members[this.at]
    if (member === undefined || this.failure !== null) throw new ProtocolFault('an answer to nothing')
    return member
  }

  override description(description: Description | null): void {
    this.current().description(description)
  }

  override row(bytes: Buffer, from: number, to: number): void {
    this.current().row(bytes, from, to)
  }

  override complete(tag: Tag): void {
    this.current().complete(tag)
    this.at++
  }

  override emptyQuery(): void {
    this.current()
    this.at++
  }

  override portalSuspended(): void {
    throw new ProtocolFault('a portal that stops although nobody asked it to')
  }

  override refuseCopy(): void {
    throw new ProtocolFault('a COPY that nobody asked for')
  }

  override error(error: DatabaseError): void {
    if (this.failure !== null) return
    this.failure = error
    // What fails when all have been answered is what the server does at the end: it is the last one's.
    this.at = Math.min(this.at, this.members.length - 1)
    this.members[this.at]!.error(error)
  }

  override mustBeAnswered(): void {
    if (this.failure === null && this.at < this.members.length) throw new ProtocolFault('an end before the answers')
  }
}
