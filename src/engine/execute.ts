// The spine: one statement, top to bottom. It waits for a connection, the server, and a backoff; everything
// else is a synchronous question to core. Each step says why it stands where it stands.

import { NotExecutedError, OutcomeUnknownError, SmartPgError, isSmartPgError, releasedError } from '../core/errors.ts'
import { nextStep } from '../core/retry.ts'
import type { NextStep } from '../core/retry.ts'
import type { Permit } from '../core/breaker.ts'
import type { RouteReason } from '../core/cells.ts'
import type { Facts, Rows, Statement } from '../core/types.ts'
import { pause } from './clock.ts'
import type { Engine } from './engine.ts'
import type { Hold } from './hold.ts'
import type { Node } from './node.ts'
import { PooledSession } from './pooled-session.ts'
import { afterwards, count, tell } from './settle.ts'

/** One statement on its way, for every step that has a part in it. */
interface Run {
  readonly engine: Engine
  readonly hold: Hold
  readonly statement: Statement
  /** Raw SQL of the user. */
  readonly raw: boolean
  readonly signal: AbortSignal | undefined
  readonly startedAt: number
  /** Nodes that could not answer it so far. */
  readonly failedOn: Node[]
  attempt: number
  sentAt: number
  wasInTransaction: boolean
  /** The connection was gone before this statement: its holder had not noticed yet. */
  wasLost: boolean
  /** The replicas have been looked at on its behalf. */
  looked: boolean
  /** What the try before ended with. */
  failure: unknown
}

/** Runs one statement for a lease. Rejects with PostgreSQL's error, with one of ours, or with the signal's reason. */
export async function execute(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  raw: boolean,
  signal?: AbortSignal,
): Promise<Rows> {
  const startedAt = engine.clock.now()
  const run: Run = {
    engine,
    hold,
    statement,
    raw,
    signal,
    startedAt,
    failedOn: [],
    attempt: 0,
    sentAt: startedAt,
    wasInTransaction: false,
    wasLost: false,
    looked: false,
    failure: undefined,
  }
  for (;;) {
    run.attempt++
    // First the connection: its node decides all that follows. A value when there is one, a promise when not.
    const bound = hold.bound ?? bind(run)
    const pooled = bound instanceof PooledSession ? bound : await bound
    // Aborted while waiting: nothing was sent, nothing will be.
    if (signal?.aborted) throw signal.reason
    // A cancel request that is still on its way would hit this statement.
    if (pooled.cancelling !== null) await pooled.cancelling
    beforeSending(run, pooled)
    try {
      // Named as late as possible: the name is about the server's memory, not about the statement.
      const name = engine.nameOf(statement, hold.node!, run.wasInTransaction)
      const rows = await pooled.session.send(name === undefined ? statement : { ...statement, name })
      answered(run, pooled)
      return rows
    } catch (error) {
      const step = failed(run, pooled, error)
      if (step === null) throw hold.failure
      // The backoff last: the connection is back in its pool while nobody needs it.
      if (step.after > 0) await pause(engine.clock, step.after, signal)
    }
  }
}

/** A connection for the lease's first statement, or for the first after a read on a replica. */
function bind(run: Run): PooledSession | Promise<PooledSession> {
  const { engine, hold, signal } = run
  if (signal?.aborted) throw signal.reason
  if (hold.ended) throw releasedError()
  refuseStrangersSequences(run)
  // What follows a read on a replica may be a write, and one session must see both: the primary's.
  if (hold.pooled !== null) {
    hold.release()
    hold.forcePrimary = true
  }
  const choice = engine.cluster.route(hold, run.statement.facts, run.raw, run.failedOn)
  if (choice === null) return look(run)
  const { node, because } = choice
  // The breaker after the route, because it belongs to the server; before the queue, because nobody shall wait
  // for a server that does not answer.
  const permit = node.admitQuery()
  if (permit === null) throw unserved(run, node, node.circuitOpen())
  const pooled = node.pool.take()
  if (pooled === null) return wait(run, node, because, permit)
  hold.take(pooled, node, because, permit)
  return engine.onReserve === undefined ? pooled : reserved(engine, hold, pooled)
}

/** `lastval()` on a connection that others have used answers with their value. */
function refuseStrangersSequences({ hold, statement }: Run): void {
  const { functions, tablesWritten } = statement.facts
  if (functions.length === 0 || tablesWritten.length > 0 || hold.transaction !== 'none') return
  const asks = functions.find((name) => /^(pg_catalog\.)?(currval|lastval)$/.test(name))
  if (asks === undefined || functions.some((name) => name.endsWith('nextval'))) return
  throw new SmartPgError(
    'SMARTPG_INVALID_QUERY',
    `${asks}() as the first statement of a connection would answer with somebody else's value.`,
    { phase: 'send', hint: 'Use RETURNING in the insert, or run both in one db.transaction() or db.connection().' },
  )
}

/** No replica is known to be fit, and the primary may not help out: look at them once, then decide. */
async function look(run: Run): Promise<PooledSession> {
  const { engine, failedOn } = run
  if (run.looked) throw engine.cluster.noReplica(failedOn, run.failure)
  run.looked = true
  await engine.look()
  return bind(run)
}

