// The result as Markdown, as it stands in README.md: one table for each workload and number of callers.

import type { Round } from './round.ts'
import { medianOf, spreadOf } from './statistics.ts'

export interface MeasuredRound extends Round {
  /** Of the server's processes per operation. */
  readonly serverCpuUs: number
}

/** Rounds of one client, in the order in which they were run. */
export interface Series {
  readonly label: string
  readonly rounds: readonly MeasuredRound[]
}

/** What kysely-smart-pg wants to reach, by callers. */
const goals: { readonly [concurrency: number]: number } = { 1: 1.2, 10: 1.3, 100: 1.3 }

/** `stock` is what all others are divided by, round by round. */
export function tableOf(series: readonly Series[], stock: Series, concurrency: number): string {
  const goal = goals[concurrency]
  const head = [
    'client',
    'queries/s',
    'ratio',
    'p50 ms',
    'p95 ms',
    'p99 ms',
    'client CPU µs',
    'server CPU µs',
    'errors',
  ]
  const rows = series.map((one) => [
    one.label,
    Math.round(medianOf(one.rounds.map(({ rate }) => rate))).toLocaleString('en-US'),
    one === stock ? '1' : ratio(one, stock),
    median(one, 'p50Ms', 3),
    median(one, 'p95Ms', 3),
    median(one, 'p99Ms', 3),
    median(one, 'cpuUs', 1),
    median(one, 'serverCpuUs', 1),
    String(one.rounds.reduce((sum, { errors }) => sum + errors, 0)),
  ])
  const callers = concurrency === 1 ? '1 caller' : `${concurrency} callers`
  const title = goal === undefined ? callers : `${callers} (goal of kysely-smart-pg: ${goal})`
  return [`**${title}**`, '', ...markdown([head, ...rows])].join('\n')
}

function ratio(one: Series, stock: Series): string {
  const { median: middle, min, max } = spreadOf(one.rounds.map(({ rate }, i) => rate / stock.rounds[i]!.rate))
  return `${middle.toFixed(2)} (${min.toFixed(2)}–${max.toFixed(2)})`
}

function median(one: Series, of: 'p50Ms' | 'p95Ms' | 'p99Ms' | 'cpuUs' | 'serverCpuUs', digits: number): string {
  return medianOf(one.rounds.map((round) => round[of])).toFixed(digits)
}

/** The first column left, numbers right, padded so that it can be read as it is. */
function markdown(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  const padded = rows.map((row) =>
    line(row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))),
  )
  const rule = line(widths.map((width, column) => (column === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)))
  return [padded[0]!, rule, ...padded.slice(1)]
}
