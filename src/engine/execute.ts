// The spine: one statement, top to bottom. It waits for a connection, the server, and a backoff; everything
// else is a synchronous question to core. Each step says why it stands where it stands.

import { mayCommit } from '../core/commit-fate.ts'
import { cannotTravel, mayTravel } from '../core/hint.ts'
import type { Wish } from '../core/route.ts'
import { BEGIN_FACTS } from '../core/statements.ts'
import type { Facts, Rows, Statement } from '../core/types.ts'
import { beginWith, neverBegan, savedRoundTrip } from './begin.ts'
import { bind, refuseStrangersSequences } from './bind.ts'
import { pause } from './clock.ts'
import type { Engine } from './engine.ts'
import { failed, waitsAlone } from './failure.ts'
import type { Hold } from './hold.ts'
import { answerWithId, asksForId, commitSent, knowingId, resolveCommit } from './resolve-commit.ts'
import { answerWithPosition, asksForPosition } from './position.ts'
import { nextPrimary } from './next-primary.ts'
import { hasWaited, named } from './run.ts'
import type { Run } from './run.ts'
import type { Seat } from './seat.ts'
import { afterwards, count, tell, watchPlan } from './settle.ts'

/** What its caller says of a statement beside its text. */
export interface Asked {
  readonly signal?: AbortSignal | undefined
  /** How long it may take, milliseconds; 0: as long as it takes. Default: as it is configured. */
  readonly timeoutMs?: number | undefined
  readonly wish?: Wish | undefined
}

/** Runs one statement for a lease. Rejects with PostgreSQL's error, with one of ours, or with the signal's reason. */
export async function execute(
  engine: Engine,
  hold: Hold,
  statement: Statement,
  { signal, timeoutMs, wish }: Asked = {},
): Promise<Rows> {
  const startedAt = engine.clock.now()
  const run: Run = {
    engine,
    hold,
    statement,
    wish,
    session: engine.sessions.current,
    signal,
    ownTimeoutMs: timeoutMs,
    startedAt,
    failedOn: [],
    attempt: 0,
    waitedMs: 0,
    triedAt: startedAt,
    sentAt: startedAt,
    wasInTransaction: false,
    begin: null,
    opening: null,
    refusal: null,
    beginSent: true,
    healed: false,
    alone: true,
    timeoutMs: 0,
    exempt: false,
    wasLost: false,
    looked: false,
    searchedMs: 0,
    madeSure: false,
    awaitedReplay: false,
    helped: false,
    demotions: 0,
    demoted: false,
    saidStandby: false,
    commit: null,
    untold: null,
    failure: undefined,
  }
  hold.vouched = wish?.target === 'replica' && hold.transaction === 'none'
  if (hold.vouched && !mayTravel(statement.facts)) throw cannotTravel(statement.facts)
  try {
    for (;;) {
      run.attempt++
      refuseStrangersSequences(run)
      // What comes while BEGIN is under way belongs into the transaction, whatever becomes of it.
      while (hold.opening !== null && hold.together === null && run.opening === null) await hold.opening
      // First the connection: its node decides all that follows. A value when there is one, a promise when not.
      const bound = hold.bound ?? bind(run)
      const seat = bound instanceof Promise ? await bound : bound
      // Aborted while waiting: nothing was sent, nothing will be.
      if (signal?.aborted) throw unsent(hold, signal)
      // A cancel request that is still on its way would hit this statement.
      if (seat.cancelling !== null) await seat.cancelling
      // Asked for only now, when the connection is there and the circuit has been asked: a BEGIN may wait for its statement.
      const unsaid = savedRoundTrip(run) ?? neverBegan(run)
      if (unsaid !== null) return unsaid
      // Whose COMMIT it is must be known before it is sent: afterwards nobody can be asked.
      if (statement.facts.kind === 'transaction' && engine.config.transactions.resolveCommit) {
        run.commit = (await knowingId(run, seat)) ? commitSent(hold, seat) : null
      }
      beforeSending(run, seat)
      try {
        const rows = await deliver(run, seat)
        answered(run, seat, rows)
        return rows
      } catch (error) {
        hasWaited(run, run.sentAt)
        if (waitsAlone(run, error)) {
          run.triedAt = engine.clock.now()
          continue
        }
        const step = failed(run, seat, error)
        if (run.untold !== null) return await resolveCommit(run, seat, run.untold)
        if (run.demoted) await nextPrimary(run, error)
        if (step === null) throw hold.failure
        // The backoff last: the connection is back in its pool while nobody needs it.
        if (step.after > 0) await pause(engine.clock, step.after, signal)
        run.triedAt = engine.clock.now()
      }
    }
  } finally {
    // Whoever waited for the BEGIN that it took along goes on now, and finds what has become of it.
    run.opening?.ended(run.refusal, run.beginSent)
    if (run.helped) engine.fallbacks.leave()
  }
}

