// With `transactions.resolveCommit`: the id of a transaction is asked for behind whatever may have written in it, in the
// same write, so that it is known when COMMIT is sent. When the answer to COMMIT is lost the server is asked what has
// become of that id, on a connection that stood before: nobody who was not there can know. What is certain and what is
// not is said in core/commit-fate.ts.

import { TransactionId, fateOfCommit, isPlainCommit } from '../core/commit-fate.ts'
import type { CommitFate, CommitSent, TransactionIdentity } from '../core/commit-fate.ts'
import { NotExecutedError } from '../core/errors.ts'
import type { Fault } from '../core/fault.ts'
import { WHOSE_TRANSACTION } from '../core/statements.ts'
import type { Row, Rows, Session } from '../core/types.ts'
import type { Hold } from './hold.ts'
import type { Run } from './run.ts'
import type { Seat } from './seat.ts'
import { tell } from './settle.ts'
import { goesTogether } from './together.ts'
import { askWitnesses } from './witnesses.ts'

/** A server that can tell has told by then: it ends the transaction when it hears that the connection is gone. */
const LONGEST_MS = 5_000
/** Left to a COMMIT that has used up its `queryTimeout`. */
const SHORTEST_MS = 500

/** Whether the question for the id goes out behind this statement. What the server reads alone is asked about later. */
export function asksForId({ engine, hold, statement, wasInTransaction }: Run): boolean {
  if (!engine.config.transactions.resolveCommit || !wasInTransaction) return false
  if (hold.node!.role !== 'primary' || !hold.node!.knowsTransactions) return false
  if (statement.facts.kind === 'transaction' || !goesTogether(statement)) return false
  return hold.transactionId?.wantsAsking(hold.possibleWrites) ?? hold.possibleWrites > 0
}

/** Asks, and settles as `answer` does, when the question has been answered as well: nothing else is then under way. */
export async function answerWithId({ hold }: Run, { session }: Seat, answer: Promise<Rows>): Promise<Rows> {
  const asked = askForId(hold, session)
  try {
    return await answer
  } finally {
    await asked
  }
}

/** Before COMMIT is sent: what there is to know of its transaction is known, or cannot be. False: it is no COMMIT to be asked about. */
export async function knowingId(run: Run, seat: Seat): Promise<boolean> {
  const { engine, hold, statement } = run
  const { session } = seat
  if (hold.together !== null || hold.node!.role !== 'primary' || !isPlainCommit(statement.sql)) return false
  for (let asked = false; ; asked = true) {
    while (hold.transactionId?.pending) await hold.transactionId.pending
    const { transactionId: id, possibleWrites: writes } = hold
    if (asked || writes === 0 || id?.inHand(writes) || !hold.node!.knowsTransactions) return true
    if (session.status !== 'open' || session.lost !== null) return true
    seat.sends(engine.clock.now(), statement.facts.summary, engine.config.queryTimeoutMs)
    await askForId(hold, session)
    seat.settles(engine.clock.now())
  }
}

/** What is known of the transaction in the moment in which its COMMIT is sent. */
export function commitSent({ possibleWrites, transactionId }: Hold, { session }: Seat): CommitSent {
  return { status: session.status, writes: possibleWrites, id: transactionId }
}

/** Never rejects: in a transaction that has failed the question fails as well, and what is not known is not known. */
function askForId(hold: Hold, session: Session): Promise<void> {
  const id = (hold.transactionId ??= new TransactionId())
  const writes = hold.possibleWrites
  id.asks(writes)
  const asked: Promise<void> = session
    .send(WHOSE_TRANSACTION)
    .then(
      ({ rows }) => id.answers(identityIn(rows[0], session), writes),
      () => undefined,
    )
    .finally(() => {
      if (id.pending === asked) id.pending = null
    })
  id.pending = asked
  return asked
}

/** The answer to COMMIT is lost: as if it had come, if the transaction is kept; or what its caller is to be told. */
export async function resolveCommit(run: Run, seat: Seat, fault: Fault): Promise<Rows> {
  const { engine, hold, statement } = run
  const node = hold.node!
  const fate = await fateOf(run, seat)
  if (fate.is === 'kept') {
    // What was written may have become visible only after its position was asked for.
    if (run.commit!.writes > 0) engine.wrote('everything')
    hold.failure = undefined
    hold.kept = true
    hold.answered++
    tell(engine, hold, statement, run, undefined)
    return { rows: [], command: 'COMMIT', count: null }
  }
  tell(engine, hold, statement, run, fault)
  if (fate.is !== 'undone') {
    hold.kept = true
    const hint = `The server could not be asked: ${fate.because}. Ask the database whether the write is there before repeating it.`
    throw Object.assign(hold.failure as Error, { hint })
  }
  const message = `${statement.facts.summary} was not executed on node '${node.name}': ${fate.because}.`
  hold.failure = new NotExecutedError(node.name, message, 'commit', (hold.failure as Error).cause)
  throw hold.failure
}

async function fateOf({ engine, hold, commit, sentAt, timeoutMs }: Run, { session }: Seat): Promise<CommitFate> {
  const { pool, behindPooler } = hold.node!
  const fate = fateOfCommit({ ...commit!, status: session.status }, behindPooler)
  if (fate.is !== 'to be asked') return fate
  const { clock } = engine
  const now = clock.now()
  const leftMs = timeoutMs === 0 ? LONGEST_MS : sentAt + timeoutMs - now
  const deadline = now + Math.min(LONGEST_MS, Math.max(SHORTEST_MS, leftMs))
  return askWitnesses({ clock, pool, identity: fate.identity, sentAt, deadline })
}

/** As text, because a type parser of the user may make of it what it likes. */
function identityIn(row: Row | undefined, session: Session): TransactionIdentity | null {
  const { xid, server, pid } = row ?? {}
  if (typeof xid !== 'string' || !/^[1-9]\d{0,19}$/.test(xid)) return null
  return typeof server === 'string' && Number(pid) === session.pid ? { xid, server } : null
}