async function wait(run: Run, node: Node, because: RouteReason, permit: Permit): Promise<PooledSession> {
  const { engine, hold, signal } = run
  let pooled: PooledSession
  try {
    pooled = await node.pool.acquire({ signal })
  } catch (error) {
    node.giveBackQuery(permit)
    // The pool has tried for as long as it may. A replica is not the only one who can answer.
    if (node.role === 'primary' || signal?.aborted) throw unserved(run, node, error)
    run.failedOn.push(node)
    run.failure = error
    return bind(run)
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

/** It never got a connection: counted and told as a failed query all the same. */
function unserved(run: Run, node: Node, error: unknown): unknown {
  const { engine, hold, statement } = run
  const fault = engine.faultOf(error, 'query')
  hold.node = node
  count(engine, hold, statement, run, fault)
  tell(engine, hold, statement, run, fault)
  return error
}

/** The user's hook sets up the session before the lease's first statement, on every lease. */
async function reserved(engine: Engine, hold: Hold, pooled: PooledSession): Promise<PooledSession> {
  try {
    await engine.onReserve!(engine.hookConnection(pooled.session))
    return pooled
  } catch (error) {
    hold.release('error')
    throw error
  }
}

function beforeSending(run: Run, pooled: PooledSession): void {
  const { engine, hold, statement } = run
  const { facts } = statement
  const timed = engine.config.queryTimeoutMs > 0 && !hold.untimed && !hold.keepsSession && !takesItsTime(facts)
  run.sentAt = engine.clock.now()
  run.wasLost = pooled.session.lost !== null
  run.wasInTransaction = pooled.session.status !== 'idle'
  pooled.sends(run.sentAt, facts.summary, timed)
  hold.sends(facts)
}

/** DDL, COPY, VACUUM, CALL, and the lock that migrations wait for: as long as they take is long enough. */
function takesItsTime({ kind, verb, functions }: Facts): boolean {
  if (kind === 'ddl' || verb === 'copy') return true
  if (kind === 'unknown') return verb !== 'select' && verb !== 'with'
  return functions.some((name) => name.startsWith('pg_advisory'))
}

function answered(run: Run, pooled: PooledSession): void {
  const { engine, hold, statement } = run
  hold.answered++
  afterwards(engine, hold, pooled)
  hold.node!.settleQuery(pooled.permit, 'success')
  pooled.permit = null
  count(engine, hold, statement, run, undefined)
  tell(engine, hold, statement, run, undefined)
}

/** Settles what failed; null: throw `hold.failure`. Otherwise the connection is given back and the next try may go. */
function failed(run: Run, pooled: PooledSession, error: unknown): (NextStep & { do: 'retry' }) | null {
  const { engine, hold, statement, attempt, wasInTransaction, failedOn } = run
  const node = hold.node!
  const cause = pooled.timedOut ? timedOut(run, error) : error
  const fault = engine.faultOf(cause, 'query')
  afterwards(engine, hold, pooled)
  const sent = !run.wasLost && !(isSmartPgError(error) && error.phase === 'send')
  // What was never sent says nothing about the server.
  node.settleQuery(pooled.permit, sent ? fault.breaker : 'ignore', error)
  pooled.permit = null
  count(engine, hold, statement, run, fault)
  if (fault.dropsConnection) hold.discard = true
  const { attempts, baseMs, maxMs } = engine.config.retry
  const now = engine.clock.now()
  const step = nextStep(
    {
      fault,
      sent,
      facts: statement.facts,
      inTransaction: wasInTransaction || hold.answered > 0,
      committing: wasInTransaction && statement.facts.verb === 'commit',
      onReplica: node.role === 'replica',
      triedElsewhere: failedOn.length > 0,
      attempt,
      attempts,
      baseMs,
      maxMs,
      budgetLeft: node.retries.left(now),
    },
    engine.chance,
  )
  if (step.do === 'fail') {
    if (!node.retries.left(now) && fault.retry !== 'never') node.cells.retries[fault.class].refused++
    else if (attempt > 1) node.cells.retries[fault.class].failed++
    tell(engine, hold, statement, run, fault)
    hold.failure = meaning(run, cause, step.outcome)
    return null
  }
  node.retries.take(now)
  node.cells.retries[fault.class].ok++
  if (step.where === 'primary' && fault.class === 'read-only') node.cells.reruns++
  engine.listeners.emit('retry', { node: node.name, attempt, fault: fault.class, because: step.because })
  failedOn.push(node)
  run.failure = cause
  hold.release()
  hold.forcePrimary ||= step.where === 'primary'
  return step
}

function timedOut({ engine, hold, statement }: Run, cause: unknown): SmartPgError {
  const { name } = hold.node!
  return new SmartPgError(
    'SMARTPG_QUERY_TIMEOUT',
    `No answer within queryTimeout (${engine.config.queryTimeoutMs} ms): ${statement.facts.summary} on node '${name}'.`,
    { node: name, phase: 'execute', cause },
  )
}

/** What the caller is told: the server's own error, unless what happened to the statement is not in it. */
function meaning({ hold, statement, attempt }: Run, error: unknown, outcome: 'not-executed' | 'unknown' | 'as-is') {
  if (outcome === 'as-is') return error
  const { name } = hold.node!
  const phase = statement.facts.verb === 'commit' ? 'commit' : 'execute'
  if (outcome === 'unknown') return new OutcomeUnknownError(name, phase, error)
  const why = error instanceof Error ? error.message : String(error)
  const message = `${statement.facts.summary} was not executed on node '${name}': ${why}`
  return new NotExecutedError(name, message, phase, error, attempt)
}
