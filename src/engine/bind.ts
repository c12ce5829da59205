// Where a statement is sent from, found once per lease: the node by route, the leave of its circuit, and then a place on
// a connection that others use, or a connection of the lease's own.

import type { Permit } from '../core/breaker.ts'
import type { RouteReason } from '../core/cells.ts'
import { AcquireTimeoutError, SmartPgError, releasedError } from '../core/errors.ts'
import { mayShare } from '../core/sharing.ts'
import type { Role } from '../core/types.ts'
import { within } from './clock.ts'
import type { Engine } from './engine.ts'
import type { Hold } from './hold.ts'
import { holderAround } from './holder.ts'
import type { Node } from './node.ts'
import type { LanePassage } from './passage.ts'
import type { PooledSession } from './pooled-session.ts'
import { hasWaited } from './run.ts'
import type { Run } from './run.ts'
import type { Seat } from './seat.ts'
import { count, tell } from './settle.ts'

/** A connection for the lease's first statement, or for the first after a read on a replica. */
export function bind(run: Run): Seat | Promise<Seat> {
  const { engine, hold, signal } = run
  if (signal?.aborted) throw signal.reason
  if (hold.ended) throw releasedError()
  // What follows a read on a replica may be a write, and one session must see both: the primary's. Whoever sends a
  // second statement was promised one session, wherever the first one rode.
  if ((hold.readOnReplica || hold.settled > 0) && !hold.vouched) hold.forcePrimary = true
  if (hold.readOnReplica) hold.release()
  const choice = engine.cluster.route({
    statement: run.statement,
    transaction: hold.transaction,
    forcePrimary: hold.forcePrimary,
    wish: run.wish,
    session: run.session,
    failedOn: run.failedOn,
  })
  if (choice === null) return look(run)
  const { node, because } = choice
  const wait = before(run, node, because)
  if (wait !== null) return wait
  node.cells.routed[node.role][because]++
  // The breaker after the route, because it belongs to the server; before the queue, because nobody shall wait
  // for a server that does not answer.
  const permit = node.admitQuery(engine.clock.now())
  if (permit === null) {
    hold.because = because
    throw unserved(run, node, node.circuitOpen())
  }
  if (rides(run, node)) {
    const passage = node.pool.lane(run.statement.facts)
    if (passage === null) return waitForLane(run, node, because, permit)
    hold.ride(passage, node, because, permit)
    return passage
  }
  const pooled = node.pool.take()
  if (pooled === null) return waitForOwn(run, node, because, permit)
  hold.take(pooled, node, because, permit)
  return engine.onReserve === undefined ? pooled : reserved(engine, hold, pooled)
}

/** The first statement of a lease that leaves nothing behind shares a connection; a second was promised one session. */
function rides({ engine, hold, session, statement }: Run, { pool }: Node): boolean {
  if (!pool.sharing || engine.onReserve !== undefined || hold.alone) return false
  // What tells where it stands in the log is followed by a question of its own.
  if (session !== undefined && statement.facts.writes) return false
  // What keeps something although it fails (CREATE INDEX CONCURRENTLY) must not be given up for a lock.
  if (pool.pipelineWrites && statement.facts.kind === 'ddl') return false
  return hold.transaction === 'none' && hold.settled === 0 && !hold.untimed && mayShare(statement.facts)
}

/** `lastval()` on a connection that others have used answers with their value. */
export function refuseStrangersSequences({ hold, statement }: Run): void {
  const { functions, tablesWritten } = statement.facts
  if (functions.length === 0 || hold.transaction !== 'none') return
  // What is inserted in the same statement is asked for its own value, as long as nothing was inserted elsewhere before.
  if (tablesWritten.length > 0 && !hold.rode) return
  if (hold.pooled !== null && !hold.rode) return
  const asks = functions.find((name) => /^(pg_catalog\.)?(currval|lastval)$/.test(name))
  if (asks === undefined || functions.some((name) => name.endsWith('nextval'))) return
  throw new SmartPgError(
    'SMARTPG_INVALID_QUERY',
    `${asks}() would answer with somebody else's value: what was inserted before went over a connection that others use.`,
    { phase: 'send', hint: 'Use RETURNING in the insert, or run both in one db.transaction().' },
  )
}

/** A replica that is asked at once has mostly replayed by then what was written last (p99 2.2 ms on one machine). */
const REPLAY_MS = 5

/** What there is to wait for before a connection is; null: nothing, as mostly. */
function before(run: Run, node: Node, because: RouteReason): Promise<Seat> | null {
  const { engine, session, signal } = run
  if (node.role !== 'primary') return null
  // A token from another process is mostly older than the last look at the replicas.
  if (because === 'own-write' && !run.awaitedReplay && session !== undefined && session.token !== null) {
    run.awaitedReplay = true
    return engine.replayed(REPLAY_MS).then(() => bind(run))
  }
  // What was the primary may have come back beside its successor: a write that it acknowledged would be lost.
  if (!run.madeSure && !run.statement.facts.safeOnReplica && engine.unsureOf(node)) {
    run.madeSure = true
    return engine.makeSure().then(() => bind(run))
  }
  if (engine.roles.vacant) return waitForPrimary(run)
  if ((because !== 'fallback' && because !== 'stale-replicas') || run.helped) return null
  const room = engine.fallbacks.enter(node.name, leftToWait(run, node), signal)
  run.helped = room === null
  if (room === null) return null
  const entered = (): Seat | Promise<Seat> => {
    run.helped = true
    hasWaited(run, engine.clock.now())
    return bind(run)
  }
  return room.then(entered, (error: unknown) => {
    throw unserved(run, node, error)
  })
}

