// `db.batch([...])`: several queries, one transaction, the exact type of each query's own `.execute()`. The
// method is installed on Kysely's prototype by the dialect's constructor (a side-effect import would be dropped
// by bundlers); the function `batch(db, …)` serves where two copies of Kysely meet.

import { CompiledQuery, DeleteResult, InsertResult, MergeResult, UpdateResult } from 'kysely'
import type { DatabaseConnection, Kysely, QueryResult, RootOperationNode, UnknownRow } from 'kysely'
import {
  BatchError,
  ConfigError,
  NotExecutedError,
  OutcomeUnknownError,
  SmartPgError,
  isSmartPgError,
} from '../core/errors.ts'
import type { Phase } from '../core/errors.ts'
import { factsOf } from '../sql/facts.ts'
import { compileItem } from './batch-item.ts'
import type { BatchItem, BatchOptions, BatchOutputs } from './batch-item.ts'
import { beginningOn, leaseOf, markOfConnection, markedFor } from './hints.ts'
import type { AnyKysely } from './hints.ts'
import type { Lease } from './lease.ts'

declare module 'kysely' {
  // oxlint-disable-next-line typescript/no-unused-vars -- merging needs the parameter under this name
  interface Kysely<DB> {
    /**
     * Runs all queries in one transaction and resolves with the tuple of their results.
     * Throws BatchError with the index of the query that failed; nothing is kept then.
     */
    batch<const T extends readonly BatchItem[]>(queries: T, options?: BatchOptions): Promise<BatchOutputs<T>>
  }
}

/** The same as `db.batch(queries, options)`, for any copy of Kysely. */
export async function batch<const T extends readonly BatchItem[]>(
  db: AnyKysely,
  queries: T,
  options: BatchOptions = {},
): Promise<BatchOutputs<T>> {
  checkOptions(options)
  const compiled = queries.map((query, index) => compileItem(db, query, `batch[${index}]`))
  if (compiled.length === 0) return [] as BatchOutputs<T>
  const executor = db.getExecutor()
  const results = await executor.provideConnection((connection) => run(connection, compiled, options, db))
  const outputs: unknown[] = []
  for (const [index, plain] of results.entries()) {
    let result = plain as QueryResult<UnknownRow>
    const { queryId } = compiled[index]!
    for (const plugin of executor.plugins) result = await plugin.transformResult({ queryId, result })
    outputs.push(outputOf(queries[index]!, compiled[index]!.query, result))
  }
  return outputs as BatchOutputs<T>
}

/** Gives a copy of Kysely the method `batch`. Safe to call twice. */
export function installBatch(constructor: { prototype: object }): void {
  if ('batch' in constructor.prototype) return
  Object.defineProperty(constructor.prototype, 'batch', {
    configurable: true,
    writable: true,
    value(this: Kysely<unknown>, queries: readonly BatchItem[], options?: BatchOptions) {
      return batch(this, queries, options)
    },
  })
}

async function run(
  connection: DatabaseConnection,
  queries: readonly CompiledQuery[],
  options: BatchOptions,
  db: AnyKysely,
): Promise<QueryResult<unknown>[]> {
  refuseWhatBreaksIt(queries)
  const lease = leaseOf(connection)
  if (lease !== null) {
    const own = queries.map((query) => markedFor(connection, query))
    return runOnLease(lease, own, options, connection)
  }
  warnWrapped(db.getExecutor().adapter)
  return runOneByOne(connection, queries, options, db.isTransaction)
}

