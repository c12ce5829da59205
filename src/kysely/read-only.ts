// What `db.onReplica()` gives back: of Kysely whatever reads. A Kysely and a Transaction are such things as well, so a
// function that takes a `ReadOnlyKysely` can be called with any of the three. What types cannot see (raw SQL, row locks)
// is refused when it is run.

import type {
  CompiledQuery,
  ControlledTransaction,
  DrainOuterGeneric,
  Expression,
  IsolationLevel,
  Kysely,
  KyselyPlugin,
  QueryCreator,
  QueryCreatorWithCommonTableExpression,
  RawBuilder,
} from 'kysely'
import type { Duration } from '../config/options.ts'
import type { BatchOptions, BatchOutputs } from './batch-item.ts'
import type { ReplicaWish } from './wish.ts'

/** As Kysely's QueryCreator, for what reads. */
export interface ReadOnlyQueryCreator<DB> extends Pick<QueryCreator<DB>, 'selectFrom' | 'selectNoFrom'> {
  with<Name extends string, Query extends ReadOnlyCte<DB, Name>>(
    name: CteName<Name>,
    query: Query,
  ): ReadOnlyWith<DB, Name, Query>
  withRecursive<Name extends string, Query extends ReadOnlyCte<WithItself<DB, Name>, Name>>(
    name: CteName<Name>,
    query: Query,
  ): ReadOnlyWith<DB, Name, Query>
  withPlugin(plugin: KyselyPlugin): ReadOnlyQueryCreator<DB>
  withoutPlugins(): ReadOnlyQueryCreator<DB>
  withSchema(schema: string): ReadOnlyQueryCreator<DB>
}

/** As Kysely, for what reads: what `db.onReplica()` gives back. Every `Kysely<DB>` and `Transaction<DB>` is one, too. */
export interface ReadOnlyKysely<DB>
  extends
    ReadOnlyQueryCreator<DB>,
    Pick<Kysely<DB>, 'case' | 'dynamic' | 'fn' | 'isTransaction' | 'getExecutor' | 'executeQuery'> {
  withPlugin(plugin: KyselyPlugin): ReadOnlyKysely<DB>
  withoutPlugins(): ReadOnlyKysely<DB>
  withSchema(schema: string): ReadOnlyKysely<DB>
  withTimeout(timeout: Duration): ReadOnlyKysely<DB>
  onPrimary(): ReadOnlyKysely<DB>
  onReplica(options?: ReplicaWish): ReadOnlyKysely<DB>
  /** From `db.onReplica()` it is `read only` without being told. */
  transaction(): ReadOnlyTransactionBuilder<DB>
  /** From `db.onReplica()` it is `read only` without being told. */
  startTransaction(): ReadOnlyControlledTransactionBuilder<DB>
  connection(): ReadOnlyConnectionBuilder<DB>
  batch<const T extends readonly ReadOnlyBatchItem[]>(queries: T, options?: BatchOptions): Promise<BatchOutputs<T>>
}

export interface ReadOnlyTransactionBuilder<DB> {
  setAccessMode(accessMode: 'read only'): ReadOnlyTransactionBuilder<DB>
  setIsolationLevel(isolationLevel: IsolationLevel): ReadOnlyTransactionBuilder<DB>
  execute<T>(callback: (trx: ReadOnlyKysely<DB>) => Promise<T>): Promise<T>
}

export interface ReadOnlyControlledTransactionBuilder<DB> {
  setAccessMode(accessMode: 'read only'): ReadOnlyControlledTransactionBuilder<DB>
  setIsolationLevel(isolationLevel: IsolationLevel): ReadOnlyControlledTransactionBuilder<DB>
  execute(): Promise<ReadOnlyControlledTransaction<DB>>
}

export interface ReadOnlyControlledTransaction<DB>
  extends ReadOnlyKysely<DB>, Pick<ControlledTransaction<DB>, 'commit' | 'rollback' | 'isCommitted' | 'isRolledBack'> {}

export interface ReadOnlyConnectionBuilder<DB> {
  execute<T>(callback: (db: ReadOnlyKysely<DB>) => Promise<T>, options?: { signal?: AbortSignal }): Promise<T>
}

/** Of what `db.batch` takes: a select, sql``, a CompiledQuery. */
export type ReadOnlyBatchItem = ReadOnlyBuilder | RawBuilder<unknown> | CompiledQuery

interface ReadOnlyBuilder {
  readonly isSelectQueryBuilder: true
  execute(): Promise<unknown>
  compile(): CompiledQuery
}

// oxlint-disable-next-line typescript/no-explicit-any -- asked for its signature alone
declare const creator: QueryCreator<any>

/** A name, or a callback that adds `materialized()` to it; Kysely does not export the type of the callback. */
type CteName<Name extends string> = Parameters<typeof creator.with<Name, never>>[0]

type ReadOnlyCte<DB, Name> = (creator: ReadOnlyQueryCreator<DB>) => Expression<RowOf<Name>>

/** The tables that Kysely makes of it; what it does not export is inferred from what it does. */
type ReadOnlyWith<DB, Name extends string, Query> =
  QueryCreatorWithCommonTableExpression<DB, Name, Query> extends QueryCreator<infer Tables>
    ? ReadOnlyQueryCreator<Tables>
    : never

type WithItself<DB, Name extends string> = DB & { [Table in TableOf<Name>]: RowOf<Name> }

/** `t` of `t(a, b)`. */
type TableOf<Name> = Name extends `${infer Table}(${string})` ? Table : Name

// oxlint-disable typescript/no-explicit-any -- only the names of its columns are known
type RowOf<Name> = Name extends `${string}(${infer Columns})`
  ? { [Column in ColumnsOf<Columns>]: any }
  : DrainOuterGeneric<{ [Column in string]: any }>
// oxlint-enable typescript/no-explicit-any

type ColumnsOf<List> = List extends `${infer Column}, ${infer Rest}` ? Column | ColumnsOf<Rest> : List
