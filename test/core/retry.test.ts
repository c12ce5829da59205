import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { classify } from '../../src/core/fault.ts'
import type { Evidence, Fault } from '../../src/core/fault.ts'
import { RetryBudget, backoffMs, fateOf, nextStep } from '../../src/core/retry.ts'
import type { Failure, NextStep } from '../../src/core/retry.ts'

const read: Failure['facts'] = {
  kind: 'read_simple',
  verb: 'select',
  retrySafe: true,
  writes: false,
  stateful: false,
  multiple: false,
}
const write: Failure['facts'] = { ...read, kind: 'write_simple', verb: 'insert', retrySafe: false, writes: true }
const commit: Failure['facts'] = { ...read, kind: 'transaction', verb: 'commit', retrySafe: false }
const set: Failure['facts'] = { ...read, kind: 'unknown', verb: 'set', retrySafe: false, stateful: true }

const fault = (code: string, more: Partial<Evidence> = {}): Fault =>
  classify({ code, message: '', during: 'query', ...more })
const lost = fault('ECONNRESET')
const refusedConnect = classify({ code: 'ECONNREFUSED', message: '', during: 'connect' })
const serialization = fault('40001', { severity: 'ERROR' })
const conflict = fault('40001', { severity: 'ERROR', message: 'canceling statement due to conflict with recovery' })
const readOnly = fault('25006', { severity: 'ERROR' })

const half = (): number => 0.5
const step = (failure: Partial<Failure>): NextStep =>
  nextStep(
    {
      fault: lost,
      sent: true,
      facts: read,
      inTransaction: false,
      committing: false,
      onReplica: false,
      triedElsewhere: false,
      attempt: 1,
      attempts: 3,
      baseMs: 50,
      maxMs: 2000,
      ...failure,
    },
    half,
  )

