// What a caller says about queries beside their SQL: `db.withTimeout('5s')` is a Kysely like the other, and every query
// of it carries the mark down to the lease. The mark travels with the connection that Kysely asks for, because plugins
// rewrite queries and connections they never see; and on the connection with each compiled query, because Kysely's log
// wraps the lease's own methods and hands on nothing else. Never a comment, never data: the API alone sets a mark.

import type { CompiledQuery, DatabaseConnection, Kysely, KyselyPlugin, QueryResult } from 'kysely'
import type { Duration } from '../config/options.ts'
import { waitMs } from '../config/duration.ts'
import { ConfigError } from '../core/errors.ts'
import { Lease } from './lease.ts'
import type { AbortableOptions } from './lease.ts'
import { markWith } from './mark.ts'
import type { Mark } from './mark.ts'

declare module 'kysely' {
  // oxlint-disable-next-line typescript/no-unused-vars -- merging needs the parameter under this name
  interface Kysely<DB> {
    /**
     * The same Kysely, whose statements may each take this long from the first byte sent to the answer, per try, instead
     * of `queryTimeout`; DDL, streams (each chunk of rows) and `db.connection()` included. 0 = as long as they take.
     * Throws ConfigError for what is no duration.
     */
    withTimeout(timeout: Duration): this
  }
}

/** The same as `db.withTimeout(timeout)`, for any copy of Kysely. */
// oxlint-disable-next-line typescript/no-explicit-any -- any database schema, any copy of Kysely
export function withTimeout<Db extends Kysely<any>>(db: Db, timeout: Duration): Db {
  return marked(db, { timeoutMs: waitMs(timeout, 'withTimeout(timeout)') })
}

/** Gives a copy of Kysely the methods that mark. Safe to call twice. */
export function installHints(constructor: { prototype: object }): void {
  if ('withTimeout' in constructor.prototype) return
  Object.defineProperty(constructor.prototype, 'withTimeout', {
    configurable: true,
    writable: true,
    value(this: Kysely<unknown>, timeout: Duration) {
      return withTimeout(this, timeout)
    },
  })
}

/** The lease behind a connection as Kysely holds it; null when another dialect stands between. */
export function leaseOf(connection: DatabaseConnection): Lease | null {
  if (connection instanceof MarkedLease) return connection.lease
  return connection instanceof Lease ? connection : null
}

/** The query with what the connection says of all its queries. */
export function markedFor(connection: DatabaseConnection, query: CompiledQuery): CompiledQuery {
  return connection instanceof MarkedLease ? markWith(query, connection.mark) : query
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

// oxlint-disable-next-line typescript/no-explicit-any -- any database schema, any copy of Kysely
function marked<Db extends Kysely<any>>(db: Db, mark: Mark): Db {
  const executor = db.getExecutor()
  type Provide = typeof executor.provideConnection
  const provideConnection = ((consumer, ...options) =>
    executor.provideConnection((connection) => consumer(markedConnection(connection, mark)), ...options)) as Provide
  const ours = executor.withConnectionProvider({ provideConnection })
  // Only Kysely itself can make a copy of a Kysely with another executor, and does so for a plugin.
  Object.defineProperty(executor, 'withPlugin', { configurable: true, value: () => ours })
  try {
    return db.withPlugin(NO_PLUGIN) as Db
  } finally {
    delete (executor as { withPlugin?: unknown }).withPlugin
  }
}

function markedConnection(connection: DatabaseConnection, mark: Mark): DatabaseConnection {
  const lease = leaseOf(connection)
  if (lease !== null) {
    const before = connection instanceof MarkedLease ? connection.mark : {}
    return new MarkedLease(lease, { ...before, ...mark })
  }
  const names = Object.keys(mark).join(', ')
  throw new ConfigError([
    { path: `a Kysely marked with ${names}`, received: 'another dialect', expected: 'SmartPgDialect itself' },
  ])
}