async function runOnLease(
  lease: Lease,
  queries: readonly CompiledQuery[],
  options: BatchOptions,
  connection: DatabaseConnection,
): Promise<QueryResult<unknown>[]> {
  const own = !lease.inTransaction && !lease.hold.inTransaction
  if (!own && options.isolationLevel !== undefined) {
    throw new ConfigError([
      {
        path: 'batch.isolationLevel',
        received: `'${options.isolationLevel}'`,
        expected: 'nothing inside a transaction',
      },
    ])
  }
  const { clock } = lease.engine
  const startedAt = clock.now()
  const cancel = (): void => void lease.cancelQuery().catch(() => undefined)
  options.signal?.addEventListener('abort', cancel, { once: true })
  try {
    const opening = { ...options, connection }
    const results = own ? await inOwnTransaction(lease, queries, opening) : await within(lease, queries, options)
    record(lease, queries.length, clock.now() - startedAt, 'ok')
    return results
  } catch (error) {
    record(lease, queries.length, clock.now() - startedAt, 'failed')
    throw options.signal?.aborted ? options.signal.reason : error
  } finally {
    options.signal?.removeEventListener('abort', cancel)
  }
}

async function within(lease: Lease, queries: readonly CompiledQuery[], options: BatchOptions) {
  if (lease.goTogether(queries)) return inOneWriteWithin(lease, queries, options.signal)
  return inOrder(lease, queries, options)
}

/** How a batch's own transaction begins: as its caller has said, and as the connection says (`db.onReplica()`). */
interface OpeningOptions extends BatchOptions {
  readonly connection: DatabaseConnection
}

async function openOn(lease: Lease, { connection, isolationLevel, signal }: OpeningOptions): Promise<void> {
  try {
    await lease.begin(beginningOn(connection, { isolationLevel }), { signal }, markOfConnection(connection).wish)
  } catch (cause) {
    fail(lease, null, 'begin', cause)
  }
}

async function inOwnTransaction(
  lease: Lease,
  queries: readonly CompiledQuery[],
  opening: OpeningOptions,
  again = false,
): Promise<QueryResult<unknown>[]> {
  const { signal } = opening
  await openOn(lease, opening)
  if (lease.goTogether(queries)) return inOneWrite(lease, queries, opening)
  let results: QueryResult<unknown>[]
  try {
    results = await inOrder(lease, queries, { signal })
    signal?.throwIfAborted()
  } catch (error) {
    await lease.rollback()
    // Nobody has been told anything, and nothing of it was kept.
    if (!again && isStale(lease, error)) return inOwnTransaction(lease, queries, opening, true)
    throw error
  }
  await lease.commit().catch(async (cause: unknown) => {
    await lease.rollback()
    fail(lease, null, 'commit', cause)
  })
  return results
}

/** BEGIN, the queries and COMMIT under one Sync: one round trip when all goes well. */
async function inOneWrite(
  lease: Lease,
  queries: readonly CompiledQuery[],
  opening: OpeningOptions,
  again = false,
): Promise<QueryResult<unknown>[]> {
  if (opening.signal?.aborted) {
    await lease.rollback()
    throw opening.signal.reason
  }
  const settled = await lease.together([...queries, CompiledQuery.raw('commit')])
  const commit = settled.pop()!
  if (commit.status === 'fulfilled') {
    try {
      lease.committed()
    } catch (cause) {
      fail(lease, null, 'commit', cause)
    }
    return settled.map((one, index) => (one.status === 'fulfilled' ? one.value : unread(lease, index, one.reason)))
  }
  const lost = lease.hold.pooled?.session.lost ?? null
  await lease.rollback()
  if (!again && mayBeginAgain(lease, settled, commit.reason)) {
    if (lost !== null) lease.hold.release('error')
    await openOn(lease, opening)
    return inOneWrite(lease, queries, opening, true)
  }
  // The answer to COMMIT was lost: what the queries were told says nothing any more.
  if (commit.reason instanceof OutcomeUnknownError) fail(lease, null, 'commit', commit.reason)
  const { index, phase, cause } = firstFailure(settled, commit.reason)
  return fail(lease, index, phase, cause)
}

