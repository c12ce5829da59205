// BEGIN rides along: what Kysely takes for a transaction begun is a connection in hand, and the message waits for
// the first statement. Until it is known what has become of it nothing else of the lease is sent, because outside of a
// transaction that never began nothing may run for it.

import { NotExecutedError, neverRan } from '../core/errors.ts'
import { BEGIN_FACTS } from '../core/statements.ts'
import type { Rows, Statement } from '../core/types.ts'
import { named } from './run.ts'
import type { Run } from './run.ts'
import type { Seat } from './seat.ts'
import { goesTogether } from './together.ts'

const NOTHING: Rows = { rows: [], command: null, count: null }
const ROLLBACK: Statement = {
  sql: 'rollback',
  parameters: [],
  facts: { ...BEGIN_FACTS, verb: 'rollback', summary: 'ROLLBACK' },
}

/** The answer to a BEGIN that waits for the first statement, and to the end of a transaction that never began. */
export function savedRoundTrip({ hold, statement }: Run): Rows | null {
  if (statement === hold.lazy) {
    hold.lazy = null
    hold.begin = statement
    return { rows: [], command: 'BEGIN', count: null }
  }
  if (hold.begin === null || statement.facts.kind !== 'transaction' || hold.together !== null) return null
  if (statement.sql !== 'commit' && statement.sql !== 'rollback') return null
  hold.begin = null
  return { rows: [], command: statement.sql.toUpperCase(), count: null }
}

/** Nothing runs in a transaction that never began: the reason is told again, and its COMMIT is a ROLLBACK. */
export function neverBegan({ hold, statement: { sql, facts } }: Run): Rows | null {
  if (hold.refusal === null) return null
  if (facts.kind !== 'transaction' || (sql !== 'commit' && sql !== 'rollback')) throw hold.refusal
  hold.refusal = null
  return { rows: [], command: 'ROLLBACK', count: null }
}

/** BEGIN and the first statement in one write and under one Sync: where the one fails the other is not executed. */
export async function beginWith(run: Run, seat: Seat, begin: Statement, statement: Statement): Promise<Rows> {
  run.opening ??= run.hold.opens(begin)
  run.hold.begin = null
  let begun: Promise<Rows> = Promise.resolve(NOTHING)
  try {
    const pair = goesTogether(statement) ? seat.session.sendTogether([begin, statement]) : null
    begun = pair?.[0] ?? seat.session.send(begin)
    begun.catch(() => undefined)
    const answer = pair?.[1] ?? begun.then(() => seat.send(statement))
    return await answer.catch((error: unknown) => healed(run, seat, begin, statement, error))
  } catch (error) {
    const refusal = await begun.then(
      () => null,
      (reason: unknown) => reason,
    )
    // A statement that cannot be sent holds back the BEGIN with it, and is not what the BEGIN failed for.
    throw error instanceof NotExecutedError && refusal !== null ? refusal : error
  } finally {
    const refusal = await begun.then(
      () => null,
      (reason: unknown) => reason,
    )
    run.refusal = seat.session.lost === null ? refusal : null
    run.beginSent = !neverRan(refusal)
  }
}

/** The transaction is as new: after a stale name of ours it begins again, once, and the statement is prepared anew. */
async function healed(run: Run, seat: Seat, begin: Statement, { name }: Statement, error: unknown): Promise<Rows> {
  const { engine } = run
  const { lost, status } = seat.session
  const stale = name !== undefined && engine.faultOf(error, 'query').class === 'prepared-statement'
  if (!stale || run.healed || lost !== null || status === 'idle') throw error
  run.healed = true
  await seat.session.send(ROLLBACK)
  const [begun, answer] = seat.session.sendTogether([begin, named(run)])
  begun!.catch(() => undefined)
  return answer!
}
