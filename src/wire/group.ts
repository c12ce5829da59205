// Several statements sent as one: a single Sync stands behind the last of them, so that the server passes over
// everything behind the first that fails. Their answers come one after the other, and all settle together.

import { NotExecutedError } from '../core/errors.ts'
import { StatementExchange, closeLeaving } from './answer.ts'
import type { Encoder } from './encode.ts'
import { SeveralExchange } from './several.ts'

export class GroupExchange extends SeveralExchange<GroupMember> {
  override encode(out: Encoder): void {
    // What has to leave for one of these is closed with the next statement: in here it could be passed over.
    closeLeaving(this.wire, out)
    for (const member of this.members) member.encodeIn(this, out)
    out.sync()
  }

  override get weight(): number {
    return this.members.reduce((sum, { weight }) => sum + weight, 0)
  }

  override parseComplete(): void {
    this.current().parseComplete()
  }

  override ready(): void {
    const cause = this.failure
    for (const [i, member] of this.members.entries()) {
      if (cause === null || i <= this.at) member.ready()
      else member.neverRan(cause)
    }
  }

  override fail(reason: Error): void {
    const cause = this.failure
    for (const [i, member] of this.members.entries()) {
      // The server said which one failed: what stood behind that was never executed.
      if (cause !== null && i > this.at) member.neverRan(cause)
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
