// Reads of many callers under one Sync: the server answers them with one write instead of one for each, and both sides
// wake up once. That is half of the server's time for a small read. Each still has an answer of its own: one that fails
// fails alone, and those that the server passed over behind it, unexecuted, are sent once more.

import type { StatementExchange, Wire } from './answer.ts'
import { ProtocolFault } from './decode.ts'
import type { Encoder } from './encode.ts'
import type { Prepared } from './prepared.ts'
import { SeveralExchange } from './several.ts'

export class SharedExchange extends SeveralExchange<StatementExchange> {
  constructor(wire: Wire) {
    super(wire, [])
  }

  /** One more, under a name that the server holds. */
  add(member: StatementExchange, prepared: Prepared, out: Encoder): void {
    this.members.push(member)
    this.size++
    member.encodeSteps(out, prepared, member)
  }

  /** Nothing: each member was encoded when it came, and the Sync follows the last. */
  override encode(): void {}

  override parseComplete(): void {
    throw new ProtocolFault('an answer to a Parse that nobody sent')
  }

  override ready(): void {
    const { members } = this
    const failed = this.failure === null ? members.length : this.at
    for (let i = 0; i < members.length; i++) {
      if (i <= failed) members[i]!.ready()
      else members[i]!.passedOver()
    }
  }

  override fail(reason: Error): void {
    for (const member of this.members) member.fail(reason)
  }
}
