// What a workload is: groups of callers at work at the same time, each with one operation under way, and checked
// answers, so that a client cannot be fast by being wrong.

import type { Operations } from '../operations.ts'

/** Counts what a table shows besides rates: rows that belong to somebody else, for example. */
export type Tally = (what: string, count: number) => void

export interface Group {
  /** How its operations are called in the report: `reads`. */
  readonly name: string
  readonly callers: number
  /** One operation; rejects when it fails or its answer is wrong. */
  once(client: Operations, tally: Tally): Promise<void>
}

/** A script of pgbench that does the same, and its share of all. */
export interface PgbenchScript {
  readonly text: string
  readonly weight: number
}

/** A column that only some workloads have. */
export type ExtraColumn = 'late' | 'round trips' | 'foreign rows'

export interface Workload {
  readonly name: string
  readonly description: string
  /** Who is at work, where that belongs to the workload; otherwise `--concurrency` says how many callers. */
  readonly crowd?: string
  /** The first group is the one that the ratio is about. */
  groups(callers: number): readonly Group[]
  /** Run on the server before every table of results. */
  readonly refresh?: readonly string[]
  /** The only clients that can do it; default all. */
  readonly clients?: readonly string[]
  /** Clients are opened with a hook that tells the server the tenant, under a role that row-level security binds. */
  readonly tenants?: boolean
  readonly pgbench?: readonly PgbenchScript[]
  readonly extra?: ExtraColumn
}
