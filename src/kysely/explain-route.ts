// `explainRoute(db, query)`: where a statement would run now, and why, without running it.

import { ConfigError } from '../core/errors.ts'
import { explanationText } from '../core/explain.ts'
import type { RouteExplanation } from '../core/explain.ts'
import { kindOf } from '../config/describe.ts'
import { SmartPgAdapter } from './adapter.ts'
import { compileItem } from './batch-item.ts'
import type { BatchItem } from './batch-item.ts'
import { markOfKysely } from './hints.ts'
import type { AnyKysely } from './hints.ts'

/**
 * Where `query` would run now if it were the first statement on a connection of `db`: what its text says, why it goes
 * there, and every node with what speaks for and against it. A plain object, and `${explanation}` is a text for people;
 * neither holds a parameter or a literal. Nothing is sent, opened or started, so before the first query nothing is known
 * of the replicas. The hints of `db` count, not those of the Kysely that `query` was built with. Where another dialect
 * wraps SmartPgDialect it says what becomes of this text once it is handed on. Throws ConfigError for a Kysely of another
 * dialect, within a transaction, where every statement runs where it began, and for what is no query; and what running
 * it would throw before anything is sent.
 */
export function explainRoute(db: AnyKysely, query: BatchItem): RouteExplanation {
  if (typeof (db as Partial<AnyKysely> | null | undefined)?.getExecutor !== 'function') {
    throw refused('db', kindOf(db), 'a Kysely')
  }
  if (db.isTransaction) {
    throw refused('db', 'a transaction', 'a Kysely outside of any: within one every statement runs where it began')
  }
  const handle = SmartPgAdapter.engineOf(db.getExecutor().adapter)
  if (handle === null) throw refused('db', 'a Kysely of another dialect', 'one with SmartPgDialect')
  const { engine } = handle
  const { sql } = compileItem(db, query, 'explainRoute(query)')
  const explanation = { ...engine.explain(engine.statement(sql, []), markOfKysely(db).wish) }
  // Not enumerable: it is no part of the data.
  return Object.defineProperty(explanation, 'toString', { value: () => explanationText(explanation) })
}

function refused(argument: string, received: string, expected: string): ConfigError {
  return new ConfigError([{ path: `explainRoute(${argument})`, received, expected }])
}
