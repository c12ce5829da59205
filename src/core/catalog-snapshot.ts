// What was read of the primary's catalog, in the words that decisions need: functions by what they may do, relations
// by what reading or writing them reaches. Names are written as facts write them: lower case unless quoted, in
// quotes where a part has a dot in it.

import type { CatalogIndex } from './catalog-index.ts'
import type { Facts } from './types.ts'

export interface CatalogSnapshot {
  readonly functions: CatalogIndex<CatalogFunction>
  readonly relations: CatalogIndex<CatalogRelation>
  /** Every relation stands in it: a name that does not is none of the database's. */
  readonly whole: boolean
  /** Two with the same one say the same; null: something could not be read this time. */
  readonly fingerprint: string | null
}

/** What calling a function may mean; structurally the `Effect` of the built-in ones. */
export interface FunctionEffect {
  readonly because: string
  readonly anywhere: boolean
  readonly writes: boolean
  readonly stateful: boolean
  readonly waits: boolean
}

/** What is known of a built-in function, by its name without schema or with `pg_catalog`; null: nothing is. */
export type BuiltIn = (name: string) => FunctionEffect | null

/** One function; those of the same name and schema may come as one where they have nothing that tells them apart. */
export interface CatalogFunction {
  readonly schema: string
  readonly name: string
  /** As it was declared, and `volatile` when nobody declared anything. */
  readonly volatility: 'immutable' | 'stable' | 'volatile'
  /** A built-in one takes the same arguments, and is found before it unless its schema is named. */
  readonly hidden: boolean
  /** What its source says; null where nobody can read it. */
  readonly body: FunctionBody | null
}

/** What the source of a function says, read the way SQL texts are: positively recognised, or not. */
export interface FunctionBody {
  /** It only reads, if all that it calls does. */
  readonly reading: boolean
  readonly calls: readonly string[]
  /** The relations it reads; null: some cannot be told from its source. */
  readonly reads: readonly string[] | null
}

export interface CatalogRelation {
  readonly schema: string
  readonly name: string
  readonly kind: 'table' | 'view' | 'foreign' | 'sequence'
  /** Its rows are not in the write-ahead log: a standby has none of them. */
  readonly unlogged: boolean
  /** The query of a view; null where it could not be read. */
  readonly definition: Facts | null
  /** What row-level security asks of those who read it; null where it could not be read. */
  readonly policies: readonly Facts[] | null
  /** Partitions, and tables that inherit from it; by key (`schema.name`). */
  readonly children: readonly string[]
  /** Tables that a foreign key changes when this one is written; by key. */
  readonly cascades: readonly string[]
  /** Functions that a write to it calls: of triggers, defaults, checks and indexes. */
  readonly onWrite: readonly string[]
  /** A rule makes something else of a write to it. */
  readonly ruled: boolean
}

/** A relation's key: what own writes are remembered by. */
export function keyOf({ schema, name }: { readonly schema: string; readonly name: string }): string {
  return `${schema}.${name}`
}
