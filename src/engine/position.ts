// Within `dialect.session` a write tells where in the log it stands: the question rides behind it in the same write, on
// the same connection, so that it costs no round trip and is asked after the commit. Asked before, or of
// `pg_current_wal_lsn()`, the answer would lie below the write where the server does not wait for its disk.

import { POSITION, positionOf } from '../core/token.ts'
import type { Rows } from '../core/types.ts'
import type { Run } from './run.ts'
import type { Seat } from './seat.ts'

/** Whether something that was written in a session is kept when this statement has ended. */
export function asksForPosition({ engine, hold, session, statement, wasInTransaction }: Run): boolean {
  if (session === undefined || engine.config.routing.readYourWrites === 'off') return false
  if (hold.sentAs !== 'primary' || hold.passage !== null) return false
  const { facts } = statement
  if (hold.together !== null && !hold.together.full) return false
  if (facts.kind === 'transaction') return hold.wrote !== null && (facts.verb === 'commit' || facts.verb === 'end')
  return facts.writes && !wasInTransaction
}

/** Settles as `answer` does, when the question has been answered as well. */
export async function answerWithPosition(
  { engine, session }: Run,
  { session: connection }: Seat,
  answer: Promise<Rows>,
): Promise<Rows> {
  const asked = connection.send(POSITION).then(
    ({ rows }) => positionOf(rows[0] ?? {}),
    () => null,
  )
  let failed = false
  try {
    return await answer
  } catch (error) {
    failed = true
    throw error
  } finally {
    const token = await asked
    // What was refused left nothing, and where that is not certain nobody knows where it stands.
    if (token !== null) session!.wrote(token)
    else if (!failed || connection.lost !== null) {
      session!.wrote(null)
      engine.suspect()
    }
  }
}
