// What makes a connection fit for its next user: it answers, it is in no transaction, and its session state is
// as new. Every exchange has a deadline; what does not meet it is thrown away by the caller.

import { PING, RESET_FACTS } from '../core/statements.ts'
import type { Clock, Session, Statement } from '../core/types.ts'
import { within } from './clock.ts'
import type { PooledSession } from './pooled-session.ts'

/** The answer to a ping takes one round trip; one that takes longer than this is no answer. */
const PING_MS = 300
/** Waiting for what still runs, rolling back, resetting: each. */
const CLEANING_MS = 5_000

const ROLLBACK: Statement = { sql: 'rollback', parameters: [], facts: RESET_FACTS }
// Settings, role, temporary tables, advisory locks, LISTEN, cursors, statements prepared by SQL, sequences' state.
const RESET: Statement = { sql: 'discard all', parameters: [], facts: RESET_FACTS }

/** Settles when the connection has answered. */
export async function ping(clock: Clock, session: Session): Promise<void> {
  await within(clock, PING_MS, session.send(PING), () => new Error(`no answer to a ping within ${PING_MS} ms`))
}

/** Whether a lease left something behind that the next one must not meet. */
export function needsCleaning({ session, dirty, cancelling }: PooledSession): boolean {
  return dirty || session.drifted || cancelling !== null || session.status !== 'idle' || session.unanswered > 0
}

/**
 * Undoes what a lease left behind; `restore` sets up the new session as at its opening. Where that cannot be done `false`
 * asks to close it. Rejects when the server does not comply in time.
 */
export async function clean(
  clock: Clock,
  pooled: PooledSession,
  restore: ((session: Session) => Promise<void>) | null,
): Promise<boolean> {
  const { session } = pooled
  const inTime = <T>(work: Promise<T>): Promise<T> =>
    within(clock, CLEANING_MS, work, () => new Error(`a used connection was not clean within ${CLEANING_MS} ms`))
  // It would hit the next caller's statement.
  if (pooled.cancelling !== null) await inTime(pooled.cancelling)
  // Sent by a lease that is gone, so nobody waits for the answer; its failure is nobody's either.
  if (session.unanswered > 0) await inTime(session.send(PING).catch(() => undefined))
  if (session.status !== 'idle') await inTime(session.send(ROLLBACK))
  if (pooled.dirty || session.drifted) {
    if (restore === null || pooled.unresettable) return false
    await inTime(session.send(RESET))
    session.forgetStatements()
    pooled.lockTimeout = 'own'
    await inTime(restore(session))
    pooled.dirty = false
    session.keepSettings()
  }
  if (session.status !== 'idle') throw new Error('a used connection is still in a transaction after ROLLBACK')
  return true
}