/** No server is the primary: one will be, or nobody can help. */
async function waitForPrimary(run: Run): Promise<Seat> {
  const { clock, config, roles } = run.engine
  const since = clock.now()
  run.engine.suspect()
  const found = await roles.primaryFound(config.failover.timeoutMs - run.searchedMs, run.signal)
  run.searchedMs += clock.now() - since
  // A time of its own: the wait for a connection begins when there is somebody to connect to.
  run.triedAt = clock.now()
  if (found) return bind(run)
  run.hold.because = 'fallback'
  throw unserved(run, roles.primary, roles.noPrimary(run.searchedMs, run.failure))
}

/** No replica is known to be fit, and the primary may not help out: look at them once, then decide. */
async function look(run: Run): Promise<Seat> {
  const { engine, failedOn } = run
  if (run.looked) throw engine.cluster.noReplica(failedOn, run.failure)
  run.looked = true
  await engine.look()
  return bind(run)
}

async function waitForOwn(run: Run, node: Node, because: RouteReason, permit: Permit): Promise<Seat> {
  const { engine, hold, signal } = run
  const was = node.role
  let pooled: PooledSession
  try {
    pooled = await node.pool.acquire({ signal, timeoutMs: leftToWait(run, node) })
  } catch (error) {
    return elsewhere(run, node, was, permit, error)
  }
  if (hold.ended) {
    // Nobody awaited this statement, and the callback it stood in is over: nobody would give the connection back.
    node.giveBackQuery(permit)
    node.pool.release(pooled)
    throw releasedError()
  }
  hold.take(pooled, node, because, permit)
  return engine.onReserve === undefined ? pooled : reserved(engine, hold, pooled)
}

async function waitForLane(run: Run, node: Node, because: RouteReason, permit: Permit): Promise<Seat> {
  const { hold, signal, statement } = run
  const was = node.role
  let passage: LanePassage
  try {
    passage = await node.pool.waitForLane(statement.facts, { signal, timeoutMs: leftToWait(run, node) })
  } catch (error) {
    return elsewhere(run, node, was, permit, error)
  }
  if (hold.ended) {
    node.giveBackQuery(permit)
    passage.leave()
    throw releasedError()
  }
  hold.ride(passage, node, because, permit)
  return passage
}

/** All the waits of one statement together take no longer than `acquireTimeout`, however often it is tried. */
function leftToWait({ waitedMs }: Run, { pool }: Node): number {
  return Math.max(1, pool.config.acquireTimeoutMs - waitedMs)
}

/** The pool has tried for as long as it may. A replica is not the only one who can answer, nor is who was primary. */
function elsewhere(run: Run, node: Node, was: Role, permit: Permit, error: unknown): Seat | Promise<Seat> {
  node.giveBackQuery(permit)
  if (error instanceof AcquireTimeoutError && holdsAround(run, node)) error.waitsForItself()
  if ((was === 'primary' && node.role === was) || run.signal?.aborted) throw unserved(run, node, error)
  run.failedOn.push(node)
  run.failure = error
  hasWaited(run, run.engine.clock.now())
  return bind(run)
}

/** Whether the caller holds a connection to the node already, by the transaction he stands in. */
function holdsAround({ hold }: Run, node: Node): boolean {
  for (let around = holderAround(); around !== null; around = around.within) {
    if (around !== hold && around.node === node && around.pooled !== null) return true
  }
  return false
}

/** It never got a connection: counted and told as a failed query all the same. */
function unserved(run: Run, node: Node, error: unknown): unknown {
  const { engine, hold, statement } = run
  const fault = engine.faultOf(error, 'query')
  hold.node = node
  count(hold, statement, run, fault, engine.clock.now())
  tell(engine, hold, statement, run, fault)
  return error
}

/** The user's hook sets up the session before the lease's first statement, on every lease. */
async function reserved(engine: Engine, hold: Hold, pooled: PooledSession): Promise<PooledSession> {
  try {
    const { acquireTimeoutMs } = hold.node!.pool.config
    const late = (): Error => hookTooLate(hold.node!, acquireTimeoutMs)
    const work = Promise.resolve(engine.onReserve!(engine.hookConnection(pooled.session)))
    await within(engine.clock, acquireTimeoutMs, work, late)
    // What it sets is what shall be, for every lease anew.
    pooled.session.keepSettings()
    return pooled
  } catch (error) {
    hold.release('error')
    throw error
  }
}

function hookTooLate({ name }: Node, timeoutMs: number): SmartPgError {
  return new SmartPgError(
    'SMARTPG_QUERY_TIMEOUT',
    `onReserveConnection did not settle within pool.acquireTimeout (${timeoutMs} ms) on node '${name}'.`,
    {
      node: name,
      phase: 'acquire',
      retryable: true,
      hint: 'Nothing of the statement was sent. What does the hook wait for?',
    },
  )
}
