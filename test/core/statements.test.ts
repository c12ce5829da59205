// Names of prepared statements. One text under another's name is a wrong answer without an error (it happened 57
// times of 120 behind a pooler with names by counter), so a name can only be made from its text.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { BEGIN_FACTS, PreparedNames, READ_FACTS, RESET_FACTS } from '../../src/core/statements.ts'
import type { Facts } from '../../src/core/types.ts'
import { digest } from '../../src/engine/digest.ts'
import { newTestEngine } from '../support/engine.ts'

type Mode = 'auto' | 'never' | 'always'

/** Facts as the cache keeps them: one object for each text. */
function remembered(preparable = true): (sql: string) => Facts {
  const facts = new Map<string, Facts>()
  return (sql) => {
    if (!facts.has(sql)) facts.set(sql, { ...READ_FACTS, preparable })
    return facts.get(sql)!
  }
}

interface Naming {
  names: PreparedNames
  nameOf: (sql: string) => string | undefined
  unname: (sql: string) => void
}

function naming(mode: Mode, { preparable = true, never = [] as readonly (string | RegExp)[] } = {}): Naming {
  const names = new PreparedNames(mode, digest, never)
  const factsOf = remembered(preparable)
  return { names, nameOf: (sql) => names.nameOf(sql, factsOf(sql)), unname: (sql) => names.unname(factsOf(sql)) }
}

describe('a name', () => {
  test('says nothing but the digest of its text, so that it is the same in every process and on every connection', () => {
    const [here, elsewhere] = [naming('always'), naming('always')]
    elsewhere.nameOf('select something else first')
    expect(here.nameOf('select 1 as one')).toBe(`s_${digest('select 1 as one')}`)
    expect(elsewhere.nameOf('select 1 as one')).toBe(here.nameOf('select 1 as one'))
  })

  test('is never that of another text', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.string(), { maxLength: 50 }), (texts) => {
        const { nameOf } = naming('always')
        expect(new Set(texts.map(nameOf)).size).toBe(texts.length)
      }),
    )
  })

  test('is never that of another text, however alike two texts are', () => {
    const { engine } = newTestEngine({ statements: { prepare: 'always' } })
    const texts = ['select a from t', 'select a  from t', 'select a from t ', 'select A from t', 'select b from t']
    const names = texts.map((sql) => engine.nameOf(engine.statement(sql, []), engine.cluster.primary, false, 1))
    expect(names).not.toContain(undefined)
    expect(new Set(names).size).toBe(texts.length)
  })

  test('fits into what PostgreSQL keeps of a name, and needs no quotes', () => {
    const { nameOf } = naming('always')
    // 63 bytes; names that are longer are cut, and two of them may then be one.
    expect(nameOf('x'.repeat(100_000))).toMatch(/^s_[0-9a-f]{32}$/)
  })
})

describe('with prepare auto', () => {
  test('a text has no name when it is seen first, and the same one ever after', () => {
    const { nameOf } = naming('auto')
    expect(nameOf('select a')).toBeUndefined()
    const name = nameOf('select a')
    expect(name).toBe(`s_${digest('select a')}`)
    expect(nameOf('select a')).toBe(name)
  })

  test('each text is counted for itself', () => {
    const { nameOf } = naming('auto')
    expect([nameOf('select a'), nameOf('select b'), nameOf('select c')]).toEqual([undefined, undefined, undefined])
    expect(nameOf('select b')).toBeDefined()
  })

  test('nothing is named any more once the server has shown that names are not reliable', () => {
    const { names, nameOf } = naming('auto')
    nameOf('select a')
    expect(nameOf('select a')).toBeDefined()
    names.markUnreliable()
    expect(names.reliable).toBe(false)
    expect([nameOf('select a'), nameOf('select b'), nameOf('select b')]).toEqual([undefined, undefined, undefined])
  })
})

describe('with prepare always', () => {
  test('the first sighting has its name already', () => {
    expect(naming('always').nameOf('select a')).toBe(`s_${digest('select a')}`)
  })

  test('names stay even if they were not reliable: who says always means it', () => {
    const { names, nameOf } = naming('always')
    names.markUnreliable()
    expect(nameOf('select a')).toBeDefined()
  })
})

