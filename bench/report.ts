// The result as Markdown, as it stands in README.md: one table for each workload and number of callers.

import { errorsOf } from './compare.ts'
import type { MeasuredRound, Series } from './compare.ts'
import type { Line } from './delay/line.ts'
import { divisor } from './field.ts'
import { medianOf, spreadOf } from './statistics.ts'
import type { Spread } from './statistics.ts'
import type { ExtraColumn, Workload } from './workloads/contract.ts'

interface Column {
  readonly head: string
  readonly cell: (one: Series) => string
}

export function tableOf(series: readonly Series[], workload: Workload, line: Line): string {
  const columns = columnsOf(series, workload, line)
  const head = ['client', ...columns.map(({ head }) => head)]
  return markdown([head, ...series.map((one) => [one.label, ...columns.map(({ cell }) => cell(one))])]).join('\n')
}

export function titleOf(workload: Workload, callers: number, line: Line): string {
  const crowd = workload.crowd ?? (callers === 1 ? '1 caller' : `${callers.toLocaleString('en-US')} callers`)
  if (line.delayMs === 0) return `**${crowd}**`
  return `**${crowd}, ${line.delayMs} ms of network (a round trip takes ${line.roundTripMs.toFixed(2)} ms)**`
}

/** Of group `group`, round by round; NaN when there is nothing to divide or to divide by. */
export function ratioOf(one: Series, series: readonly Series[], group: number): Spread {
  const by = series.find(({ label }) => label === divisor)?.rounds ?? []
  const pairs = one.rounds.slice(0, by.length)
  return spreadOf(pairs.map(({ groups }, i) => groups[group]!.rate / by[i]!.groups[group]!.rate))
}

function columnsOf(series: readonly Series[], workload: Workload, line: Line): readonly Column[] {
  const columns: Column[] = []
  for (const [i, { name }] of workload.groups(1).entries()) {
    columns.push(
      median(`${name}/s`, 0, ({ groups }) => groups[i]!.rate),
      { head: 'ratio', cell: (one) => (one.label === divisor ? '1' : spread(ratioOf(one, series, i))) },
    )
    if (i === 0) columns.push(...latencies, ...extra(workload.extra, line))
  }
  return [
    ...columns,
    median('client CPU µs', 1, ({ cpuUs }) => cpuUs),
    median('server CPU µs', 1, ({ serverCpuUs }) => serverCpuUs),
    { head: 'errors', cell: (one) => String(errorsOf(one)) },
  ]
}

/** Of the first group. Who knows no percentiles shows its mean in place of the median. */
const latencies: readonly Column[] = [
  {
    head: 'p50 ms',
    cell: (one) => {
      const typical = shown(over(one, typicalMs), 3)
      return one.rounds.some(({ groups }) => Number.isNaN(groups[0]!.p50Ms)) ? `mean ${typical}` : typical
    },
  },
  median('p95 ms', 3, ({ groups }) => groups[0]!.p95Ms),
  median('p99 ms', 3, ({ groups }) => groups[0]!.p99Ms),
]

function extra(what: ExtraColumn | undefined, { delayMs, roundTripMs }: Line): readonly Column[] {
  switch (what) {
    case 'late':
      return [median('late %', 2, ({ groups }) => 100 * groups[0]!.late)]
    case 'round trips':
      // Without a network the server's own work is most of it.
      return delayMs === 0 ? [] : [median(what, 2, (round) => typicalMs(round) / roundTripMs)]
    case 'foreign rows':
      return [
        { head: what, cell: ({ rounds }) => String(rounds.reduce((n, { counted }) => n + (counted[what] ?? 0), 0)) },
      ]
    default:
      return []
  }
}

function typicalMs({ groups }: MeasuredRound): number {
  const { p50Ms, meanMs } = groups[0]!
  return Number.isNaN(p50Ms) ? meanMs : p50Ms
}

function median(head: string, digits: number, value: (round: MeasuredRound) => number): Column {
  return { head, cell: (one) => shown(over(one, value), digits) }
}

function over({ rounds }: Series, value: (round: MeasuredRound) => number): number {
  return medianOf(rounds.map(value))
}

function shown(value: number, digits: number): string {
  if (Number.isNaN(value)) return '–'
  return value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

function spread({ median, min, max }: Spread): string {
  return Number.isNaN(median) ? '–' : `${median.toFixed(2)} (${min.toFixed(2)}–${max.toFixed(2)})`
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
