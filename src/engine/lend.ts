// A pooled connection lent to the user as a client of its own. It keeps its place in the pool, so that the node never
// has more than `max`, and it is closed afterwards, because nobody knows what was done on it.

import { PING } from '../core/statements.ts'
import type { Session } from '../core/types.ts'
import { within } from './clock.ts'
import type { Engine } from './engine.ts'
import type { Node } from './node.ts'
import type { PooledSession } from './pooled-session.ts'

/** What the wire makes of a session that is lent. */
export interface Lent {
  readonly client: unknown
  /** Whether the server does something for the client now. */
  readonly busy: boolean
}

export interface Loan<T> {
  readonly node: Node
  readonly lend: (session: Session) => Lent
  readonly use: (client: unknown) => T | Promise<T>
  /** Leaves the queue when aborted; what `use` does is its own affair. */
  readonly signal: AbortSignal | undefined
}

/** What was sent ahead is one round trip. */
const ANSWER_MS = 5_000
/** A cancel request is one connect and one message; after the goodbye the server closes the socket at once. */
const PARTING_MS = 2_000

/** Settles as `use` does, when the connection is closed. Rejects like any acquire when there is none to be had. */
export async function lendTo<T>(engine: Engine, { node, lend, use, signal }: Loan<T>): Promise<T> {
  const pooled = await acquire(engine, node, signal)
  const { role } = node
  // Who looks for the holder of a connection, or is told of a leak, reads this.
  pooled.doing = 'withClient'
  let lent: Lent | null = null
  try {
    if (engine.onReserve !== undefined) await engine.onReserve(engine.hookConnection(pooled.session))
    await answered(engine, pooled.session)
    lent = lend(pooled.session)
    return await use(lent.client)
  } finally {
    await part(pooled.session, lent)
    node.pool.release(pooled, 'lifetime')
    // Nobody has read what was sent.
    if (role === 'primary') {
      engine.wrote('everything')
      engine.catalogChanged()
    }
  }
}

async function acquire({ clock }: Engine, node: Node, signal: AbortSignal | undefined): Promise<PooledSession> {
  // Nobody shall wait for a server that does not answer.
  const permit = node.admitQuery(clock.now())
  if (permit === null) throw node.circuitOpen()
  try {
    return await node.pool.acquire({ signal })
  } finally {
    // What a client of pg's own is answered says nothing to the circuit.
    node.giveBackQuery(permit)
  }
}

/** What the pool has sent ahead without waiting must not be answered to the client. */
async function answered({ clock }: Engine, session: Session): Promise<void> {
  if (session.unanswered === 0) return
  await within(clock, ANSWER_MS, session.send(PING), () => new Error(`no answer within ${ANSWER_MS} ms`))
}

async function part(session: Session, lent: Lent | null): Promise<void> {
  if (lent === null || !lent.busy) {
    await session.close(PARTING_MS)
    return
  }
  const { lost } = session
  // The socket first, so that nothing that waits in the client follows what is cancelled; and without a cancel the
  // server would run it to its end.
  session.destroy(new Error('withClient: the callback ended while a query was still running'))
  const cancelled = session.cancel(PARTING_MS).catch(() => undefined)
  // A server that is gone keeps nobody waiting.
  if (lost === null) await cancelled
}