/** Not async, because most statements are sent as they are. */
function deliver(run: Run, seat: Seat): Promise<Rows> {
  const answer = send(run, seat)
  return asksForPosition(run) ? answerWithPosition(run, seat, answer) : answer
}

function send(run: Run, seat: Seat): Promise<Rows> {
  const { hold, begin } = run
  // Named as late as possible: the name is about the server's memory, not about the statement.
  const statement = named(run)
  const { together } = hold
  if (together !== null) {
    const answer = together.add(statement)
    if (!together.full) return answer
    hold.together = null
    return asksForId(run) ? answerWithId(run, seat, answer) : answer
  }
  const answer = begin === null ? seat.send(statement) : beginWith(run, seat, begin, statement)
  return asksForId(run) ? answerWithId(run, seat, answer) : answer
}

function unsent(hold: Hold, { reason }: AbortSignal): unknown {
  const { passage } = hold
  if (passage !== null) {
    if (passage.permit !== null) hold.node!.giveBackQuery(passage.permit)
    passage.leave()
    hold.passage = null
  }
  return reason
}

function beforeSending(run: Run, seat: Seat): void {
  const { engine, hold, statement } = run
  const { facts } = statement
  run.exempt = hold.untimed || hold.keepsSession || takesItsTime(facts)
  run.timeoutMs = run.ownTimeoutMs ?? (run.exempt ? 0 : engine.config.queryTimeoutMs)
  run.sentAt = engine.clock.now()
  run.wasLost = seat.session.lost !== null
  // Nobody opens a transaction on a connection that others use.
  const belongs = hold.transaction !== 'none' && facts !== BEGIN_FACTS
  run.wasInTransaction = hold.passage === null && (hold.inTransaction || belongs || hold.together !== null)
  run.begin = hold.begin
  run.alone = hold.passage !== null || (hold.together === null && seat.session.unanswered === 0)
  seat.sends(run.sentAt, facts.summary, run.timeoutMs)
  hold.sends(facts)
  if (run.ownTimeoutMs !== undefined) hold.node!.pool.hurry()
}

/** DDL, COPY, VACUUM, CALL, and the lock that migrations wait for: as long as they take is long enough. */
function takesItsTime({ kind, verb, functions }: Facts): boolean {
  if (kind === 'ddl' || verb === 'copy') return true
  if (kind === 'unknown') return verb !== 'select' && verb !== 'with'
  return functions.some((name) => name.startsWith('pg_advisory'))
}

function answered(run: Run, seat: Seat, rows: Rows): void {
  const { engine, hold, statement } = run
  const now = engine.clock.now()
  hold.answered++
  hold.settled++
  hold.kept ||= run.wasInTransaction && mayCommit(statement.facts)
  if (rows.executions !== undefined && run.alone) watchPlan(engine, hold, seat, statement, run, rows.executions, now)
  afterwards(engine, hold, seat, now)
  const tookMs = now - run.sentAt
  hold.node!.settleQuery(seat.permit, 'success', now, undefined, run.exempt ? 0 : tookMs)
  if (engine.cluster.replicas.length > 0) {
    const usualMs = engine.usualTimes.learn(statement.facts, tookMs, now)
    hold.node!.standing.answered(true, tookMs, now, usualMs)
  }
  seat.permit = null
  count(hold, statement, run, undefined, now)
  tell(engine, hold, statement, run, undefined)
}
