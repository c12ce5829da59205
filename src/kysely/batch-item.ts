// What `db.batch` takes and what comes of it; and the one way from whatever could be executed on its own to the text that
// would be sent.

import type { CompiledQuery, IsolationLevel, QueryExecutorProvider, QueryResult } from 'kysely'
import { kindOf } from '../config/describe.ts'
import { ConfigError } from '../core/errors.ts'

/** Anything that could be executed on its own: a query builder, a schema builder, sql``, a CompiledQuery. */
export type BatchItem = Executable | CompiledQuery

interface Executable {
  // oxlint-disable-next-line typescript/no-explicit-any -- builders take options, sql`` takes an executor
  execute(...context: any[]): Promise<unknown>
  // oxlint-disable-next-line typescript/no-explicit-any -- the same
  compile(...context: any[]): CompiledQuery
}

/** What a batch resolves with: for each item what its own `.execute()` resolves with. */
export type BatchOutputs<T extends readonly BatchItem[]> = { -readonly [K in keyof T]: BatchOutput<T[K]> }

type BatchOutput<Item> =
  // oxlint-disable-next-line typescript/no-explicit-any -- matches whatever context the item's execute takes
  Item extends { execute(...context: any[]): Promise<infer Output> }
    ? Output
    : Item extends CompiledQuery<infer Row>
      ? QueryResult<Row>
      : never

export interface BatchOptions {
  /** All or nothing. Default and so far only strategy: `transactional`. */
  strategy?: 'transactional'
  /** Isolation level of the batch's transaction; not inside one. */
  isolationLevel?: IsolationLevel
  /** Aborts the batch; nothing of it is kept. */
  signal?: AbortSignal
}

/** With the plugins that the builder was made with, and those of `db` for sql``. Throws ConfigError that names `path`. */
export function compileItem(db: QueryExecutorProvider, query: BatchItem, path: string): CompiledQuery {
  const item: unknown = query
  if (typeof item === 'object' && item !== null) {
    // Builders ignore the argument; sql`` needs an executor to compile with.
    if ('compile' in item && typeof item.compile === 'function') return (query as Executable).compile(db)
    if ('sql' in item && 'parameters' in item && 'query' in item) return query as CompiledQuery
  }
  throw new ConfigError([{ path, received: kindOf(item), expected: 'a query builder, sql`…` or CompiledQuery' }])
}
