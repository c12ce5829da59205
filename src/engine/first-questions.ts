// What every new connection is asked before anybody uses it: which server this is, whether something in between answers for
// it, and what it knows of transactions and settings.

import { ConfigError } from '../core/errors.ts'
import { IDENTITY, identityOf } from '../core/identity.ts'
import { LOCK_TIMEOUT, WHOSE_TRANSACTION, WHO_ANSWERS } from '../core/statements.ts'
import type { Session } from '../core/types.ts'
import type { Node } from './node.ts'

/** A server that cannot be asked is never taken for one that was. */
export async function identify(session: Session): Promise<ReturnType<typeof identityOf> | null> {
  try {
    const { rows } = await session.send(IDENTITY)
    return identityOf(rows[0] ?? {})
  } catch (error) {
    if (session.lost !== null) throw error
    return null
  }
}

export function anotherCluster({ name }: Node, received: string, ours: string): ConfigError {
  const expected = `a server of this cluster (${ours})`
  return new ConfigError([
    { path: name, received: `a server of another one (system_identifier ${received})`, expected },
  ])
}

/** What the user's own settings make of lock_timeout. A type parser of his may make of it what it likes. */
export async function lockTimeoutOf(session: Session): Promise<string | null> {
  const { rows } = await session.send(LOCK_TIMEOUT)
  const value = rows[0]?.['lock_timeout']
  return typeof value === 'string' && /^\d+[a-z]*$/.test(value) ? value : null
}

/** A server that cannot be asked would refuse in the middle of a transaction, and that would be its end. */
export async function knowsTransactions(session: Session): Promise<boolean> {
  try {
    await session.send(WHOSE_TRANSACTION)
    return true
  } catch (error) {
    if (session.lost !== null) throw error
    return false
  }
}

/** Whether something between us and the server answers: a pooler makes up the backend's number that it gives at connect. */
export async function answersForAnother(session: Session): Promise<boolean | undefined> {
  try {
    const { rows } = await session.send(WHO_ANSWERS)
    return Number(rows[0]?.['pid'] ?? session.pid) !== session.pid
  } catch (error) {
    // A type parser of the user may throw at anything; a connection that is gone says so by itself.
    if (session.lost !== null) throw error
    return undefined
  }
}
