// Plain pipelining: a statement goes to the connection with the fewest unanswered, whatever stands there. Everything
// else is as in kysely-smart-pg (its wire, its encoder, named statements), so that only the rule of the lanes differs.
// No application should do this: see what becomes of the fast ones in `head-of-line`.

import { CompiledQuery, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type { DatabaseConnection, Dialect, Driver, QueryResult } from 'kysely'
import type { Session, Statement } from '../../src/core/types.ts'
import { systemClock } from '../../src/engine/clock.ts'
import { toResult } from '../../src/kysely/result.ts'
import { factsOf } from '../../src/sql/facts.ts'
import { nativeSessionOpener } from '../../src/wire/open.ts'
import type { OpenClient, OpenOptions } from './contract.ts'
import { operationsOf } from './kysely.ts'
import type { Database } from './kysely.ts'

export function openLeastInFlight({ url, connections }: OpenOptions): OpenClient {
  const dialect: Dialect = {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new LeastInFlightDriver(url, connections),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  }
  const db = new Kysely<Database>({ dialect })
  return { ...operationsOf(db), close: () => db.destroy() }
}

class LeastInFlightDriver implements Driver {
  readonly #url: string
  readonly #connections: number
  /** Those of transactions are taken out until they end. */
  readonly #shared: Session[] = []
  readonly #waiting: (() => void)[] = []
  readonly #prepared = new Map<string, Pick<Statement, 'name' | 'facts'>>()

  constructor(url: string, connections: number) {
    this.#url = url
    this.#connections = connections
  }

  async init(): Promise<void> {
    const open = nativeSessionOpener({
      node: 'primary',
      clock: systemClock,
      target: () => this.#url,
      ssl: undefined,
      types: undefined,
      applicationName: 'least-in-flight',
      settings: {},
      cacheSize: 1000,
      mayBePooled: () => false,
      onStatementsUnreliable: () => undefined,
      onStatementsOutdated: () => undefined,
    })
    const opening = Array.from({ length: this.#connections }, () => open({ timeoutMs: 10_000 }))
    this.#shared.push(...(await Promise.all(opening)))
  }

  async acquireConnection(): Promise<Caller> {
    return new Caller(this)
  }

  async beginTransaction(connection: DatabaseConnection): Promise<void> {
    const session = this.least() ?? (await this.waitForOne())
    this.#shared.splice(this.#shared.indexOf(session), 1)
    ;(connection as Caller).pinned = session
    await connection.executeQuery(CompiledQuery.raw('begin'))
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    await this.#endTransaction(connection as Caller, 'commit')
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    await this.#endTransaction(connection as Caller, 'rollback')
  }

  async releaseConnection(): Promise<void> {
    // A connection here is only somebody who asks.
  }

  async destroy(): Promise<void> {
    await Promise.all(this.#shared.map((session) => session.close(1_000)))
  }

  least(): Session | undefined {
    let least: Session | undefined
    for (const session of this.#shared) {
      if (least === undefined || session.unanswered < least.unanswered) least = session
    }
    return least
  }

  async waitForOne(): Promise<Session> {
    for (let session = this.least(); ; session = this.least()) {
      if (session !== undefined) return session
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  statementOf({ sql, parameters }: CompiledQuery): Statement {
    let prepared = this.#prepared.get(sql)
    if (prepared === undefined) {
      prepared = { name: `bench_${this.#prepared.size}`, facts: factsOf(sql) }
      this.#prepared.set(sql, prepared)
    }
    return { sql, parameters, name: prepared.name!, facts: prepared.facts }
  }

  async #endTransaction(caller: Caller, command: string): Promise<void> {
    await caller.executeQuery(CompiledQuery.raw(command))
    this.#shared.push(caller.pinned!)
    caller.pinned = undefined
    for (const wake of this.#waiting.splice(0)) wake()
  }
}

class Caller implements DatabaseConnection {
  readonly #driver: LeastInFlightDriver
  pinned: Session | undefined

  constructor(driver: LeastInFlightDriver) {
    this.#driver = driver
  }

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    const session = this.pinned ?? this.#driver.least() ?? (await this.#driver.waitForOne())
    return toResult<R>(await session.send(this.#driver.statementOf(query)))
  }

  streamQuery(): never {
    throw new Error('streams are not measured')
  }
}
