// `retryTransaction(db, fn)`: a transaction that is run again from its beginning where nothing of it can have been kept.
// The callback is run as a whole, because what it read before may be otherwise now. It works with every dialect of
// Kysely; what only ours knows (whether COMMIT had been sent when the connection was lost) helps only there.

import type { IsolationLevel, Kysely, Transaction, TransactionSettings } from 'kysely'
import { durationForms, durationMs } from '../config/duration.ts'
import { kindOf, shown } from '../config/describe.ts'
import type { Duration } from '../config/options.ts'
import { ConfigError, isSmartPgError } from '../core/errors.ts'
import type { ConfigFault } from '../core/errors.ts'
import { nextTry } from '../core/transaction-retry.ts'
import type { NextTry } from '../core/transaction-retry.ts'
import { pause, systemChance, systemClock } from '../engine/clock.ts'
import { leaseOf } from './hints.ts'
import type { Lease } from './lease.ts'
import type { ReadOnlyKysely } from './read-only.ts'

export interface RetryTransactionOptions {
  /** Runs in all. Default 3; 1 = as `db.transaction()`. */
  attempts?: number
  /** First backoff; full jitter. Default 50 ms. */
  base?: Duration
  /** Longest backoff. Default 2 s. */
  max?: Duration
  isolationLevel?: IsolationLevel
  accessMode?: TransactionSettings['accessMode']
  /** Ends the waiting between two runs, and begins no other. */
  signal?: AbortSignal
}

/**
 * Runs `db.transaction().execute(fn)`, and all of it again after a serialization failure (40001), a deadlock (40P01),
 * or a failure after which it is certain that nothing was kept (NotExecutedError, a connection lost before COMMIT was
 * sent). Resolves with what `fn` resolved with. Rejects with the last error, with OutcomeUnknownError at once, with the
 * signal's reason, and with ConfigError for wrong options or inside a transaction. `fn` must be safe to run twice.
 */
export function retryTransaction<DB, T>(
  db: Kysely<DB>,
  fn: (trx: Transaction<DB>) => Promise<T>,
  options?: RetryTransactionOptions,
): Promise<T>
/** The same for `db.onReplica()`. */
export function retryTransaction<DB, T>(
  db: ReadOnlyKysely<DB>,
  fn: (trx: ReadOnlyKysely<DB>) => Promise<T>,
  options?: RetryTransactionOptions,
): Promise<T>
export async function retryTransaction<DB, T>(
  given: Kysely<DB> | ReadOnlyKysely<DB>,
  fn: (trx: Transaction<DB>) => Promise<T>,
  options: RetryTransactionOptions = {},
): Promise<T> {
  const db = given as Kysely<DB>
  const { signal, ...limits } = checked(db, fn, options)
  for (let attempt = 1; ; attempt++) {
    signal?.throwIfAborted()
    let lease: Lease | null = null
    try {
      return await transactionOf(db, options).execute(async (trx) => {
        lease = await leaseBehind(trx)
        return fn(trx)
      })
    } catch (error) {
      const next = settle(lease, error, { attempt, ...limits })
      if (next.do === 'fail') throw told(error, attempt)
      await pause((lease as Lease | null)?.engine.clock ?? systemClock, next.after, signal)
    }
  }
}

interface Limits {
  readonly attempts: number
  readonly baseMs: number
  readonly maxMs: number
}

function transactionOf<DB>(db: Kysely<DB>, { isolationLevel, accessMode }: RetryTransactionOptions) {
  let transaction = db.transaction()
  if (isolationLevel !== undefined) transaction = transaction.setIsolationLevel(isolationLevel)
  if (accessMode !== undefined) transaction = transaction.setAccessMode(accessMode)
  return transaction
}

/** The connection of a transaction, if it is ours and no other dialect hides it. */
function leaseBehind<DB>(trx: Transaction<DB>): Promise<Lease | null> {
  return trx.getExecutor().provideConnection(async (connection) => leaseOf(connection))
}

