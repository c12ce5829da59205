// What a caller has said about one query. It hangs on the compiled query as Kysely hands it on, which nothing that lies
// between copies.

import type { CompiledQuery } from 'kysely'
import type { Wish } from '../core/route.ts'

export interface Mark {
  /** Longest time for its answer, milliseconds; 0: as long as it takes. */
  readonly timeoutMs?: number
  /** Where it shall run. What was said last counts, and all of it: nothing of what was said before. */
  readonly wish?: Wish
}

const marks = new WeakMap<CompiledQuery, Mark>()
const unmarked: Mark = {}
/** Most programs never mark anything. */
let anyMarked = false

/** The same query with a mark; what it says already stays where `mark` says nothing. */
export function markWith(query: CompiledQuery, mark: Mark): CompiledQuery {
  const copy = Object.freeze({ ...query })
  marks.set(copy, { ...marks.get(query), ...mark })
  anyMarked = true
  return copy
}

export function markOf(query: CompiledQuery): Mark {
  return anyMarked ? (marks.get(query) ?? unmarked) : unmarked
}
