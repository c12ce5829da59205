// The connection object Kysely holds. Kysely asks for it before it knows the query, so it costs nothing until
// the first statement, which decides where it lives. Everything goes through its own `executeQuery`, because
// Kysely patches that for its log; so the object is never frozen.

import { CompiledQuery } from 'kysely'
import type { DatabaseConnection, QueryResult, TransactionSettings } from 'kysely'
import { SmartPgError, releasedError } from '../core/errors.ts'
import type { Wish } from '../core/route.ts'
import { BEGIN_FACTS } from '../core/statements.ts'
import type { Rows, Statement } from '../core/types.ts'
import type { Engine } from '../engine/engine.ts'
import { execute } from '../engine/execute.ts'
import { Hold } from '../engine/hold.ts'
import { holderAround, standsIn } from '../engine/holder.ts'
import { stream } from '../engine/stream.ts'
import { Together, goesTogether } from '../engine/together.ts'
import { AbortedTransactionError } from './aborted.ts'
import { markOf, markWith } from './mark.ts'
import { toResult, withCallerStack } from './result.ts'

/** What newer versions of Kysely hand along; older ones hand nothing. */
export interface AbortableOptions {
  readonly signal?: AbortSignal
}

export class Lease implements DatabaseConnection {
  readonly #engine: Engine
  readonly #hold = new Hold()
  /** BEGIN is the next statement, whatever its text says. */
  #beginning = false
  #lastCommand: string | null = null
  /** COMMIT or ROLLBACK, while it is under way. */
  #ending: CompiledQuery | null = null
  /** A transaction has ended, and nothing has come since. */
  #hasEnded = false
  /** The statement before, while it runs: the next one waits for it where it may change the connection. */
  #before: Promise<Rows> | null = null

  constructor(engine: Engine) {
    this.#engine = engine
  }

  /** Whether a transaction of Kysely's is open on this connection. */
  get inTransaction(): boolean {
    return this.#hold.transaction !== 'none'
  }

  get engine(): Engine {
    return this.#engine
  }

  get hold(): Hold {
    return this.#hold
  }

