// What the circuit breaker costs: `node bench/breaker.ts`. First the circuit alone, nanoseconds per call (admitted and
// settled) while it is closed; then what ten thousand callers pay whom the dialect turns away because the circuit is open,
// microseconds each, from the call of Kysely to the error. Nothing listens on the address, and nobody tries. It measures
// the sources, which need no build.

import { Kysely } from 'kysely'
import { Breaker, refused } from '../src/core/breaker.ts'
import { SmartPgDialect } from '../src/dialect.ts'
import { spreadOf } from './statistics.ts'

const rounds = 15
const callsPerRound = 1_000_000
const refusedPerRound = 10_000

const settings = {
  failureThreshold: 5,
  errorRate: 0.5,
  windowMs: 10_000,
  minimumCalls: 20,
  slowCallMs: 0,
  slowCallRate: 0.8,
  recoveryMinMs: 1_000,
  recoveryMaxMs: 60_000,
  halfOpenMaxCalls: 3,
  metricsOnly: false,
}

/** Time passes as it does under 20,000 calls a second, so that the window turns. */
function nsPerCall(breaker: Breaker, from: number): number {
  const began = process.hrtime.bigint()
  for (let i = 0; i < callsPerRound; i++) {
    const now = from + i / 20
    const permit = breaker.admit(now)
    if (permit === refused) throw new Error('the circuit is open')
    breaker.settle(permit, 'success', now, undefined, undefined, 1)
  }
  return Number(process.hrtime.bigint() - began) / callsPerRound
}

function nsPerRefusal(breaker: Breaker): number {
  const began = process.hrtime.bigint()
  for (let i = 0; i < callsPerRound; i++) if (breaker.admit(0) !== refused) throw new Error('the circuit is closed')
  return Number(process.hrtime.bigint() - began) / callsPerRound
}

interface Tables {
  bench: { id: number; value: string }
}

async function usPerRefusedCaller(db: Kysely<Tables>): Promise<number> {
  const began = process.hrtime.bigint()
  const callers = Array.from({ length: refusedPerRound }, (_, id) =>
    db
      .selectFrom('bench')
      .selectAll()
      .where('id', '=', id)
      .execute()
      .then(
        () => 'answered',
        (error: { code?: string }) => error.code,
      ),
  )
  const codes = new Set(await Promise.all(callers))
  const us = Number(process.hrtime.bigint() - began) / 1_000 / refusedPerRound
  if (codes.size > 1 || !codes.has('SMARTPG_CIRCUIT_OPEN')) throw new Error(`not refused: ${[...codes].join(', ')}`)
  return us
}

const closed = new Breaker(settings)
const open = new Breaker(settings)
open.forceOpen('bench', 0)
const dialect = new SmartPgDialect({ primary: 'postgres://bench@127.0.0.1:1/bench', metrics: false })
const db = new Kysely<Tables>({ dialect })
dialect.breaker('primary').forceOpen('bench')

const calls: number[] = []
const refusals: number[] = []
const callers: number[] = []
for (let round = -1; round < rounds; round++) {
  const one = [nsPerCall(closed, (round + 1) * callsPerRound), nsPerRefusal(open), await usPerRefusedCaller(db)]
  // The first warms up.
  if (round >= 0) [calls, refusals, callers].forEach((series, i) => series.push(one[i]!))
}
await db.destroy()
await dialect.destroy()

const text = (values: readonly number[], unit: string): string => {
  const { median, min, max } = spreadOf(values)
  return `${median.toFixed(1)} ${unit} (${min.toFixed(1)}–${max.toFixed(1)})`
}
console.log(`${rounds} rounds, median (min–max)\n`)
console.log(`admit + settle, closed:               ${text(calls, 'ns')}`)
console.log(`admit, open:                          ${text(refusals, 'ns')}`)
console.log(`a caller of Kysely, open (${refusedPerRound.toLocaleString('en-US')} at once): ${text(callers, 'µs')}`)
