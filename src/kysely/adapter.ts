// PostgreSQL as Kysely knows it. All copies of one Kysely share its adapter, so by it the dialect is found behind any of
// them, without asking for a connection, which would start it.

import { PostgresAdapter } from 'kysely'
import type { DialectAdapter } from 'kysely'
import type { EngineHandle } from '../engine/engine-handle.ts'

export class SmartPgAdapter extends PostgresAdapter {
  readonly #engine: EngineHandle

  constructor(engine: EngineHandle) {
    super()
    this.#engine = engine
  }

  /** null: the Kysely belongs to another dialect, or to another copy of this package. */
  static engineOf(adapter: DialectAdapter): EngineHandle | null {
    return #engine in adapter ? adapter.#engine : null
  }
}
