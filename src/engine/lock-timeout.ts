// The short lock timeout of connections that pipeline writes: what waits for a lock is given up before those behind it
// notice. It is set ahead of the next statement, in the same write and without waiting for an answer, and taken back
// in the same way for whoever has the connection for himself.

import { RESET_FACTS } from '../core/statements.ts'
import type { Asker, Statement } from '../core/types.ts'
import type { PooledSession } from './pooled-session.ts'

/** Long enough for a lock that is held for a moment, short enough for those who stand behind. */
const SHORT = '20ms'
/** It fails with its connection only, and that shows elsewhere. */
const NOBODY: Asker = { resolve: () => undefined, reject: () => undefined }

/** `own`: what the user has set. */
export function setLockTimeout(pooled: PooledSession, whose: 'own' | 'short', own: string): void {
  if (pooled.lockTimeout === whose) return
  pooled.lockTimeout = whose
  pooled.session.ask(statement(whose === 'own' ? own : SHORT), NOBODY)
}

function statement(value: string): Statement {
  return { sql: `set lock_timeout = '${value}'`, parameters: [], facts: RESET_FACTS }
}
