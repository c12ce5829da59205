// What a caller says about queries beside their SQL: `db.withTimeout('5s')`, `db.onPrimary()`, `db.onReplica()` is a
// Kysely like the other, and every query of it carries the mark down to the lease. The mark travels with the connection
// that Kysely asks for, because plugins rewrite queries and connections they never see; and on the connection with each
// compiled query, because Kysely's log wraps the lease's own methods and hands on nothing else. Never a comment, never
// data: the API alone sets a mark, and of two marks the one of the Kysely that a query is run by counts, whatever it was
// built from.

import type {
  CompiledQuery,
  DatabaseConnection,
  Kysely,
  KyselyPlugin,
  QueryExecutor,
  QueryResult,
  TransactionSettings,
} from 'kysely'
import type { Duration } from '../config/options.ts'
import { waitMs } from '../config/duration.ts'
import { ConfigError } from '../core/errors.ts'
import { Lease } from './lease.ts'
import type { AbortableOptions } from './lease.ts'
import { markWith } from './mark.ts'
import type { Mark } from './mark.ts'
import type { ReadOnlyKysely } from './read-only.ts'
import { PRIMARY, replicaWish, settingsWith } from './wish.ts'
import type { ReplicaWish } from './wish.ts'

declare module 'kysely' {
  // oxlint-disable-next-line typescript/no-unused-vars -- merging needs the parameter under this name
  interface Kysely<DB> {
    /**
     * The same Kysely, whose statements may each take this long from the first byte sent to the answer, per try, instead
     * of `queryTimeout`; DDL, streams (each chunk of rows) and `db.connection()` included. 0 = as long as they take.
     * Throws ConfigError for what is no duration.
     */
    withTimeout(timeout: Duration): this
    /**
     * The same Kysely, whose statements all run on the primary. Of `onPrimary` and `onReplica` the one said last counts;
     * within a transaction, which runs where it has begun, neither says anything.
     */
    onPrimary(): this
    /**
     * The same Kysely for reads, which run on a replica, on the one or the ones that `options` name. It vouches for reads
     * that are not recognised as such: unknown functions, the catalog, `pg_stat_*`. Where no replica will do
     * `routing.fallbackToPrimary` decides, as it does without the hint. Transactions are `read only` without being told.
     * Throws ConfigError for wrong options; what is known to write, to lock or to change its session rejects with
     * SMARTPG_INVALID_QUERY, and nothing of it was sent.
     */
    onReplica(options?: ReplicaWish): ReadOnlyKysely<DB>
  }
}

// oxlint-disable-next-line typescript/no-explicit-any -- any database schema
export type AnyKysely = Kysely<any> | ReadOnlyKysely<any>

/** The same as `db.withTimeout(timeout)`, for any copy of Kysely. */
export function withTimeout<Db extends AnyKysely>(db: Db, timeout: Duration): Db {
  return marked(db, { timeoutMs: waitMs(timeout, 'withTimeout(timeout)') }) as Db
}

/** The same as `db.onPrimary()`, for any copy of Kysely. */
export function onPrimary<Db extends AnyKysely>(db: Db): Db {
  return marked(db, { wish: PRIMARY }) as Db
}

/** The same as `db.onReplica(options)`, for any copy of Kysely. */
export function onReplica<DB>(db: Kysely<DB> | ReadOnlyKysely<DB>, options?: ReplicaWish): ReadOnlyKysely<DB> {
  return marked(db, { wish: replicaWish(options) }) as ReadOnlyKysely<DB>
}

/** Gives a copy of Kysely the methods that mark. Safe to call twice. */
export function installHints({ prototype }: { prototype: object }): void {
  const methods = {
    withTimeout(this: Kysely<unknown>, timeout: Duration) {
      return withTimeout(this, timeout)
    },
    onPrimary(this: Kysely<unknown>) {
      return onPrimary(this)
    },
    onReplica(this: Kysely<unknown>, options?: ReplicaWish) {
      return onReplica(this, options)
    },
  }
  for (const [name, value] of Object.entries(methods)) {
    if (!(name in prototype)) Object.defineProperty(prototype, name, { configurable: true, writable: true, value })
  }
}

/** The lease behind a connection as Kysely holds it; null when another dialect stands between. */
export function leaseOf(connection: DatabaseConnection): Lease | null {
  if (connection instanceof MarkedLease) return connection.lease
  return connection instanceof Lease ? connection : null
}

const NOTHING: Mark = Object.freeze({})

