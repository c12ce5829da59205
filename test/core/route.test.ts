// Where a statement runs as far as the statement decides it. The properties matter most: whatever a statement
// looks like, only what was positively recognised as a read may leave the primary.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { destinationOf } from '../../src/core/route.ts'
import type { RouteAsk, RouteRules, Wish } from '../../src/core/route.ts'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Facts, QueryKind } from '../../src/core/types.ts'

const read: Facts = READ_FACTS
const write: Facts = { ...READ_FACTS, kind: 'write_simple', verb: 'insert', safeOnReplica: false, writes: true }
const unknown: Facts = { ...READ_FACTS, kind: 'unknown', verb: '', safeOnReplica: false, writes: true }
const locking: Facts = { ...READ_FACTS, safeOnReplica: false, lockWaiter: true }

const two: RouteRules = { replicas: 2, readWriteSplit: true, readOnlyTransactions: true }
const ask = (facts: Facts, rest: Partial<RouteAsk> = {}): RouteAsk => ({
  facts,
  transaction: 'none',
  wish: undefined,
  refused: false,
  ...rest,
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
const anyFacts: fc.Arbitrary<Facts> = fc
  .record({
    kind: fc.constantFrom(...kinds),
    safeOnReplica: fc.boolean(),
    stateful: fc.boolean(),
    lockWaiter: fc.boolean(),
    retrySafe: fc.boolean(),
    writes: fc.boolean(),
    multiple: fc.boolean(),
  })
  .map((some) => ({ ...READ_FACTS, ...some }))
const anyAsk: fc.Arbitrary<RouteAsk> = fc.record({
  facts: anyFacts,
  wish: fc.constantFrom<(Wish | undefined)[]>(undefined, { target: 'primary' }, { target: 'replica' }),
  refused: fc.boolean(),
  transaction: fc.constantFrom('none', 'read-write', 'read-only'),
})
const anyRules: fc.Arbitrary<RouteRules> = fc.record({
  replicas: fc.nat(5),
  readWriteSplit: fc.boolean(),
  readOnlyTransactions: fc.boolean(),
})

describe('examples', () => {
  test.each<[string, RouteAsk, RouteRules, ReturnType<typeof destinationOf>]>([
    ['a read goes to a replica', ask(read), two, { target: 'replica', because: 'read' }],
    ['a write goes to the primary', ask(write), two, { target: 'primary', because: 'write' }],
    ['what was not recognised goes to the primary', ask(unknown), two, { target: 'primary', because: 'unknown' }],
    ['a read that locks rows goes to the primary', ask(locking), two, { target: 'primary', because: 'unknown' }],
    [
      'what a standby has refused before is not sent to one again, whoever asks',
      ask(read, { refused: true, wish: { target: 'replica' } }),
      two,
      { target: 'primary', because: 'refused' },
    ],
    [
      'a caller who asks for the primary gets it',
      ask(read, { wish: { target: 'primary' } }),
      two,
      { target: 'primary', because: 'hint' },
    ],
    [
      'even for a read-only transaction',
      ask(read, { wish: { target: 'primary' }, transaction: 'read-only' }),
      two,
      { target: 'primary', because: 'hint' },
    ],
    [
      'a caller who asks for a replica vouches for what nobody knows, whatever the split',
      ask(unknown, { wish: { target: 'replica' } }),
      { ...two, readWriteSplit: false },
      { target: 'replica', because: 'hint' },
    ],
    [
      'where there is no replica his wish is in vain',
      ask(read, { wish: { target: 'replica' } }),
      { ...two, replicas: 0 },
      { target: 'primary', because: 'no-replica' },
    ],
    [
      'a read inside a transaction stays in it',
      ask(read, { transaction: 'read-write' }),
      two,
      { target: 'primary', because: 'transaction' },
    ],
    [
      'a read only transaction may run on a replica',
      ask(read, { transaction: 'read-only' }),
      two,
      { target: 'replica', because: 'read-only-transaction' },
    ],
    [
      'a read only transaction stays on the primary when the option says so',
      ask(read, { transaction: 'read-only' }),
      { ...two, readOnlyTransactions: false },
      { target: 'primary', because: 'transaction' },
    ],
    [
      'without replicas all is the primary’s',
      ask(read),
      { ...two, replicas: 0 },
      { target: 'primary', because: 'no-replica' },
    ],
    [
      'with readWriteSplit off all is the primary’s',
      ask(read),
      { ...two, readWriteSplit: false },
      { target: 'primary', because: 'split-off' },
    ],
  ])('%s', (_, one, rules, expected) => {
    expect(destinationOf(one, rules)).toEqual(expected)
  })
})

describe('whatever the statement and the rules', () => {
  test('outside a read only transaction only a recognised, harmless read leaves the primary, unless asked', () => {
    fc.assert(
      fc.property(anyAsk, anyRules, (one, rules) => {
        fc.pre(one.transaction !== 'read-only' && one.wish === undefined)
        if (destinationOf(one, rules).target === 'primary') return
        expect(one).toMatchObject({ refused: false, transaction: 'none' })
        expect(one.facts).toMatchObject({ safeOnReplica: true, writes: false })
        expect(one.facts.kind).not.toBe('transaction')
      }),
    )
  })

  test('nothing of a read-write transaction leaves the primary', () => {
    fc.assert(
      fc.property(anyAsk, anyRules, (one, rules) => {
        expect(destinationOf({ ...one, transaction: 'read-write' }, rules).target).toBe('primary')
      }),
    )
  })

  test('nothing leaves the primary when there is no replica or the split is off', () => {
    fc.assert(
      fc.property(anyAsk, anyRules, (one, rules) => {
        expect(destinationOf(one, { ...rules, replicas: 0 }).target).toBe('primary')
        const unasked = { ...one, wish: undefined }
        expect(destinationOf(unasked, { ...rules, readWriteSplit: false }).target).toBe('primary')
      }),
    )
  })
})