  async executeQuery<R>(query: CompiledQuery, options?: AbortableOptions): Promise<QueryResult<R>> {
    if (this.#hasEnded) await this.#turn()
    this.#assertHeld(query)
    const statement = this.#statementOf(query)
    // Where the statement before may still change the connection, this one must see which it has become.
    while (this.#before !== null && this.#hold.bound === null) await this.#before.catch(() => undefined)
    const { timeoutMs, wish } = markOf(query)
    const running = execute(this.#engine, this.#hold, statement, { signal: options?.signal, timeoutMs, wish })
    this.#before = running
    try {
      const answer = await running
      this.#lastCommand = answer.command
      return toResult<R>(answer)
    } catch (error) {
      throw withCallerStack(error)
    } finally {
      if (this.#before === running) this.#before = null
    }
  }

  async *streamQuery<R>(
    query: CompiledQuery,
    chunkSize: number,
    options?: AbortableOptions,
  ): AsyncIterableIterator<QueryResult<R>> {
    if (this.#hasEnded) await this.#turn()
    this.#assertHeld(query)
    if (!Number.isInteger(chunkSize) || chunkSize <= 0) {
      throw new SmartPgError(
        'SMARTPG_INVALID_QUERY',
        `chunkSize: expected a whole number above 0, received ${chunkSize}.`,
        { phase: 'stream' },
      )
    }
    const statement = this.#statementOf(query)
    try {
      const { timeoutMs, wish } = markOf(query)
      const limits = { chunkSize, signal: options?.signal, timeoutMs, wish }
      for await (const rows of stream(this.#engine, this.#hold, statement, limits)) {
        yield { rows: rows as R[] }
      }
    } catch (error) {
      throw withCallerStack(error)
    }
  }

  async begin(settings: TransactionSettings, options?: AbortableOptions, wish?: Wish): Promise<void> {
    const { accessMode, isolationLevel } = settings
    this.#hold.within = holderAround()
    standsIn(this.#hold)
    // A standby has no SERIALIZABLE.
    const offloadable = accessMode === 'read only' && isolationLevel !== 'serializable'
    this.#hold.begins(offloadable ? 'read-only' : 'read-write')
    this.#beginning = true
    try {
      const begin = CompiledQuery.raw(beginText(settings))
      await this.executeQuery(wish === undefined ? begin : markWith(begin, { wish }), options)
    } catch (error) {
      this.#hold.leaveTransaction()
      // Not every Kysely gives back the connection of a controlled transaction that could not begin.
      if (this.#hold.answered === 0) this.#hold.release()
      throw error
    } finally {
      this.#beginning = false
    }
  }

  /** Nothing of the transaction has been sent on the connection that is gone: it begins on another one. */
  async beginElsewhere(begin: Statement): Promise<void> {
    this.#hold.release('error')
    this.#hold.lazy = begin
    await execute(this.#engine, this.#hold, begin)
  }

  async commit(): Promise<void> {
    try {
      await this.#ends(CompiledQuery.raw('commit'))
    } catch (error) {
      // Who ends his transaction himself has nothing to roll back then, and would keep the place.
      if (this.#hold.pooled !== null && this.#hold.pooled.session.lost !== null) {
        this.#hold.leaveTransaction()
        this.#hold.release('error')
      }
      throw error
    }
    this.committed()
  }

  /**
   * Whoever comes when a transaction has ended may be one of its own statements that Kysely has held back: a turn later it
   * has let go of the lease, or the next one is meant for what comes after it.
   */
  async #turn(): Promise<void> {
    await new Promise<void>((resolve) => this.#engine.clock.nextTurn(resolve))
    this.#hasEnded = false
  }

  /** What its transaction still sends comes too late: behind COMMIT or ROLLBACK it would run on its own. */
  async #ends(query: CompiledQuery): Promise<void> {
    this.#ending = query
    try {
      await this.executeQuery(query)
    } finally {
      this.#ending = null
      this.#hasEnded = true
    }
  }

  /** Whether these can leave in one write, behind what this connection has been sent. */
  goTogether(queries: readonly CompiledQuery[]): boolean {
    if (this.#hold.pooled?.session.pipelines !== true) return false
    return queries.every(({ sql, parameters }) => goesTogether(this.#engine.statement(sql, parameters)))
  }

  /** All in one write and under one Sync; each is logged, and fails, by itself. Settles when all have. */
  async together(queries: readonly CompiledQuery[]): Promise<PromiseSettledResult<QueryResult<unknown>>[]> {
    const hold = this.#hold
    const { session } = hold.pooled!
    const together = new Together(hold.node!.name, session, queries.length, hold.begin)
    const opening = hold.begin === null ? null : hold.opens(hold.begin)
    hold.together = together
    try {
      return await Promise.allSettled(queries.map((query) => this.#gather(together, query)))
    } finally {
      hold.together = null
      opening?.ended(...(await together.refusal()))
    }
  }

  async #gather(together: Together, query: CompiledQuery): Promise<QueryResult<unknown>> {
    try {
      return await this.executeQuery(query)
    } catch (error) {
      // The others would wait for it.
      together.refuse(error)
      throw error
    }
  }

  /** The transaction has ended with the COMMIT that was sent last. */
  committed(): void {
    this.#hold.leaveTransaction()
    // PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK, and no error.
    if (this.#lastCommand === 'ROLLBACK') throw new AbortedTransactionError()
  }

  /** Never throws: a connection that cannot roll back is closed, which does, and the user's own error matters. */
  async rollback(): Promise<void> {
    const { pooled } = this.#hold
    try {
      if (pooled === null || pooled.session.lost !== null) return
      if (pooled.session.unanswered > 0) await this.#engine.cancel(this.#hold)
      await this.#ends(CompiledQuery.raw('rollback'))
    } catch {
      this.#hold.discard = true
    } finally {
      this.#hold.leaveTransaction()
    }
  }

  /** Kysely asks before the query is known; what a cancel needs is known when there is something to cancel. */
  async collectSessionInfo(): Promise<void> {}

  /** Cancels what this lease runs now, on a channel of its own; never a neighbour's statement. */
  async cancelQuery(): Promise<void> {
    await this.#engine.cancel(this.#hold)
  }

  /** Cancels and closes the connection. */
  async killSession(): Promise<void> {
    this.#hold.discard = true
    await this.#engine.kill(this.#hold)
  }

  release(): void {
    this.#hold.end()
  }

  #statementOf({ sql, parameters }: CompiledQuery): Statement {
    if (this.#beginning) return this.#beginOf(sql)
    return this.#engine.statement(sql, parameters)
  }

  /** Where several statements may be under way, BEGIN rides with the first statement. */
  #beginOf(sql: string): Statement {
    const begin: Statement = { sql, parameters: [], facts: BEGIN_FACTS }
    const { config } = this.#engine
    if (config.transactions.lazyBegin && config.wire === 'native') this.#hold.lazy = begin
    return begin
  }

  #assertHeld(query: CompiledQuery): void {
    if (this.#hold.ended || (this.#ending !== null && this.#ending !== query)) throw releasedError()
  }
}

function beginText({ accessMode, isolationLevel }: TransactionSettings): string {
  if (isolationLevel === undefined && accessMode === undefined) return 'begin'
  const isolation = isolationLevel === undefined ? '' : ` isolation level ${isolationLevel}`
  return `start transaction${isolation}${accessMode === undefined ? '' : ` ${accessMode}`}`
}