/** What a connection says of all its queries. */
export function markOfConnection(connection: DatabaseConnection): Mark {
  return connection instanceof MarkedLease ? connection.mark : NOTHING
}

/** The query with what the connection says of all its queries. */
export function markedFor(connection: DatabaseConnection, query: CompiledQuery): CompiledQuery {
  return connection instanceof MarkedLease ? markWith(query, connection.mark) : query
}

/** How a transaction of this connection begins: on a replica it only reads. Throws for one that a replica cannot have. */
export function beginningOn(connection: DatabaseConnection, settings: TransactionSettings): TransactionSettings {
  return settingsWith(markOfConnection(connection).wish, settings)
}

/** What a Kysely says of all its queries, outside of transactions. */
export function markOfKysely(db: { getExecutor(): QueryExecutor }): Mark {
  return (db.getExecutor() as MarkedExecutor)[SAID] ?? NOTHING
}

/** A lease whose every query carries a mark. */
class MarkedLease implements DatabaseConnection {
  readonly lease: Lease
  readonly mark: Mark

  constructor(lease: Lease, mark: Mark) {
    this.lease = lease
    this.mark = mark
  }

  executeQuery<R>(query: CompiledQuery, options?: AbortableOptions): Promise<QueryResult<R>> {
    return this.lease.executeQuery(markWith(query, this.mark), options)
  }

  streamQuery<R>(query: CompiledQuery, chunkSize: number, options?: AbortableOptions) {
    return this.lease.streamQuery<R>(markWith(query, this.mark), chunkSize, options)
  }

  collectSessionInfo(): Promise<void> {
    return this.lease.collectSessionInfo()
  }

  cancelQuery(): Promise<void> {
    return this.lease.cancelQuery()
  }

  killSession(): Promise<void> {
    return this.lease.killSession()
  }
}

const NO_PLUGIN: KyselyPlugin = {
  transformQuery: ({ node }) => node,
  transformResult: async ({ result }) => result,
}

function marked(db: AnyKysely, mark: Mark): AnyKysely {
  const executor = db.getExecutor()
  type Provide = typeof executor.provideConnection
  const provideConnection = ((consumer, ...options) =>
    executor.provideConnection((connection) => consumer(markedConnection(connection, mark)), ...options)) as Provide
  const ours = saying({ ...markOfKysely(db), ...mark }, executor.withConnectionProvider({ provideConnection }))
  // Only Kysely itself can make a copy of a Kysely with another executor, and does so for a plugin.
  const own = Object.getOwnPropertyDescriptor(executor, 'withPlugin')
  Object.defineProperty(executor, 'withPlugin', { configurable: true, writable: true, value: () => ours })
  try {
    return db.withPlugin(NO_PLUGIN)
  } finally {
    if (own === undefined) delete (executor as { withPlugin?: unknown }).withPlugin
    else Object.defineProperty(executor, 'withPlugin', own)
  }
}

const SAID = Symbol('what is said of all queries')

/** How Kysely makes an executor of another: each says what the one before said. */
const COPYING = ['withPlugin', 'withPlugins', 'withPluginAtFront', 'withoutPlugins', 'withConnectionProvider'] as const
type Copy = (this: MarkedExecutor, ...given: unknown[]) => QueryExecutor
type MarkedExecutor = QueryExecutor & { [SAID]?: Mark } & { [Name in (typeof COPYING)[number]]: Copy }

const copies = COPYING.map((name): Copy => {
  return function copy(...given) {
    const usual = Object.getPrototypeOf(this)[name] as Copy
    return saying(this[SAID]!, usual.apply(this, given))
  }
})

/** The connection alone carries the mark; this is for who asks a Kysely without asking it for a connection. */
function saying(mark: Mark, executor: QueryExecutor): QueryExecutor {
  const one = executor as MarkedExecutor
  one[SAID] = mark
  for (let at = 0; at < COPYING.length; at++) one[COPYING[at]!] = copies[at]!
  return one
}

function markedConnection(connection: DatabaseConnection, mark: Mark): DatabaseConnection {
  const lease = leaseOf(connection)
  if (lease !== null) return new MarkedLease(lease, { ...markOfConnection(connection), ...mark })
  const said = mark.wish === undefined ? 'withTimeout' : mark.wish.target === 'primary' ? 'onPrimary' : 'onReplica'
  throw new ConfigError([
    { path: `a Kysely marked with ${said}`, received: 'another dialect', expected: 'SmartPgDialect itself' },
  ])
}
