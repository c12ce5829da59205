// The whole house but its sockets, in virtual time: one seed is one run of callers, faults and a server that is only
// modelled. `SEED=123 npm run test:simulation` runs one and prints everything that happened; `SEEDS=5000` runs more.

import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { simulate } from './run.ts'
import type { Outcome } from './run.ts'

const { SEED, SEEDS = '1000' } = process.env
const COUNT = Number(SEEDS)
const AT_ONCE = 50
const TIMEOUT_MS = 300_000

/** What a developer needs to see it for himself. */
function report({ seed, complaints, trace }: Outcome): string {
  const crimes = complaints.map(({ crime, details }) => `  - ${crime}: ${details}`)
  const replay = `Replay: SEED=${seed} npm run test:simulation`
  return [`Seed ${seed} broke promises:`, ...crimes, replay, 'What happened:', ...trace, replay].join('\n')
}

const hashOf = ({ trace }: Outcome): string => createHash('sha256').update(trace.join('\n')).digest('hex')

// Kysely prints what failed in the background after an abort.
beforeAll(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined))
afterAll(() => void vi.restoreAllMocks())

describe.runIf(SEED !== undefined)('one seed', () => {
  test(`seed ${SEED} keeps every promise`, { timeout: TIMEOUT_MS }, async () => {
    const { trace, complaints } = await simulate(Number(SEED))
    console.log(trace.join('\n'))
    expect(complaints).toEqual([])
  })
})

describe.runIf(SEED === undefined)('whatever goes wrong, every promise is kept', () => {
  const starts = Array.from({ length: Math.ceil(COUNT / AT_ONCE) }, (_, i) => 1 + i * AT_ONCE)

  test.each(starts)('by the seeds from %i on', { timeout: TIMEOUT_MS }, async (first) => {
    const guilty: Outcome[] = []
    for (let seed = first; seed < first + AT_ONCE && seed <= COUNT; seed++) {
      const outcome = await simulate(seed)
      if (outcome.complaints.length > 0) guilty.push(outcome)
    }
    const [one] = guilty
    if (one !== undefined) expect.fail(`${guilty.map(({ seed }) => seed).join(', ')} failed.\n${report(one)}`)
  })
})

describe.runIf(SEED === undefined)('a run', () => {
  test('is the same whenever and after whatever it is run', async () => {
    const seeds = [1, 2, 3, 4, 5, 6, 7, 8]
    const hashes: string[] = []
    for (const seed of seeds) hashes.push(hashOf(await simulate(seed)))
    const again: string[] = []
    for (const seed of seeds.toReversed()) again.unshift(hashOf(await simulate(seed)))
    expect(again).toEqual(hashes)
    expect(new Set(hashes).size).toBe(seeds.length)
  })

  test('is not so stormy that hardly anything is answered', async () => {
    let [operations, failed, stormy] = [0, 0, 0]
    for (let seed = 1; seed <= 30; seed++) {
      const outcome = await simulate(seed)
      operations += outcome.operations
      failed += outcome.failed
      if (outcome.failed > 0) stormy++
    }
    expect(failed / operations).toBeLessThan(0.2)
    expect(stormy).toBeGreaterThan(10)
  })
})
