// What can be known of a COMMIT whose answer is lost, and what must stay unknown. No guess is ever made.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  TransactionId,
  fateByStatus,
  fateOfCommit,
  isPlainCommit,
  mayCommit,
  mayEndTransaction,
} from '../../src/core/commit-fate.ts'
import type { CommitSent } from '../../src/core/commit-fate.ts'
import { factsOf } from '../../src/sql/facts.ts'

const identity = { xid: '7', server: 'a' }

/** An id after `writes` possible writes, asked for behind all of them. */
function known(writes: number, found: typeof identity | null = identity): TransactionId {
  const id = new TransactionId()
  id.asks(writes)
  id.answers(found, writes)
  return id
}

const sent = (one: Partial<CommitSent>): CommitSent => ({ status: 'open', writes: 1, id: known(1), ...one })

describe('the id of a transaction', () => {
  test('is wanted behind every possible write until there is one', () => {
    const id = new TransactionId()
    expect([id.wantsAsking(0), id.wantsAsking(1)]).toEqual([false, true])
    id.asks(1)
    expect([id.wantsAsking(1), id.wantsAsking(2)]).toEqual([false, true])
    id.answers(null, 1)
    expect(id.wantsAsking(2)).toBe(true)
    id.answers(identity, 2)
    expect(id.wantsAsking(3)).toBe(false)
  })

  test('is in hand when it is known, or when nothing was sent since it was known that there is none', () => {
    const id = new TransactionId()
    expect([id.inHand(0), id.inHand(1)]).toEqual([true, false])
    id.asks(1)
    expect(id.inHand(1)).toBe(false)
    id.answers(null, 1)
    expect([id.inHand(1), id.inHand(2)]).toEqual([true, false])
    id.answers(identity, 1)
    expect(id.inHand(2)).toBe(true)
  })

  test('stays what it was first', () => {
    const id = known(1)
    id.answers(null, 2)
    id.answers({ xid: '8', server: 'b' }, 3)
    expect(id.identity).toBe(identity)
  })
})

describe('without asking', () => {
  test.each<[string, Partial<CommitSent>, boolean | undefined, string]>([
    ['one that had failed before is undone', { status: 'failed' }, undefined, 'undone'],
    ['one of nothing but reads has nothing to lose', { writes: 0, id: null }, undefined, 'kept'],
    ['one that was never asked about is unknown', { id: null }, false, 'unknown'],
    ['one whose question has not been answered is unknown', { id: new TransactionId() }, false, 'unknown'],
    ['one that had no id before its last write is unknown', { writes: 2, id: known(1, null) }, false, 'unknown'],
    ['one without an id is unknown: what has none can be lost', { id: known(1, null) }, false, 'unknown'],
    ['one behind a pooler is unknown', {}, true, 'unknown'],
    ['one behind nobody knows what is unknown', {}, undefined, 'unknown'],
    ['one with an id is to be asked about', {}, false, 'to be asked'],
  ])('%s', (_, one, behindPooler, expected) => {
    expect(fateOfCommit(sent(one), behindPooler).is).toBe(expected)
  })

  test('it says why it is not known', () => {
    const why = (id: TransactionId | null, behindPooler = false): string => {
      const fate = fateOfCommit(sent({ id }), behindPooler)
      return fate.is === 'to be asked' ? 'to be asked' : fate.because
    }
    expect(why(new TransactionId())).toBe('its id was not known when COMMIT was sent')
    expect(why(known(1, null))).toBe('it had no id to be asked for')
    expect(why(known(1), true)).toBe('behind a pooler nobody knows which server answers')
  })

  test('nothing that may have written is ever said to be kept', () => {
    const anySent = fc.record({
      status: fc.constantFrom('open' as const, 'idle' as const),
      writes: fc.integer({ min: 1, max: 5 }),
      id: fc.option(fc.tuple(fc.integer({ min: 0, max: 5 }), fc.boolean())).map((one) => (one === null ? null : known(one[0], one[1] ? identity : null))), // prettier-ignore
    })
    fc.assert(
      fc.property(anySent, fc.constantFrom(true, false, undefined), (one, behindPooler) => {
        expect(['unknown', 'to be asked']).toContain(fateOfCommit(one, behindPooler).is)
      }),
    )
  })
})

describe('who was asked', () => {
  const answer = { status: 'committed', server: 'a', ownBackend: true }

  test.each([
    ['committed', 'kept'],
    ['aborted', 'undone'],
    [null, 'unknown'],
    ['prepared', 'unknown'],
  ])('says %s: it is %s', (status, expected) => {
    expect(fateByStatus(identity, { ...answer, status })).toMatchObject({ is: expected })
  })

  test('says that it is in progress: he is asked again', () => {
    expect(fateByStatus(identity, { ...answer, status: 'in progress' })).toBe('ask again')
  })

  test('is not believed on another server, or with another backend, whatever he says', () => {
    const statuses = fc.constantFrom('committed', 'aborted', 'in progress', null)
    const strangers = fc.constantFrom({ server: 'b' }, { server: '' }, { ownBackend: false })
    fc.assert(
      fc.property(statuses, strangers, (status, stranger) => {
        expect(fateByStatus(identity, { ...answer, status, ...stranger })).toBe('ask another')
      }),
    )
  })
})

describe('a text', () => {
  const may = (sql: string): string => {
    const facts = factsOf(sql)
    return mayCommit(facts) ? 'commit' : mayEndTransaction(facts) ? 'end' : 'neither'
  }

  test.each([
    ['commit', 'commit'],
    ['END', 'commit'],
    ['commit and chain', 'commit'],
    ["prepare transaction 'a'", 'commit'],
    ['insert into t values (1); commit', 'commit'],
    ['commit; begin', 'commit'],
    ["insert into t values ('\\'; commit; --')", 'commit'],
    ['rollback', 'end'],
    ['abort', 'end'],
    ['rollback and chain', 'end'],
    ['rollback to a', 'end'],
    ['savepoint a', 'neither'],
    ['release a', 'neither'],
    ['begin', 'neither'],
    ['prepare commit as select 1', 'neither'],
    ['insert into t values (1); insert into t values (2)', 'neither'],
    ['insert into t values (1)', 'neither'],
    ['select f()', 'neither'],
    ['do $$ begin perform 1; end $$', 'neither'],
  ])('%s: %s', (sql, expected) => {
    expect(may(sql)).toBe(expected)
  })

  test.each(['commit', 'COMMIT', 'end', ' commit work ;', 'END TRANSACTION', 'commit\n'])('%j is a plain COMMIT', (sql) => {
    expect(isPlainCommit(sql)).toBe(true)
  }) // prettier-ignore

  test.each(['commit and chain', "commit prepared 'a'", 'commit; select 1', '/* a */ commit', 'rollback', 'committed'])(
    '%j is none',
    (sql) => {
      expect(isPlainCommit(sql)).toBe(false)
    },
  )
})
