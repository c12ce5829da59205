// Rows in chunks, through a portal of its own. Outside a transaction it runs in one of its own, because a
// portal does not outlive the exchange that ends with Sync otherwise; it closes on every path.

import { BEGIN_FACTS } from '../core/statements.ts'
import type { Row, Statement } from '../core/types.ts'
import type { Engine } from './engine.ts'
import { execute } from './execute.ts'
import type { Hold } from './hold.ts'

const BEGIN_READ: Statement = { sql: 'begin read only', parameters: [], facts: BEGIN_FACTS }
const BEGIN_WRITE: Statement = { sql: 'begin', parameters: [], facts: BEGIN_FACTS }
const COMMIT: Statement = {
  sql: 'commit',
  parameters: [],
  facts: { ...BEGIN_FACTS, verb: 'commit', summary: 'COMMIT' },
}

/** Yields at most `chunkSize` rows at a time. */
export async function* stream(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  raw: boolean,
  chunkSize: number,
  signal?: AbortSignal,
): AsyncGenerator<Row[]> {
  const own = hold.transaction === 'none' && !hold.inTransaction
  const { untimed } = hold
  hold.untimed = true
  if (own) await begin(engine, hold, statement, raw, signal)
  const { session } = hold.pooled!
  let finished = false
  const portal = session.openPortal(statement)
  try {
    while (true) {
      signal?.throwIfAborted()
      const rows = await portal.read(chunkSize)
      if (rows.length > 0) yield rows
      if (rows.length < chunkSize) break
    }
    finished = true
  } finally {
    await portal.close().catch(() => undefined)
    hold.untimed = untimed
    if (own) await end(engine, hold, finished)
  }
}

async function begin(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  raw: boolean,
  signal?: AbortSignal,
): Promise<void> {
  const { facts } = statement
  // Raw and unknown statements may write; a read only transaction would refuse them.
  const readOnly = facts.safeOnReplica && !raw
  hold.transaction = readOnly && !hold.forcePrimary ? 'read-only' : 'read-write'
  if (hold.readOnReplica) hold.transaction = 'read-write'
  try {
    await execute(engine, hold, readOnly ? BEGIN_READ : BEGIN_WRITE, true, signal)
  } finally {
    hold.transaction = 'none'
  }
}

/** COMMIT also when the reader stops early: a statement that writes has run to its end by then. */
async function end(engine: Engine, hold: Hold, finished: boolean): Promise<void> {
  const session = hold.pooled?.session
  if (session === undefined || session.lost !== null || session.status === 'idle') return
  const committing = execute(engine, hold, COMMIT, true)
  if (finished) await committing
  else await committing.catch(() => undefined)
}
