// Which reads may stand under one Sync, and how many: only those for whom it makes no difference in which transaction
// they stand, and never so many that the server waits for us.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { mayShare, readsPerSync } from '../../src/core/sharing.ts'
import { READ_FACTS } from '../../src/core/statements.ts'
import { TextCost } from '../../src/core/text-cost.ts'
import type { Facts, QueryKind } from '../../src/core/types.ts'

/** A text that has been answered `samples` times, in `ms` each. */
function text(facts: Partial<Facts> = {}, ms = 0.05, samples = 10): TextCost {
  const cost = new TextCost({ ...READ_FACTS, ...facts })
  for (let i = 0; i < samples; i++) cost.observe(ms)
  return cost
}

describe('how many reads stand under one Sync', () => {
  test.each([
    [2, 1],
    [3, 1],
    [5, 1],
    [6, 2],
    [8, 2],
    [9, 3],
    [30, 10],
    [47, 15],
    [48, 16],
    [49, 16],
    [100_000, 16],
  ])('with %i under way: a third of them, at least one and at most sixteen (%i)', (riding, reads) => {
    expect(readsPerSync(text(), riding)).toBe(reads)
  })

  test.each([0, 1])('with %i under way: nobody to share with', (riding) => {
    expect(readsPerSync(text(), riding)).toBe(0)
    expect(readsPerSync(text({ writes: true, retrySafe: false }), riding)).toBe(0)
  })

  test.each<[string, Partial<Facts>]>([
    ['calls a function', { functions: ['now'] }],
    ['calls set_config', { functions: ['set_config'] }],
    ['may wait for a lock', { lockWaiter: true }],
    ['writes', { writes: true }],
    ['must not run twice', { retrySafe: false }],
  ])('a text that %s stands alone', (_, facts) => {
    const cost = text(facts)
    expect([cost.pure, readsPerSync(cost, 1_000)]).toEqual([false, 1])
  })

  test.each([
    [0, 1],
    [1, 1],
    [2, 16],
  ])('a text that has been answered %i times: %i', (samples, reads) => {
    expect(readsPerSync(text({}, 0.05, samples), 1_000)).toBe(reads)
  })

  test.each([
    [0, 16],
    [0.2, 16],
    [0.201, 1],
    [20, 1],
  ])('a text that takes %d ms: %i', (ms, reads) => {
    expect(readsPerSync(text({}, ms), 1_000)).toBe(reads)
  })

  test('a text that becomes slow stands alone, and shares again when it is fast', () => {
    const cost = text()
    cost.observe(10)
    expect(readsPerSync(cost, 1_000)).toBe(1)
    for (let i = 0; i < 100; i++) cost.observe(0.05)
    expect(readsPerSync(cost, 1_000)).toBe(16)
  })
})

const kinds: QueryKind[] = [
  'read_simple',
  'read_complex',
  'write_simple',
  'write_bulk',
  'ddl',
  'transaction',
  'unknown',
]
const anyFacts = fc.record({
  kind: fc.constantFrom(...kinds),
  verb: fc.constantFrom('select', 'with', 'insert', 'copy', 'show', 'begin', ''),
  stateful: fc.boolean(),
  lockWaiter: fc.boolean(),
  retrySafe: fc.boolean(),
  writes: fc.boolean(),
  multiple: fc.boolean(),
  functions: fc.subarray(['now', 'lower', 'current_setting', 'pg_catalog.pg_backend_pid']),
  tablesRead: fc.subarray(['person', 'pg_settings', 'pg_catalog.pg_cursors']),
})
const anyText = fc
  .record({ facts: anyFacts, ms: fc.double({ min: 0, max: 100, noNaN: true }), samples: fc.nat(10) })
  .map(({ facts, ms, samples }) => text(facts, ms, samples))

describe('whatever the text and however many are under way', () => {
  test('at most sixteen share, and at most a third of them', () => {
    fc.assert(
      fc.property(anyText, fc.nat(10_000), (cost, riding) => {
        const reads = readsPerSync(cost, riding)
        expect(Number.isInteger(reads)).toBe(true)
        expect(reads).toBeLessThanOrEqual(Math.max(riding > 1 ? 1 : 0, Math.min(16, riding / 3)))
        expect(reads === 0).toBe(riding <= 1)
      }),
    )
  })

  test('only a read that calls nothing, locks nothing and is known to be fast shares', () => {
    fc.assert(
      fc.property(anyText, fc.nat(10_000), (cost, riding) => {
        if (readsPerSync(cost, riding) < 2) return
        const { facts } = cost
        expect([facts.writes, facts.lockWaiter, facts.retrySafe, facts.functions]).toEqual([false, false, true, []])
        expect(cost.samples).toBeGreaterThan(1)
        expect(cost.ms).toBeLessThanOrEqual(0.2)
      }),
    )
  })

  test('one more under way never makes fewer share', () => {
    fc.assert(
      fc.property(anyText, fc.nat(200), (cost, riding) => {
        expect(readsPerSync(cost, riding + 1)).toBeGreaterThanOrEqual(readsPerSync(cost, riding))
      }),
    )
  })
})

describe('a connection that others use', () => {
  test('takes a read, and a write', () => {
    expect(mayShare(READ_FACTS)).toBe(true)
    expect(mayShare({ ...READ_FACTS, kind: 'write_simple', verb: 'update', writes: true, retrySafe: false })).toBe(true)
    expect(mayShare({ ...READ_FACTS, functions: ['now', 'lower'], tablesRead: ['person'] })).toBe(true)
  })

  test.each<[string, Partial<Facts>]>([
    ['leaves something behind', { stateful: true }],
    ['is several statements', { multiple: true }],
    ['begins or ends a transaction', { kind: 'transaction' }],
    ['was not recognised', { kind: 'unknown' }],
    ['copies', { verb: 'copy' }],
    ['shows a setting', { verb: 'show' }],
    ['asks who answers', { functions: ['pg_backend_pid'] }],
    ['asks who answers, with the schema', { functions: ['pg_catalog.pg_backend_pid'] }],
    ['asks for a setting', { functions: ['lower', 'current_setting'] }],
    ['reads the settings', { tablesRead: ['person', 'pg_settings'] }],
    ['reads the prepared statements', { tablesRead: ['pg_catalog.pg_prepared_statements'] }],
  ])('takes nothing that %s', (_, facts) => {
    expect(mayShare({ ...READ_FACTS, ...facts })).toBe(false)
  })

  test('takes whatever is none of these', () => {
    fc.assert(
      fc.property(anyFacts, (facts) => {
        const refused =
          facts.stateful ||
          facts.multiple ||
          ['transaction', 'unknown'].includes(facts.kind) ||
          ['copy', 'show'].includes(facts.verb) ||
          facts.functions.some((name) => name !== 'now' && name !== 'lower') ||
          facts.tablesRead.some((name) => name !== 'person')
        expect(mayShare({ ...READ_FACTS, ...facts })).toBe(!refused)
      }),
    )
  })
})
