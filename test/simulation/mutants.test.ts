// The judge on trial: houses that are broken on purpose must be found out, each by the promise that it breaks.

import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CRIMES } from './ledger.ts'
import { mutants } from './mutants.ts'
import { simulate } from './run.ts'

const MOST_SEEDS = 200

// Kysely prints what failed in the background after an abort.
beforeAll(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined))
afterAll(() => void vi.restoreAllMocks())

// One seed alone is run for its own sake.
describe.runIf(process.env['SEED'] === undefined)('a house is found out', () => {
  test.each(mutants)('$name: $found', { timeout: 300_000 }, async (mutant) => {
    const crimes = new Set<string>()
    for (let seed = 1; seed <= MOST_SEEDS && !crimes.has(mutant.found); seed++) {
      for (const { crime } of (await simulate(seed, mutant)).complaints) crimes.add(crime)
    }
    expect([...crimes]).toContain(mutant.found)
  })
})

test('there is a broken house for everything that the judge can complain of', () => {
  expect(CRIMES.filter((crime) => !mutants.some(({ found }) => found === crime))).toEqual([])
})
