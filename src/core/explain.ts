// What `explainRoute` answers: where a statement would run now, why, and what there was to choose from; as data, and as a
// text for people, whose form stays the same so that it can be compared.

import type { InUse } from './adaptive.ts'
import type { RouteReason } from './cells.ts'
import type { HealthScore } from './standing.ts'
import type { BreakerStateName } from './events.ts'
import type { Facts, Role } from './types.ts'

export interface RouteExplanation {
  readonly target: Role
  /** The node it would run on now; null: nobody could take it. */
  readonly node: string | null
  readonly reason: RouteReason
  /** What its text says, with what the catalog adds. */
  readonly facts: Facts
  /** Why a standby has refused this text before; null: none has. */
  readonly refused: string | null
  /** How reads are spread now, and because of what. */
  readonly strategy: InUse
  /** Every node: the primary first. */
  readonly candidates: readonly CandidateExplanation[]
  /** All of it for people: `replica 'eu-2' — read (fresh, score 97): SELECT orders`, and a table of the candidates. */
  toString(): string
}

export interface CandidateExplanation {
  readonly name: string
  readonly role: Role
  /** It could take the statement. */
  readonly eligible: boolean
  /** Why, or why not: `fresh`, `too many bytes behind`, `circuit open` … */
  readonly because: string
  readonly lagMs: number | null
  readonly lagBytes: number | null
  readonly score: HealthScore
  /** Statements running and waiting there. */
  readonly load: number
  /** Peak-EWMA, milliseconds; null before the first answer. */
  readonly latencyMs: number | null
  readonly breaker: BreakerStateName
  /** Whether the writes that the statement must see are visible there; `none`: it must see none in particular. */
  readonly ownWrites: 'none' | 'visible' | 'not visible yet'
  readonly zone: string | undefined
  readonly priority: number
  readonly weight: number
  readonly tags: readonly string[]
}

/**
 * `replica 'eu-2' — read (fresh, score 97): SELECT orders`, then what the statement's text says, then a line for each
 * node. Names of tables and functions stand in it, parameters and literals never.
 */
export function explanationText(explanation: RouteExplanation): string {
  const { facts, refused, strategy, candidates } = explanation
  const said: [string, string][] = [
    ['statement', facts.because === 'read' ? facts.kind : `${facts.kind} (${facts.because})`],
    ['reads', facts.tablesRead.join(', ')],
    ['writes', facts.tablesWritten.join(', ')],
    ['calls', facts.functions.join(', ')],
    ['refused', refused ?? ''],
    ['strategy', `${strategy.strategy}: ${strategy.because}`],
  ]
  const headings = Object.keys(columns)
  const rows = candidates.map((candidate) => Object.values(columns).map((cell) => plain(cell(candidate))))
  return [
    headline(explanation),
    ...said.filter(([, what]) => what !== '').map(([label, what]) => `  ${label.padEnd(10)} ${plain(what)}`),
    ...aligned([headings, ...rows]).map((line) => `  ${line}`),
  ].join('\n')
}

function headline({ target, node, reason, facts, candidates }: RouteExplanation): string {
  const chosen = candidates.find(({ name }) => name === node)
  const state = chosen === undefined ? '' : ` (${chosen.because}, score ${Math.round(chosen.score.value)})`
  const where = node === null ? `no ${target}` : `${chosen?.role ?? target} '${node}'`
  return plain(`${where} — ${reason}${state}: ${facts.summary}`)
}

/** What nobody knows, or what says nothing here. */
const NONE = '–'

const columns: { readonly [heading: string]: (candidate: CandidateExplanation) => string } = {
  node: ({ name }) => name,
  role: ({ role }) => role,
  'could take it': ({ eligible, because }) => (because === '' ? yesNo(eligible) : `${yesNo(eligible)}: ${because}`),
  lag: ({ lagMs, lagBytes }) =>
    [lagMs === null ? '' : `${Math.round(lagMs)} ms`, lagBytes === null ? '' : `${lagBytes} B`]
      .filter((part) => part !== '')
      .join(', ') || NONE,
  score: ({ score }) => String(Math.round(score.value)),
  load: ({ load }) => String(load),
  latency: ({ latencyMs }) => (latencyMs === null ? NONE : `${latencyMs.toFixed(1)} ms`),
  breaker: ({ breaker }) => breaker,
  'own writes': ({ ownWrites }) => (ownWrites === 'none' ? NONE : ownWrites),
  zone: ({ zone }) => zone ?? NONE,
  priority: ({ priority }) => String(priority),
  weight: ({ weight }) => String(weight),
  tags: ({ tags }) => tags.join(', ') || NONE,
}

const yesNo = (claim: boolean): string => (claim ? 'yes' : 'no')

/** Each column as wide as its widest cell. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  )
}

/** A quoted name may hold a line break; a line of this text may not. */
function plain(text: string): string {
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, ' ')
}
