// What came out of rounds on a cluster, as Markdown, as it stands in ../README.md: of every figure the median of the
// rounds and the worst one; of what must not happen the sum.

import type { Level } from '../../test/support/fault-load/level.ts'
import { markdown, ms } from '../faults/report.ts'

type Rounds = readonly Level[]

const columns: readonly (readonly [head: string, cell: (rounds: Rounds) => string])[] = [
  ['fault', ([first]) => first!.scenario],
  ['client', ([first]) => first!.client],
  ['rounds', (rounds) => String(rounds.length)],
  ['answered', (rounds) => least(rounds, ({ answered, due }) => share(answered, due))],
  ['reads', (rounds) => least(rounds, ({ readsAnswered, readsDue }) => share(readsAnswered, readsDue))],
  // Of takers of turns among standbys nobody writes.
  ['first write', (rounds) => (rounds[0]!.client === 'stock-replicas' ? '–' : most(rounds, ({ firstWriteMs }) => firstWriteMs))], // prettier-ignore
  ['recovered', (rounds) => most(rounds, ({ recoveredMs }) => recoveredMs)],
  ['lost', (rounds) => sum(rounds, ({ verdict }) => verdict.lost)],
  ['twice', (rounds) => sum(rounds, ({ verdict }) => verdict.twice)],
  ['torn', (rounds) => sum(rounds, ({ verdict }) => verdict.torn)],
  ['wrong', (rounds) => sum(rounds, ({ verdict: { wrong, short, dirty, untrue } }) => wrong + short + dirty + untrue)],
  ['hung', (rounds) => sum(rounds, ({ verdict }) => verdict.hung)],
  ['unknown', (rounds) => sum(rounds, ({ unknown }) => unknown)],
  ['crashes', (rounds) => sum(rounds, ({ crashes }) => crashes.length)],
  ['left', (rounds) => sum(rounds, ({ left }) => left)],
]

export function tableOf(results: readonly Rounds[]): string {
  return markdown([columns.map(([head]) => head), ...results.map((rounds) => columns.map(([, cell]) => cell(rounds)))])
}

const share = (part: number, whole: number): number => (whole === 0 ? NaN : (100 * part) / whole)

function least(rounds: Rounds, of: (level: Level) => number): string {
  const values = rounds.map(of).filter((value) => !Number.isNaN(value))
  if (values.length === 0) return '–'
  return `${median(values).toFixed(1)} % (${Math.min(...values).toFixed(1)} %)`
}

/** `never` is the worst of all. */
function most(rounds: Rounds, of: (level: Level) => number | null): string {
  const values = rounds.map((level) => of(level) ?? Infinity)
  return `${told(median(values))} (${told(Math.max(...values))})`
}

const told = (value: number): string => ms(value === Infinity ? null : value)

function sum(rounds: Rounds, of: (level: Level) => number): string {
  return String(rounds.reduce((all, level) => all + of(level), 0))
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!
}
