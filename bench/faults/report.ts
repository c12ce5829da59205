// What came out of fault runs, as Markdown, as it stands in ../README.md; and for whoever wants to know why, what
// callers were told from moment to moment.

import { isAnswered } from '../../test/support/fault-load/level.ts'
import type { Level } from '../../test/support/fault-load/level.ts'

const columns: readonly (readonly [head: string, cell: (level: Level) => string])[] = [
  ['fault', ({ scenario }) => scenario],
  ['client', ({ client }) => client],
  ['answered', ({ answered, due }) => (due === 0 ? '–' : `${((100 * answered) / due).toFixed(1)} %`)],
  ['lost', ({ verdict }) => String(verdict.lost)],
  ['twice', ({ verdict }) => String(verdict.twice)],
  ['torn', ({ verdict }) => String(verdict.torn)],
  ['wrong', ({ verdict: { wrong, short, dirty, untrue } }) => String(wrong + short + dirty + untrue)],
  ['hung', ({ verdict }) => String(verdict.hung)],
  ['crashes', ({ crashes }) => String(crashes.length)],
  ['unknown', ({ unknown }) => String(unknown)],
  ['first answer', ({ firstAnswerMs }) => ms(firstAnswerMs)],
  ['recovered', ({ recoveredMs }) => ms(recoveredMs)],
  ['capacity', ({ capacity }) => String(capacity)],
  ['left', ({ left }) => String(left)],
]

export function tableOf(levels: readonly Level[]): string {
  return markdown([columns.map(([head]) => head), ...levels.map((level) => columns.map(([, cell]) => cell(level)))])
}

/** The first row is the head; the first two columns are words, the others figures. */
export function markdown(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const texts = 2
  const lines = rows.map((row) => {
    const cells = row.map((cell, i) => (i < texts ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
    return `| ${cells.join(' | ')} |`
  })
  const rule = widths.map((width, i) => (i < texts ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`))
  return [lines[0]!, `| ${rule.join(' | ')} |`, ...lines.slice(1)].join('\n')
}

/** One line of a run, as soon as it is over. */
export function lineOf(level: Level): string {
  const { scenario, client, due, answered, failures, verdict, crashes, recoveredMs, failedBefore } = level
  const { capacity, left, destroyMs } = level
  const share = due === 0 ? '–' : `${((100 * answered) / due).toFixed(1)} %`
  const told = [failures, failedBefore > 0 ? `${failedBefore} failed before the fault` : '']
  const { examples, ...counts } = verdict
  const faults = Object.entries(counts).filter(([, count]) => count > 0)
  return [
    `${scenario}, ${client}: ${answered} of ${due} answered (${share}), recovered ${ms(recoveredMs)}`,
    `  ${capacity} connections at once afterwards, ${left} left, destroy() took ${ms(destroyMs)}`,
    `  ${told.map((one) => (typeof one === 'string' ? one : JSON.stringify(one))).join(' ')}`,
    ...(faults.length === 0 ? [] : [`  ${faults.map(([what, count]) => `${count} ${what}`).join(', ')}`]),
    ...examples.map((example) => `  ${example.slice(0, 300)}`),
    ...crashes.slice(0, 1).map((crash) => `  ${crashes.length} × ${crash.split('\n').slice(0, 3).join(' ')}`),
  ].join('\n')
}

const QUARTER_MS = 250

/** By the quarter of a second since the fault began, by when they were due. */
export function timelineOf({ log, beganAt, healedAt }: Level): string {
  const quarters = new Map<number, { due: number; told: Map<string, number>; slowestMs: number }>()
  const quarterOf = (at: number): number => Math.floor((at - beganAt) / QUARTER_MS)
  for (const entry of log.entries) {
    const quarter = quarterOf(entry.due)
    const row = quarters.get(quarter) ?? { due: 0, told: new Map<string, number>(), slowestMs: 0 }
    quarters.set(quarter, row)
    row.due++
    const failure = `${entry.kind} ${entry.wrong === null ? entry.told : 'wrong'}`
    if (isAnswered(entry)) row.slowestMs = Math.max(row.slowestMs, entry.settled! - entry.due)
    else row.told.set(failure, (row.told.get(failure) ?? 0) + 1)
  }
  const lines = [...quarters]
    .toSorted(([a], [b]) => a - b)
    .map(([quarter, { due, told, slowestMs }]) => {
      const failures = [...told].map(([what, count]) => `${count} ${what}`).join(', ')
      return `  ${seconds(quarter * QUARTER_MS)}  ${due} due, slowest answer ${slowestMs.toFixed(0)} ms  ${failures}`
    })
  const did = new Map<string, { count: number; first: number; last: number }>()
  for (const [at, what] of log.history) {
    if (at < beganAt) continue
    const key = `${quarterOf(at)} ${what}`
    const row = did.get(key) ?? { count: 0, first: at, last: at }
    did.set(key, { count: row.count + 1, first: row.first, last: at })
  }
  const history = [...did].map(([key, { count, first }]) => {
    return `  ${seconds(first - beganAt)}  ${count} × ${key.slice(key.indexOf(' ') + 1)}`
  })
  return [`  healed at ${seconds(healedAt - beganAt)}`, ...lines, '  what the client did', ...history].join('\n')
}

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1_000).toFixed(2)} s`.padStart(8)
}

export function ms(value: number | null): string {
  return value === null ? 'never' : `${value.toFixed(0)} ms`
}