/** Decides, and counts and tells what was decided, as the retry of a statement is. */
function settle(lease: Lease | null, error: unknown, tries: Limits & { attempt: number }): NextTry {
  const errors = withCauses(error)
  const codes = errors.map(codeOf).filter((code) => code !== undefined)
  const node = lease?.hold.node ?? null
  if (lease === null || node === null) {
    const nothing = { lostUncommitted: false, demoted: false, partlyKept: false, budgetLeft: true }
    return nextTry({ codes, ...nothing, ...tries }, systemChance)
  }
  const { engine, hold } = lease
  const now = engine.clock.now()
  const fault = engine.faultOf(error, 'query')
  const budgetLeft = node.retries.left(now)
  const lost = errors.some((one) => engine.faultOf(one, 'query').class === 'connection-lost')
  // The lease of a db.connection() is not over with its transaction, and would begin the next on what is lost.
  const lostUncommitted = lost && hold.lost && hold.ended
  const failed = { codes, lostUncommitted, demoted: hold.demoted, partlyKept: hold.kept, budgetLeft, ...tries }
  const next = nextTry(failed, engine.chance)
  const { attempt } = tries
  const counts = node.cells.retries[fault.class]
  if (next.do === 'again') {
    node.retries.take(now)
    counts.ok++
    engine.listeners.emit('retry', { node: node.name, attempt, fault: fault.class, because: next.because })
  } else if (attempt > 1) counts.failed++
  return next
}

/** The last error, with the number of runs where it is ours. */
function told(error: unknown, attempt: number): unknown {
  return attempt > 1 && isSmartPgError(error) ? Object.assign(error, { attempts: attempt }) : error
}

/** A chain of causes longer than this, or a circle, tells nothing more. */
const DEEPEST_CAUSE = 8

function withCauses(error: unknown): unknown[] {
  const errors: unknown[] = []
  for (let one = error; typeof one === 'object' && one !== null && errors.length < DEEPEST_CAUSE;) {
    errors.push(one)
    one = (one as { cause?: unknown }).cause
  }
  return errors
}

function codeOf(error: unknown): string | undefined {
  const { code } = error as { code?: unknown }
  return typeof code === 'string' ? code : undefined
}

const OPTIONS = ['attempts', 'base', 'max', 'isolationLevel', 'accessMode', 'signal']
const LEVELS = ['read uncommitted', 'read committed', 'repeatable read', 'serializable', 'snapshot']
const MODES = ['read only', 'read write']
const MOST_ATTEMPTS = 100
const LONGEST_MS = 86_400_000

const isPause = (ms: number | null): boolean => ms !== null && ms >= 0 && ms <= LONGEST_MS

function checked(db: { readonly isTransaction?: unknown }, fn: unknown, options: RetryTransactionOptions) {
  const faults: ConfigFault[] = []
  const refuse = (path: string, received: string, expected: string): void => {
    faults.push({ path: `retryTransaction.${path}`, received, expected })
  }
  const { attempts = 3, base = '50ms', max = '2s', isolationLevel, accessMode, signal } = options
  if (db.isTransaction === true) refuse('db', 'a transaction', 'a Kysely outside of any, which can begin it anew')
  if (typeof fn !== 'function') refuse('fn', kindOf(fn), 'a function')
  for (const name of Object.keys(options)) {
    if (!OPTIONS.includes(name)) refuse(name, 'an unknown option', OPTIONS.join(', '))
  }
  if (!Number.isInteger(attempts) || attempts < 1 || attempts > MOST_ATTEMPTS) {
    refuse('attempts', shown(attempts), `a whole number from 1 to ${MOST_ATTEMPTS}`)
  }
  const [baseMs, maxMs] = [durationMs(base), durationMs(max)]
  if (!isPause(baseMs)) refuse('base', shown(base), `a duration of up to a day: ${durationForms}`)
  if (!isPause(maxMs)) refuse('max', shown(max), `a duration of up to a day: ${durationForms}`)
  if (isolationLevel !== undefined && !LEVELS.includes(isolationLevel)) {
    refuse('isolationLevel', shown(isolationLevel), LEVELS.join(', '))
  }
  if (accessMode !== undefined && !MODES.includes(accessMode)) refuse('accessMode', shown(accessMode), MODES.join(', '))
  if (signal !== undefined && typeof (signal as { addEventListener?: unknown } | null)?.addEventListener !== 'function')
    refuse('signal', kindOf(signal), 'an AbortSignal')
  if (faults.length > 0) throw new ConfigError(faults)
  return { attempts, baseMs: Math.min(baseMs!, maxMs!), maxMs: maxMs!, signal }
}
