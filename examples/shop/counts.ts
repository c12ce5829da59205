// Where the work ran, asked of the servers themselves: PostgreSQL's own statistics before and after each round.
// A server process reports at the latest when it ends, so a round is counted after its client has closed.

import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'

export interface Counts {
  /** Committed and rolled back; a statement outside a transaction block is one, too. */
  readonly transactions: number
  /** Rows that scans of the shop's tables gave. */
  readonly rowsRead: number
  /** Rows of the shop's tables inserted, updated, deleted. */
  readonly rowsWritten: number
}

/** What one server did between two moments; the questions asked here are taken off again. */
export class Tally {
  readonly #url: string
  readonly #schema: string
  #before = nothing
  #asked = 0

  constructor(url: string, schema: string) {
    this.#url = url
    this.#schema = schema
  }

  async begin(): Promise<void> {
    this.#asked = 0
    this.#before = await this.#counts()
  }

  /** Waits until no connection of that name is left on the server, but for 5 s at most. */
  async end(applicationName: string): Promise<Counts> {
    const until = performance.now() + 5_000
    while ((await this.#connections(applicationName)) > 0 && performance.now() < until) await sleep(20)
    // Each question is two transactions: the connection's own start, and the statement.
    const own = { ...nothing, transactions: 2 * this.#asked }
    return minus(minus(await this.#counts(), this.#before), own)
  }

  async #connections(applicationName: string): Promise<number> {
    const [row] = await this.#ask<{ n: number }>(
      'select count(*)::int as n from pg_stat_activity where application_name = $1',
      [applicationName],
    )
    return row!.n
  }

  async #counts(): Promise<Counts> {
    const [row] = await this.#ask<Counts>(
      `select (xact_commit + xact_rollback)::float8 as transactions, tables.*
       from pg_stat_database, (
         select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::float8 as "rowsRead",
           coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::float8 as "rowsWritten"
         from pg_stat_user_tables where schemaname = $1
       ) tables where datname = current_database()`,
      [this.#schema],
    )
    return row!
  }

  async #ask<R>(sql: string, parameters: readonly unknown[]): Promise<R[]> {
    this.#asked++
    return rowsOf<R>(this.#url, sql, parameters)
  }
}

export async function rowsOf<R>(url: string, sql: string, parameters: readonly unknown[] = []): Promise<R[]> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 10_000 })
  client.on('error', () => {}) // told by the query that fails
  try {
    await client.connect()
    return (await client.query(sql, [...parameters])).rows as R[]
  } finally {
    await client.end().catch(() => {})
  }
}

export const nothing: Counts = { transactions: 0, rowsRead: 0, rowsWritten: 0 }

export function plus(a: Counts, b: Counts): Counts {
  return {
    transactions: a.transactions + b.transactions,
    rowsRead: a.rowsRead + b.rowsRead,
    rowsWritten: a.rowsWritten + b.rowsWritten,
  }
}

function minus(a: Counts, b: Counts): Counts {
  return {
    transactions: a.transactions - b.transactions,
    rowsRead: a.rowsRead - b.rowsRead,
    rowsWritten: a.rowsWritten - b.rowsWritten,
  }
}
