// What one lease holds at the engine: nothing yet, or one connection of its own until it lets go. The first
// statement decides the node; after that nobody routes, and inside a transaction nobody retries. A first statement
// that leaves nothing behind rides a connection of others; whoever sends a second was promised one of his own.

import type { Permit } from '../core/breaker.ts'
import type { CloseReason, RouteReason } from '../core/cells.ts'
import { mayEndTransaction } from '../core/commit-fate.ts'
import type { TransactionId } from '../core/commit-fate.ts'
import type { Facts, Role, Statement } from '../core/types.ts'
import { outlivesReset } from '../sql/functions.ts'
import type { Node } from './node.ts'
import type { LanePassage } from './passage.ts'
import type { PooledSession } from './pooled-session.ts'
import type { Together } from './together.ts'

/** What others of the same lease wait for. */
export interface Opening {
  /** `refusal`: what the BEGIN itself failed with, and whether it was sent at all. */
  ended(refusal: unknown, sent: boolean): void
}

export class Hold {
  /** What kind of transaction was asked for. */
  transaction: 'none' | 'read-write' | 'read-only' = 'none'
  pooled: PooledSession | null = null
  /** Its statement's place on a connection that others use as well, while it is under way. */
  passage: LanePassage | null = null
  /** It has run something on a connection of others: what was drawn from sequences there, others may have drawn since. */
  rode = false
  /** The lease in whose transaction this one was asked for. */
  within: Hold | null = null
  /** Whose connection it is, or was last. */
  node: Node | null = null
  /** What its node was when the last statement was sent: by the time of the answer it may be something else. */
  sentAs: Role = 'primary'
  /** Why the connection is where it is. */
  because: RouteReason = 'unknown'
  /** A BEGIN that need not be sent before there is something to begin. */
  lazy: Statement | null = null
  /** The BEGIN that its next statement takes along; null when there is none, or it has been sent. */
  begin: Statement | null = null
  /** Settles when it is known what has become of a BEGIN under way. */
  opening: Promise<void> | null = null
  /** What the server refused to begin the transaction with: it never began, and nothing may run in it. */
  refusal: unknown = null
  /** What its next statements are gathered in, to leave in one write. */
  together: Together | null = null
  /** Its statement had to wait for a lock on a connection of others: now it waits on one of its own. */
  alone = false
  /** Statements that have ended so far, well or badly. */
  settled = 0
  /** Statements answered so far. */
  answered = 0
  /** Something it sent may have written and has not ended yet: to these tables, or to `everything` there is. */
  wrote: Set<string> | 'everything' | null = null
  /** Something it sent may have changed definitions. */
  redefined = false
  /** Statements that may have written, of those sent since the transaction began. */
  possibleWrites = 0
  /** What is known of the id of its transaction; null: nothing. */
  transactionId: TransactionId | null = null
  /** The connection was lost under a statement of its transaction. */
  lost = false
  /** A write of its transaction came to a server that is no primary any more. */
  demoted = false
  /** Something of its transaction may have been kept. */
  kept = false
  /** It read from a replica outside a transaction: whatever comes next belongs on the primary. */
  readOnReplica = false
  /** Its caller asks for a replica (`db.onReplica()`) and so vouches for all that he sends. */
  vouched = false
  /** Whatever comes, the primary: an earlier try was sent there, or a read on a replica came first. */
  forcePrimary = false
  /** Streams and the like: statements that may take as long as they take. */
  untimed = false
  /** The connection must not be used again. */
  discard = false
  /** The lease has let go for good: what is still on its way to a connection must not get one. */
  ended = false
  /** What the caller is to be told of the last statement's failure. */
  failure: unknown = undefined

  /** The connection the next statement goes to; null when one must be found first. */
  get bound(): PooledSession | null {
    return this.readOnReplica && !this.vouched && !this.inTransaction ? null : this.pooled
  }