/** The connection was gone before anything was written, or a name of ours was stale: nothing of it was kept. */
function mayBeginAgain(lease: Lease, settled: readonly PromiseSettledResult<unknown>[], reason: unknown): boolean {
  if (isUnsent(reason)) return lease.hold.answered === 0
  const { cause } = firstFailure(settled, reason)
  return isStale(lease, cause)
}

/** A name of ours no longer means what it meant. */
function isStale({ engine }: Lease, cause: unknown): boolean {
  return engine.faultOf(cause, 'query').class === 'prepared-statement'
}

/** The server has done it all; only what it answered could not be read. */
function unread(lease: Lease, index: number, cause: unknown): never {
  const why = cause instanceof Error ? cause.message : String(cause)
  const message = `The batch was committed, but the answer to this query could not be read: ${why}`
  return fail(lease, index, 'execute', new SmartPgError('SMARTPG_INVALID_QUERY', message, { phase: 'execute', cause }))
}

function isUnsent(reason: unknown): boolean {
  return isSmartPgError(reason, 'SMARTPG_CONNECTION_LOST') && reason.phase === 'send'
}

/** In a transaction of the caller. */
async function inOneWriteWithin(
  lease: Lease,
  queries: readonly CompiledQuery[],
  signal: AbortSignal | undefined,
  again = false,
): Promise<QueryResult<unknown>[]> {
  signal?.throwIfAborted()
  const { begin, answered } = lease.hold
  const settled = await lease.together(queries)
  if (settled.every((one) => one.status === 'fulfilled')) return settled.map(({ value }) => value)
  // The connection was gone before anything was written, BEGIN included: the transaction may begin on another.
  const unsent = settled.every((one) => one.status === 'rejected' && isUnsent(one.reason))
  if (unsent && !again && begin !== null && answered === 0) {
    await lease.beginElsewhere(begin)
    return inOneWriteWithin(lease, queries, signal, true)
  }
  const { index, phase, cause } = firstFailure(settled)
  return fail(lease, index, phase, cause)
}

/** What failed by itself, and not because of what stood before it. */
function firstFailure(
  settled: readonly PromiseSettledResult<unknown>[],
  commitFailure?: unknown,
): { index: number | null; phase: Phase; cause: unknown } {
  const reasons = settled.map((one) => (one.status === 'rejected' ? (one.reason as unknown) : undefined))
  if (reasons.every(isUnsent)) return { index: null, phase: 'begin', cause: reasons[0] }
  // What stood before it when the connection was lost has failed as well, but not by itself.
  const index = reasons.findLastIndex((reason) => reason !== undefined && !(reason instanceof NotExecutedError))
  if (index >= 0) return { index, phase: 'execute', cause: reasons[index] }
  const first = reasons.find((reason) => reason !== undefined)
  if (first === undefined) return { index: null, phase: 'commit', cause: commitFailure }
  return { index: null, phase: 'begin', cause: (first as NotExecutedError).cause ?? first }
}

async function inOrder(
  connection: DatabaseConnection,
  queries: readonly CompiledQuery[],
  { signal }: BatchOptions,
): Promise<QueryResult<unknown>[]> {
  const results: QueryResult<unknown>[] = []
  for (const [index, query] of queries.entries()) {
    signal?.throwIfAborted()
    results.push(
      await connection.executeQuery(query).catch((cause: unknown) => fail(connection, index, 'execute', cause)),
    )
  }
  return results
}

/** A dialect that wraps ours hides the lease: the same by plain statements. */
async function runOneByOne(
  connection: DatabaseConnection,
  queries: readonly CompiledQuery[],
  options: BatchOptions,
  inTransaction: boolean,
): Promise<QueryResult<unknown>[]> {
  if (inTransaction) return inOrder(connection, queries, options)
  const { isolationLevel } = options
  const begin = isolationLevel === undefined ? 'begin' : `start transaction isolation level ${isolationLevel}`
  const command = (sql: string, phase: Phase): Promise<unknown> =>
    connection.executeQuery(CompiledQuery.raw(sql)).catch((cause: unknown) => fail(connection, null, phase, cause))
  await command(begin, 'begin')
  try {
    const results = await inOrder(connection, queries, options)
    await command('commit', 'commit')
    return results
  } catch (error) {
    await connection.executeQuery(CompiledQuery.raw('rollback')).catch(() => undefined)
    throw error
  }
}