describe('a read', () => {
  test('that lost its replica goes to one other replica at once, then to the primary, then no further', () => {
    expect(step({ onReplica: true })).toMatchObject({ do: 'retry', where: 'elsewhere', after: 0 })
    expect(step({ onReplica: true, triedElsewhere: true, attempt: 2 })).toMatchObject({ do: 'retry', where: 'primary' })
    expect(step({ attempt: 3, triedElsewhere: true })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })

  test('that lost the primary is sent there again after a pause', () => {
    expect(step({})).toMatchObject({ do: 'retry', where: 'same', after: 25 })
    expect(step({ attempt: 2 })).toMatchObject({ do: 'retry', where: 'same', after: 50 })
  })

  test('that a replica cancelled because of recovery is run by another', () => {
    expect(step({ fault: conflict, onReplica: true })).toMatchObject({ do: 'retry', where: 'elsewhere' })
    // In a language that we do not read it looks like a serialization failure, which no replica can have.
    expect(step({ fault: serialization, onReplica: true })).toMatchObject({ do: 'retry', where: 'elsewhere' })
  })

  test.each(['53200', '57P03', '57P01'])('is tried again after %s', (code) => {
    expect(step({ fault: fault(code) })).toMatchObject({ do: 'retry' })
  })

  test('finds another node when the breaker of its replica is open, but does not wait for the only one left', () => {
    const open = fault('SMARTPG_CIRCUIT_OPEN')
    expect(step({ fault: open, sent: false, onReplica: true })).toMatchObject({ do: 'retry', where: 'elsewhere' })
    expect(step({ fault: open, sent: false })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })

  test('that timed out is not run again', () => {
    expect(step({ fault: fault('SMARTPG_QUERY_TIMEOUT') })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })
})

describe('a write', () => {
  test('that was sent and not answered is never sent again, and its outcome is called unknown', () => {
    expect(step({ facts: write })).toMatchObject({ do: 'fail', outcome: 'unknown' })
    expect(step({ facts: write, fault: fault('57P01', { severity: 'FATAL' }) })).toMatchObject({ outcome: 'unknown' })
    // Not known to write, but not known to be harmless either.
    expect(step({ facts: { ...write, writes: false } })).toMatchObject({ do: 'fail', outcome: 'unknown' })
    expect(step({ facts: write, fault: fault('08007') })).toMatchObject({ do: 'fail', outcome: 'unknown' })
    expect(step({ facts: write, fault: fault('53100', { severity: 'PANIC' }) })).toMatchObject({ outcome: 'unknown' })
    expect(step({ facts: write, fault: fault('SMARTPG_QUERY_TIMEOUT') })).toMatchObject({ outcome: 'unknown' })
  })

  test('whose timeout was answered with its cancellation is known not to have run', () => {
    const answered = fault('SMARTPG_QUERY_TIMEOUT', { innerCodes: ['57014'] })
    expect(step({ facts: write, fault: answered })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })

  test('that was never sent is tried again, and if that does not help it is called not executed', () => {
    expect(step({ facts: write, fault: refusedConnect, sent: false })).toMatchObject({ do: 'retry', where: 'same' })
    expect(step({ facts: write, fault: lost, sent: false })).toMatchObject({ do: 'retry', where: 'same' })
    expect(step({ facts: write, fault: lost, sent: false, attempt: 3 })).toMatchObject({
      do: 'fail',
      outcome: 'not-executed',
    })
  })

  test('that was rolled back for certain is run again', () => {
    expect(step({ facts: write, fault: serialization })).toMatchObject({ do: 'retry', where: 'same' })
    expect(step({ facts: write, fault: fault('40P01', { severity: 'ERROR' }) })).toMatchObject({ do: 'retry' })
  })

  test.each<[string, Partial<Failure['facts']>]>([
    ['several statements in one text', { multiple: true }],
    ['CALL', { verb: 'call' }],
    ['DO', { verb: 'do' }],
    ['COPY', { verb: 'copy', kind: 'write_bulk' }],
    ['DDL', { kind: 'ddl', verb: 'create' }],
    ['something unknown', { kind: 'unknown' }],
  ])('is not run again after a rollback if it was %s, which may have committed on its way', (_, facts) => {
    expect(step({ facts: { ...write, ...facts }, fault: serialization })).toMatchObject({
      do: 'fail',
      outcome: 'as-is',
    })
  })

  test('that the server refused is not run again', () => {
    for (const code of ['23505', '53200', '55P03', '57014', '42601', 'XX000']) {
      expect(step({ facts: write, fault: fault(code, { severity: 'ERROR' }) })).toMatchObject({
        do: 'fail',
        outcome: 'as-is',
      })
    }
  })

  test('that the caller aborted ends with his own reason', () => {
    expect(step({ facts: write, fault: fault('ABORT_ERR') })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })
})

describe('what a standby refuses', () => {
  test('is run once on the primary, even when no retries are left', () => {
    const rerun = step({ facts: write, fault: readOnly, onReplica: true, attempts: 1, budgetLeft: false })
    expect(rerun).toMatchObject({ do: 'retry', where: 'primary', after: 0 })
    expect(step({ facts: write, fault: readOnly, onReplica: false })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })
})

describe("a user's transaction", () => {
  test('is never run again, whatever happened', () => {
    for (const what of [lost, serialization, conflict, readOnly, refusedConnect, fault('26000')]) {
      for (const facts of [read, write]) {
        for (const onReplica of [true, false]) {
          expect(step({ facts, fault: what, onReplica, inTransaction: true })).toMatchObject({
            do: 'fail',
            outcome: 'as-is',
          })
        }
      }
    }
  })

  test('whose COMMIT was not answered has an unknown outcome', () => {
    const ending = { facts: commit, inTransaction: true, committing: true }
    expect(step(ending)).toMatchObject({ do: 'fail', outcome: 'unknown' })
    expect(step({ ...ending, sent: false })).toMatchObject({ do: 'fail', outcome: 'as-is' })
    expect(step({ ...ending, fault: serialization })).toMatchObject({ do: 'fail', outcome: 'as-is' })
    expect(step({ ...ending, onReplica: true })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })
})

describe('a stale prepared statement', () => {
  test('is prepared anew once', () => {
    const stale = fault('0A000', { severity: 'ERROR', routine: 'RevalidateCachedQuery' })
    expect(step({ facts: write, fault: stale })).toMatchObject({ do: 'retry', where: 'same', after: 0 })
    expect(step({ facts: write, fault: stale, attempt: 2 })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })
})

describe('wrong credentials', () => {
  test('are asked for anew once and then reported as they are', () => {
    const wrong = classify({ code: '28P01', message: '', during: 'connect' })
    expect(step({ fault: wrong, sent: false })).toMatchObject({ do: 'retry' })
    expect(step({ fault: wrong, sent: false, attempt: 2 })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })
})

describe('the limits', () => {
  test('no retry without budget, and the reason says so', () => {
    expect(step({ budgetLeft: false })).toEqual({
      do: 'fail',
      outcome: 'as-is',
      because: 'the retry budget is exhausted',
    })
  })

  test('no retry that would end after the time of the statement', () => {
    expect(step({ remainingMs: 25 })).toMatchObject({ do: 'fail' })
    expect(step({ remainingMs: 26 })).toMatchObject({ do: 'retry', after: 25 })
    expect(step({ remainingMs: 0, onReplica: true })).toMatchObject({ do: 'fail' })
  })

  test('a statement that left its traces only in the session has no unknown outcome', () => {
    expect(step({ facts: set })).toMatchObject({ do: 'fail', outcome: 'as-is' })
  })

  test('the pause is anything up to twice the last, and never more than the maximum', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 100 }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (attempt, chance) => {
          const ms = backoffMs(attempt, 50, 2000, chance)
          expect(ms).toBeGreaterThanOrEqual(0)
          expect(ms).toBeLessThanOrEqual(Math.min(2000, 50 * 2 ** (attempt - 1)))
        },
      ),
    )
  })
})

describe('whatever fails', () => {
  const codes = ['08006', '08007', '08P01', '40001', '40003', '40P01', '53100', '57014', '57P01', '57P03', '23505']
  const more = ['25006', '26000', '0A000', 'XX000', 'ECONNRESET', 'ETIMEDOUT', 'SMARTPG_QUERY_TIMEOUT', 'P0001']
  const ours = [
    'SMARTPG_CONNECTION_LOST',
    'SMARTPG_CLOSED',
    'SMARTPG_CIRCUIT_OPEN',
    'ABORT_ERR',
    'SMARTPG_CONNECT_FAILED',
  ]
  const anyFault = fc
    .record({
      code: fc.option(fc.constantFrom(...codes, ...more, ...ours), { nil: undefined }),
      severity: fc.constantFrom(undefined, 'ERROR', 'FATAL', 'PANIC', 'FEHLER'),
      message: fc.constantFrom('', 'canceling statement due to conflict with recovery', 'recovery is in progress'),
      during: fc.constantFrom<'connect' | 'query'>('connect', 'query'),
    })
    .map(classify)
  const anyFacts = fc.record({
    kind: fc.constantFrom<Failure['facts']['kind']>('read_simple', 'write_simple', 'write_bulk', 'ddl', 'unknown'),
    verb: fc.constantFrom('select', 'insert', 'call', 'do', 'with'),
    retrySafe: fc.boolean(),
    writes: fc.boolean(),
    stateful: fc.boolean(),
    multiple: fc.boolean(),
  })
  const anyFailure: fc.Arbitrary<Failure> = fc.record({
    fault: anyFault,
    sent: fc.boolean(),
    facts: anyFacts,
    inTransaction: fc.boolean(),
    committing: fc.boolean(),
    onReplica: fc.boolean(),
    triedElsewhere: fc.boolean(),
    attempt: fc.integer({ min: 1, max: 5 }),
    attempts: fc.integer({ min: 1, max: 5 }),
    baseMs: fc.constant(50),
    maxMs: fc.constant(2000),
  })

  test('a write is never sent again once it may have been applied', () => {
    fc.assert(
      fc.property(anyFailure, (failure) => {
        fc.pre(failure.sent && !failure.facts.retrySafe)
        const next = nextStep(failure, half)
        if (next.do === 'retry') expect(fateOf(failure)).not.toBe('maybe-applied')
        // Said without the code under test: only an answer of the server, or the word of a standby, allows it.
        if (next.do === 'retry' && failure.fault.class !== 'read-only' && failure.fault.class !== 'recovery-conflict') {
          expect(failure.fault.dropsConnection).toBe(false)
          expect(['rolled-back', 'prepared-statement']).toContain(failure.fault.class)
        }
      }),
    )
  })

  test('a lost write is never reported as not executed once it was sent', () => {
    fc.assert(
      fc.property(anyFailure, (failure) => {
        const next = nextStep(failure, half)
        if (next.do === 'fail' && next.outcome === 'not-executed') expect(failure.sent).toBe(false)
      }),
    )
  })

  test('each statement comes to an end', () => {
    fc.assert(
      fc.property(anyFailure, (failure) => {
        let attempt = 1
        let { onReplica, triedElsewhere } = failure
        for (;;) {
          const next = nextStep({ ...failure, attempt, onReplica, triedElsewhere }, half)
          if (next.do === 'fail') break
          if (next.where === 'primary') onReplica = false
          triedElsewhere = true
          attempt += 1
          expect(attempt).toBeLessThanOrEqual(failure.attempts + 2)
        }
      }),
    )
  })

  test('each answer has its reason', () => {
    fc.assert(
      fc.property(anyFailure, (failure) => {
        expect(nextStep(failure, half).because).not.toBe('')
      }),
    )
  })
})

describe('the retry budget', () => {
  test('allows a fifth of the requests of ten seconds and ten a second besides', () => {
    const budget = new RetryBudget()
    for (let i = 0; i < 500; i++) budget.requested(i)
    let taken = 0
    while (budget.take(600)) taken += 1
    expect(taken).toBe(100 + 100)
    expect(budget.left(600)).toBe(false)
  })

  test('comes back when the retries are more than ten seconds old', () => {
    const budget = new RetryBudget()
    while (budget.take(0));
    expect(budget.left(9_999)).toBe(false)
    expect(budget.left(10_000)).toBe(true)
  })

  test('never allows more in any ten seconds than the share and the base', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ ms: fc.nat({ max: 700 }), ask: fc.nat({ max: 30 }) }), { maxLength: 80, size: 'max' }),
        (steps) => {
          const budget = new RetryBudget({ share: 0.5, perSecond: 1 })
          let now = 0
          const requests: number[] = []
          const retries: number[] = []
          for (const { ms, ask } of steps) {
            now += ms
            budget.requested(now)
            requests.push(now)
            for (let i = 0; i < ask; i++) if (budget.take(now)) retries.push(now)
            const within = (times: number[], span: number): number => times.filter((at) => at > now - span).length
            // The window moves in whole seconds, so it may hold up to a second less than ten, never more.
            expect(within(retries, 9_000)).toBeLessThanOrEqual(0.5 * within(requests, 10_001) + 10)
          }
        },
      ),
    )
  })
})