describe('when the row type of one has changed under it', () => {
  test('every text gets a new name, so that none fails a second time on another connection', () => {
    const { names, nameOf } = naming('always')
    const [first, other] = [nameOf('select a')!, nameOf('select b')!]
    expect(names.outdated(first)).toBe(true)
    expect(nameOf('select a')).toBe(`${first}_1`)
    expect(nameOf('select b')).toBe(`${other}_1`)
    expect(nameOf('select b')).toBe(`${other}_1`)
  })

  test('the other connections that report it too, or another of the old names, raise nothing', () => {
    const { names, nameOf } = naming('always')
    const [first, other] = [nameOf('select a')!, nameOf('select b')!]
    names.outdated(first)
    expect([names.outdated(first), names.outdated(other), names.outdated(first)]).toEqual([false, false, false])
    expect(nameOf('select a')).toBe(`${first}_1`)
  })

  test('it may change again', () => {
    const { names, nameOf } = naming('always')
    const first = nameOf('select a')!
    names.outdated(first)
    expect(names.outdated(nameOf('select a')!)).toBe(true)
    expect(nameOf('select a')).toBe(`${first}_2`)
    expect(names.outdated(`${first}_1`)).toBe(false)
  })

  test.each(['', 's_', 'plan', 's_a_b_1', `s_${digest('select a')}_`, `s_${digest('select a')}_0 or so`])(
    'a name that is none of ours is no report: %j',
    (name) => {
      const { names, nameOf } = naming('always')
      expect(names.outdated(name)).toBe(false)
      expect(nameOf('select a')).toBe(`s_${digest('select a')}`)
    },
  )

  test('a text does not have to be seen twice again, and what was never named stays so', () => {
    const { names, nameOf, unname } = naming('auto', { never: ['select never'] })
    for (const sql of ['select a', 'select a', 'select never', 'select slow', 'select slow', 'select once']) nameOf(sql)
    unname('select slow')
    expect(names.outdated(nameOf('select a')!)).toBe(true)
    expect(nameOf('select a')).toBe(`s_${digest('select a')}_1`)
    expect([nameOf('select never'), nameOf('select slow')]).toEqual([undefined, undefined])
    expect(nameOf('select once')).toBe(`s_${digest('select once')}_1`)
  })

  test('names stay apart and short enough, whatever is reported and however often', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat(4)), { maxLength: 200 }), (steps) => {
        const { names, nameOf } = naming('always')
        const textOf = new Map<string, number>()
        let raised = 0
        for (const [reports, which] of steps) {
          const name = nameOf(`select ${which}`)!
          expect(Buffer.byteLength(name)).toBeLessThan(63)
          expect(textOf.get(name) ?? which).toBe(which)
          textOf.set(name, which)
          expect(name).toBe(`s_${digest(`select ${which}`)}${raised === 0 ? '' : `_${raised.toString(36)}`}`)
          if (!reports) continue
          expect([names.outdated(name), names.outdated(name)]).toEqual([true, false])
          raised++
        }
      }),
    )
  })
})

describe('what is never named', () => {
  test.each<Mode>(['auto', 'always'])(
    'what `statements.never` holds, as text or by a pattern, with prepare %s',
    (mode) => {
      const { nameOf } = naming(mode, { never: ['select a', /\bskewed\b/i] })
      const texts = ['select a', 'select a ', 'select x from "SKEWED"', 'select skewedness']
      for (const sql of texts) nameOf(sql)
      expect(texts.map((sql) => nameOf(sql) !== undefined)).toEqual([false, true, false, true])
    },
  )

  test('a pattern is asked once for each text and not for each run', () => {
    const asked: string[] = []
    const pattern = /never/
    pattern.test = (sql) => asked.push(sql) < 0
    const { nameOf } = naming('always', { never: [pattern] })
    for (const sql of ['select a', 'select b', 'select a', 'select b', 'select a']) nameOf(sql)
    expect(asked).toEqual(['select a', 'select b'])
  })

  test.each<Mode>(['auto', 'always'])('a text that was given up, with prepare %s, seen before or not', (mode) => {
    const { nameOf, unname } = naming(mode)
    nameOf('select a')
    expect(nameOf('select a')).toBeDefined()
    unname('select a')
    unname('select b')
    expect([nameOf('select a'), nameOf('select a'), nameOf('select b'), nameOf('select b')]).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
    ])
    nameOf('select c')
    expect(nameOf('select c')).toBeDefined()
  })

  test('anything, with prepare never', () => {
    const { nameOf } = naming('never')
    expect([nameOf('select a'), nameOf('select a'), nameOf('select a')]).toEqual([undefined, undefined, undefined])
  })

  test.each<Mode>(['auto', 'always'])('what no prepared statement can hold, with prepare %s', (mode) => {
    const { nameOf } = naming(mode, { preparable: false })
    expect([nameOf('begin'), nameOf('begin'), nameOf('begin')]).toEqual([undefined, undefined, undefined])
  })

  test('what this package sends by itself', () => {
    const names = new PreparedNames('always', digest)
    for (const facts of [READ_FACTS, RESET_FACTS, BEGIN_FACTS]) expect(names.nameOf('anything', facts)).toBeUndefined()
  })
})

describe('what this package sends by itself', () => {
  test('a ping changes nothing, marks nothing and may be lost', () => {
    expect(READ_FACTS).toMatchObject({ writes: false, stateful: false, retrySafe: true })
  })

  test('BEGIN may be sent again, and is no write', () => {
    expect(BEGIN_FACTS).toMatchObject({ kind: 'transaction', writes: false, retrySafe: true, safeOnReplica: false })
  })
})