/** A COMMIT in the middle, or hidden in a text of several statements, would keep half of the batch. */
function refuseWhatBreaksIt(queries: readonly CompiledQuery[]): void {
  for (const [index, { sql, query }] of queries.entries()) {
    // Builders cannot say such things, unless a raw fragment in them does.
    if (query.kind !== 'RawNode' && !sql.includes(';')) continue
    const facts = factsOf(sql)
    const because =
      facts.kind === 'transaction' ? 'transaction control' : facts.multiple ? 'several statements in one text' : null
    if (because === null) continue
    const cause = new SmartPgError('SMARTPG_INVALID_QUERY', `${because} cannot be part of a batch`, {
      phase: 'send',
      hint: 'Nothing was sent. Give each statement an element of its own; the batch is the transaction.',
    })
    throw new BatchError(index, 'send', cause)
  }
}

function fail(connection: DatabaseConnection, index: number | null, phase: Phase, cause: unknown): never {
  throw new BatchError(index, phase, cause, leaseOf(connection)?.hold.node?.name)
}

function record(lease: Lease, size: number, ms: number, result: 'ok' | 'failed'): void {
  const cells = (lease.hold.node ?? lease.engine.cluster.primary).cells
  cells.batches.transactional.results[result]++
  cells.batches.transactional.duration.observe(Math.round(ms * 1000))
  cells.batchSize.observe(size)
}

function outputOf(item: BatchItem, node: RootOperationNode, result: QueryResult<unknown>): unknown {
  // A CompiledQuery and sql`` answer with the whole result, as `db.executeQuery` and `sql.execute` do.
  if (!('compile' in item) || node.kind === 'RawNode') return result
  if (node.kind === 'SelectQueryNode') return result.rows
  if (!(node.kind in RESULTS)) return undefined
  if ((node as { returning?: unknown }).returning !== undefined) return result.rows
  return [RESULTS[node.kind as keyof typeof RESULTS](result)]
}

const RESULTS = {
  InsertQueryNode: (result: QueryResult<unknown>) => new InsertResult(result.insertId, result.numAffectedRows ?? 0n),
  UpdateQueryNode: (result: QueryResult<unknown>) =>
    new UpdateResult(result.numAffectedRows ?? 0n, result.numChangedRows),
  DeleteQueryNode: (result: QueryResult<unknown>) => new DeleteResult(result.numAffectedRows ?? 0n),
  MergeQueryNode: (result: QueryResult<unknown>) => new MergeResult(result.numAffectedRows),
}

const warned = new WeakSet<object>()

const OPTIONS = ['strategy', 'isolationLevel', 'signal']

function checkOptions(options: BatchOptions): void {
  const faults = Object.keys(options)
    .filter((name) => !OPTIONS.includes(name))
    .map((name) => ({ path: `batch.${name}`, received: 'an unknown option', expected: OPTIONS.join(', ') }))
  if (options.strategy !== undefined && options.strategy !== 'transactional') {
    faults.push({ path: 'batch.strategy', received: `'${String(options.strategy)}'`, expected: `'transactional'` })
  }
  if (faults.length > 0) throw new ConfigError(faults)
}

/** Once for each Kysely instance, which all of its copies share an adapter with. */
function warnWrapped(adapter: object): void {
  if (warned.has(adapter)) return
  warned.add(adapter)
  process.emitWarning('db.batch: another dialect wraps SmartPgDialect, so queries are sent one after the other.', {
    type: 'SmartPgWarning',
    code: 'SMARTPG_BATCH_WRAPPED',
  })
}
