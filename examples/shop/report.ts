// The result in 80 columns. The ratio is kysely-smart-pg divided by PostgresDialect.

import type { ClientName } from './clients.ts'
import type { Counts } from './counts.ts'
import type { Measured } from './round.ts'

export interface Outcome {
  readonly name: ClientName
  readonly measured: Measured
  /** By server, the primary first. */
  readonly counts: readonly Counts[]
}

export function report(smart: Outcome, stock: Outcome): string {
  return [
    ...measuredTable(smart, stock),
    '',
    'Where it ran, as the servers counted it (with warm-up and connecting):',
    ...countsTable([smart, stock]),
    ...firstErrors([smart, stock]),
  ]
    .map((line) => line.trimEnd())
    .join('\n')
}

function measuredTable(smart: Outcome, stock: Outcome): string[] {
  const line = (label: string, of: (measured: Measured) => number, digits: number, unit = ''): string => {
    const [a, b] = [of(smart.measured), of(stock.measured)]
    const shown = (value: number): string => `${grouped(value, digits)}${unit}`
    return columns(label, shown(a), shown(b), b > 0 ? `${(a / b).toFixed(2)} x` : '-')
  }
  const count = (label: string, of: (measured: Measured) => number): string =>
    columns(label, grouped(of(smart.measured)), grouped(of(stock.measured)), '')
  return [
    columns('', smart.name, stock.name, 'ratio'),
    line('operations per second', (m) => (1000 * m.operations) / m.wallMs, 0),
    line('queries per second', (m) => (1000 * m.queries) / m.wallMs, 0),
    ...[50, 95, 99].map((p) => line(`latency p${p}`, (m) => percentile(m.latencies, p), 1, ' ms')),
    line('client CPU per query', (m) => (1000 * m.cpuMs) / m.queries, 0, ' us'),
    count('errors', (m) => m.errors),
    count('own orders not seen', (m) => m.ownOrdersNotSeen),
  ]
}

function countsTable(outcomes: readonly Outcome[]): string[] {
  const rows = outcomes.flatMap(({ name, counts }) => {
    const all = counts.reduce((sum, server) => sum + server.transactions, 0)
    return counts.map((server, i) => {
      const share = all > 0 ? ` (${Math.round((100 * server.transactions) / all)} %)` : ''
      return [
        i === 0 ? name : '',
        i === 0 ? 'primary' : `replica ${i}`,
        `${grouped(server.transactions)}${share.padStart(8)}`,
        grouped(server.rowsRead),
        grouped(server.rowsWritten),
      ]
    })
  })
  return [['', '', 'transactions        ', 'rows read', 'rows written'], ...rows].map(
    ([name, server, transactions, read, written]) =>
      `${name!.padEnd(17)}${server!.padEnd(11)}${transactions!.padStart(22)}${read!.padStart(14)}${written!.padStart(14)}`,
  )
}

function firstErrors(outcomes: readonly Outcome[]): string[] {
  return outcomes
    .filter(({ measured }) => measured.errors > 0)
    .flatMap(({ name, measured: { firstError } }) => ['', `First error of ${name}: ${messageOf(firstError)}`])
}

/** Also of an AggregateError, which has none of its own: localhost has two addresses, and both refuse. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ')
  return error instanceof Error ? error.message : String(error)
}

function columns(label: string, smart: string, stock: string, ratio: string): string {
  return `${label.padEnd(26)}${smart.padStart(18)}${stock.padStart(18)}${ratio.padStart(12)}`
}

/** Nearest rank; NaN when nothing was measured. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)] ?? Number.NaN
}

// Not the reader's locale: the table shall look the same everywhere.
function grouped(value: number, digits = 0): string {
  if (!Number.isFinite(value)) return '-'
  return value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}