  /** A caller of `db.connection()`: outside a transaction, and not at its first statement. */
  get keepsSession(): boolean {
    return this.transaction === 'none' && this.settled > 0
  }

  /** Whether the server is in a transaction of this hold, or will be by the time of its next statement. */
  get inTransaction(): boolean {
    return this.begin !== null || (this.pooled !== null && this.pooled.session.status !== 'idle')
  }

  take(pooled: PooledSession, node: Node, because: RouteReason, permit: Permit): void {
    pooled.permit = permit
    this.pooled = pooled
    this.node = node
    this.because = because
  }

  /** A place on a connection that others use as well, for one statement. */
  ride(passage: LanePassage, node: Node, because: RouteReason, permit: Permit): void {
    passage.permit = permit
    this.passage = passage
    this.rode = true
    this.node = node
    this.because = because
  }

  /** A statement goes out on the connection: what must be remembered of it once it has ended. */
  sends(facts: Facts): void {
    this.sentAs = this.node!.role
    if (facts.stateful && this.pooled !== null) {
      this.pooled.dirty = true
      this.pooled.unresettable ||= outlivesReset(facts)
    }
    if (facts.writes && this.pooled !== null) this.rode = false
    if (facts.writes) this.possibleWrites++
    // With COMMIT AND CHAIN the next has begun.
    if (this.transactionId !== null && mayEndTransaction(facts)) this.transactionId = null
    if (facts.writes) this.wrote = written(this.wrote, facts)
    // COMMIT PREPARED brings to light what another session wrote.
    if (facts.verb === 'commit' && !this.inTransaction) this.wrote = 'everything'
    if (facts.kind === 'ddl' || facts.kind === 'unknown') this.redefined = true
    if (this.transaction === 'none' && this.sentAs === 'replica') this.readOnReplica = true
  }

  /** A BEGIN has been sent, alone or with others: whoever comes meanwhile waits for what becomes of it. */
  opens(begin: Statement): Opening {
    this.begin = null
    let opened!: () => void
    this.opening = new Promise((resolve) => (opened = resolve))
    return {
      ended: (refusal: unknown, sent: boolean) => {
        this.opening = null
        // Outside of a transaction nothing may run for it: it is to begin yet, or it never will.
        if (refusal !== null && !sent) this.begin = begin
        else if (refusal !== null) this.refusal = refusal
        opened()
      },
    }
  }

  /** Kysely begins a transaction. */
  begins(mode: 'read-write' | 'read-only'): void {
    this.transaction = mode
    this.possibleWrites = 0
    this.transactionId = null
    this.lost = false
    this.demoted = false
    this.kept = false
  }

  /** The transaction is over, or was never begun. */
  leaveTransaction(): void {
    this.transaction = 'none'
    this.possibleWrites = 0
    this.transactionId = null
    this.lazy = null
    this.begin = null
    this.refusal = null
  }

  /** Gives the connection back and takes no other. */
  end(): void {
    this.ended = true
    this.release()
  }

  /** Gives the connection back. Safe to call twice. */
  release(reason?: CloseReason): void {
    const { pooled } = this
    this.readOnReplica = false
    this.transactionId = null
    this.begin = null
    this.refusal = null
    this.together = null
    if (pooled === null) return
    this.pooled = null
    if (pooled.permit !== null) this.node!.giveBackQuery(pooled.permit)
    pooled.permit = null
    this.node!.pool.release(pooled, reason ?? (this.discard ? 'error' : undefined))
    this.discard = false
  }
}

/** A function that nobody knows, or a definition, may reach any table. */
function written(before: Hold['wrote'], { kind, stateful, tablesWritten }: Facts): Hold['wrote'] {
  const anything = kind === 'ddl' || kind === 'unknown' || stateful || tablesWritten.length === 0
  if (anything || before === 'everything') return 'everything'
  return new Set([...(before ?? []), ...tablesWritten])
}
