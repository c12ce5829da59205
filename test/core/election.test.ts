import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { elect } from '../../src/core/election.ts'
import type { Known, NodeView } from '../../src/core/election.ts'
import { sampleOf } from '../../src/core/node-sample.ts'
import type { NodeSample } from '../../src/core/node-sample.ts'

const cluster = '7310284'
const nothingKnown: Known = { timeline: 0, systemIdentifier: null }
const knows = (timeline: number): Known => ({ timeline, systemIdentifier: cluster })

type Said = Partial<Pick<NodeSample, 'inRecovery' | 'timeline' | 'server' | 'systemIdentifier' | 'receivedTimeline'>>

/** A server of its own for each name, unless it says otherwise. */
function node(name: string, said: Said | null, reachable = true): NodeView {
  const sample = { ...sampleOf({}, 0), server: `start of ${name}`, systemIdentifier: cluster, inRecovery: false }
  return { name, reachable, sample: said === null ? null : { ...sample, ...said } }
}
const primary = (name: string, timeline: number | null, said: Said = {}): NodeView => node(name, { timeline, ...said })
const standby = (name: string, said: Said = {}): NodeView => node(name, { inRecovery: true, ...said })
const gone = (name: string, said: Said | null = { timeline: 1 }): NodeView => node(name, said, false)

const election = (nodes: NodeView[], current: string | null, known = knows(1)): ReturnType<typeof elect> =>
  elect(nodes, current, known)

describe('the primary stays', () => {
  test('while it answers, accepts writes and nobody is on a higher timeline', () => {
    expect(election([primary('a', 1), standby('b')], 'a')).toEqual({
      primary: 'a',
      is: 'same',
      because: 'answers',
      timeline: 1,
      timelineMoved: false,
      systemIdentifier: cluster,
      refused: new Map(),
    })
  })

  test('while it cannot be reached and no other accepts writes: whoever is sent there sees for himself', () => {
    const answer = { primary: 'a', is: 'same', because: 'unreachable, and no other is primary', timeline: 1 }
    expect(election([gone('a'), standby('b')], 'a')).toMatchObject(answer)
    expect(election([gone('a', null), gone('b', null)], 'a')).toMatchObject(answer)
    // It has been reached, and has never been asked.
    expect(election([node('a', null), standby('b')], 'a')).toMatchObject(answer)
  })

  test('although another server of its timeline accepts writes: that is told, and nothing is sent there', () => {
    const { primary: name, because, refused } = election([primary('b', 1), primary('c', 1)], 'c')
    expect(name).toBe('c')
    expect(because).toMatch(/^split brain/)
    expect(refused).toEqual(new Map([['b', 'second primary']]))
  })

  test('although it is reached by two addresses, which is no split brain', () => {
    const addresses = [primary('a', 1), primary('b', 1, { server: 'start of a' })]
    expect(election(addresses, 'a')).toMatchObject({ primary: 'a', because: 'answers', refused: new Map() })
    expect(election(addresses, 'b')).toMatchObject({ primary: 'b', because: 'answers', refused: new Map() })
  })

  test('and moves to a higher timeline with itself: it was promoted between two looks', () => {
    expect(election([primary('a', 2)], 'a')).toMatchObject({ is: 'same', timeline: 2, timelineMoved: true })
  })

  test('when an old primary comes back to life, which gets nothing', () => {
    const { primary: name, because, refused } = election([primary('a', 1), primary('b', 2)], 'b', knows(2))
    expect({ name, because, refused }).toEqual({
      name: 'b',
      because: 'answers',
      refused: new Map([['a', 'old timeline']]),
    })
  })
})

describe('another one is the primary', () => {
  test.each<[string, NodeView, string]>([
    ['has been demoted', standby('a'), 'the primary is in recovery'],
    ['cannot be reached', gone('a'), 'the primary is unreachable'],
    ['is alive, but was left behind by a promotion', primary('a', 1), 'higher timeline'],
    [
      'is of another cluster now',
      primary('a', 9, { systemIdentifier: 'another' }),
      'the primary is of another cluster',
    ],
  ])('when it accepts writes on a higher timeline, and the one before %s', (_, before, because) => {
    expect(election([before, primary('b', 2), standby('c')], 'a')).toMatchObject({
      primary: 'b',
      is: 'other',
      because,
      timeline: 2,
      timelineMoved: true,
    })
  })

  test('when it is another address of the same server and the first one cannot be reached', () => {
    const other = primary('b', 1, { server: 'start of a' })
    expect(election([gone('a'), other], 'a')).toMatchObject({ primary: 'b', timeline: 1, timelineMoved: false })
  })

  test('when the one before was taken off the list', () => {
    expect(election([primary('b', 1), standby('c')], 'a')).toMatchObject({ primary: 'b', because: 'found' })
  })

  test('and of several the one with the highest timeline', () => {
    const { primary: name, refused } = election([gone('a'), primary('b', 2), primary('c', 3), primary('d', 2)], 'a')
    expect(name).toBe('c')
    expect(refused).toEqual(new Map([['b', 'old timeline'], ['d', 'old timeline']])) // prettier-ignore
  })

  test('and of two that were both promoted every process takes the same one, and says so', () => {
    const { primary: name, refused } = election([gone('a'), primary('c', 2), primary('b', 2)], 'a')
    expect({ name, refused }).toEqual({ name: 'b', refused: new Map([['c', 'second primary']]) })
  })
})

describe('nobody is the primary', () => {
  test('while the old one is a standby already and the new one not yet promoted', () => {
    expect(election([standby('a'), standby('b')], 'a')).toMatchObject({
      primary: null,
      is: 'none',
      because: 'in recovery, and no other is primary',
      timeline: 1,
      timelineMoved: false,
    })
  })

  test('when the only one that accepts writes is on an old timeline', () => {
    const { primary: name, because, refused, timeline } = election([primary('a', 1), gone('b')], 'a', knows(2))
    expect({ name, because, timeline }).toEqual({
      name: null,
      because: 'on an old timeline, and no other is primary',
      timeline: 2,
    })
    expect(refused).toEqual(new Map([['a', 'old timeline']]))
    // Not by the detour that the primary is gone, either.
    expect(election([primary('a', 1), gone('b')], 'b', knows(2)).primary).toBe('b')
    expect(election([primary('a', 1), gone('b')], null, knows(2)).primary).toBeNull()
  })

  test('when a standby follows a newer timeline than that of the one that accepts writes', () => {
    const follows = standby('b', { receivedTimeline: 2 })
    const { primary: name, refused } = election([primary('a', 1), follows, gone('c')], 'a')
    expect({ name, refused }).toEqual({ name: null, refused: new Map([['a', 'old timeline']]) })
    // What it has said once holds when it has gone.
    expect(election([primary('a', 1), gone('b', { inRecovery: true, receivedTimeline: 2 })], 'a').primary).toBeNull()
    expect(election([primary('a', 1), standby('b', { receivedTimeline: 1 })], 'a').primary).toBe('a')
  })

  test('when the one before belongs to another cluster now, reachable or not', () => {
    const stranger = { timeline: 1, systemIdentifier: 'another' }
    const answer = { primary: null, because: 'of another cluster, and no other is primary' }
    expect(election([node('a', stranger), standby('b')], 'a')).toMatchObject(answer)
    expect(election([gone('a', stranger), standby('b')], 'a')).toMatchObject(answer)
  })
})

describe('where nobody was the primary', () => {
  test('it is the one that accepts writes on the highest timeline', () => {
    const nodes = [standby('a'), primary('b', 1), primary('c', 2)]
    expect(election(nodes, null, nothingKnown)).toEqual({
      primary: 'c',
      is: 'other',
      because: 'found',
      timeline: 2,
      // The first one that is heard of.
      timelineMoved: false,
      systemIdentifier: cluster,
      refused: new Map([['b', 'old timeline']]),
    })
  })

  test('it is nobody as long as all are standbys, or none can be reached', () => {
    const answer = { primary: null, is: 'none', because: 'no server accepts writes', timeline: null }
    expect(election([standby('a'), gone('b', null)], null, nothingKnown)).toMatchObject(answer)
    expect(election([gone('a'), gone('b')], null, nothingKnown)).toMatchObject(answer)
    expect(election([], null, nothingKnown)).toMatchObject({ ...answer, systemIdentifier: null })
  })
})

describe('a server of another cluster', () => {
  test('is refused whatever it says', () => {
    const strangers = [
      primary('b', 9, { systemIdentifier: 'another' }),
      standby('c', { systemIdentifier: 'another', receivedTimeline: 9 }),
      gone('d', { systemIdentifier: 'another' }),
    ]
    const { primary: name, timeline, refused } = election([primary('a', 1), ...strangers], 'a')
    expect({ name, timeline }).toEqual({ name: 'a', timeline: 1 })
    expect(refused).toEqual(new Map(['b', 'c', 'd'].map((stranger) => [stranger, 'another cluster'])))
  })

  test('is one that the configured primary does not belong to, while no cluster is known', () => {
    const nodes = [standby('a'), primary('b', 9, { systemIdentifier: 'another' })]
    const { primary: name, systemIdentifier, refused } = election(nodes, 'a', nothingKnown)
    expect({ name, systemIdentifier }).toEqual({ name: null, systemIdentifier: cluster })
    expect([...refused.keys()]).toEqual(['b'])
  })

  test('is one that the elected primary does not belong to, while no primary is known', () => {
    const nodes = [primary('a', 2), primary('b', 1, { systemIdentifier: 'another' })]
    const stranger = standby('c', { systemIdentifier: 'another', receivedTimeline: 9 })
    expect(election([...nodes, stranger], null, nothingKnown)).toMatchObject({
      primary: 'a',
      timeline: 2,
      systemIdentifier: cluster,
      refused: new Map([['b', 'another cluster'], ['c', 'another cluster']]), // prettier-ignore
    })
  })

  test('cannot be told where servers do not say whose they are', () => {
    const silent = { systemIdentifier: null }
    expect(election([standby('a'), primary('b', 2, silent)], 'a').primary).toBe('b')
    expect(election([standby('a', silent), primary('b', 2, silent)], 'a', nothingKnown)).toMatchObject({
      primary: 'b',
      systemIdentifier: null,
    })
  })
})

describe('servers that do not tell their timeline', () => {
  const untold = (name: string, said: Said = {}): NodeView => primary(name, null, { systemIdentifier: null, ...said })

  test('are taken by their role alone', () => {
    const before = election([untold('a'), standby('b')], 'a', nothingKnown)
    expect(before).toMatchObject({ primary: 'a', because: 'answers', timeline: null })
    const after = election([standby('a'), untold('b')], 'a', nothingKnown)
    expect(after).toMatchObject({ primary: 'b', timeline: null, timelineMoved: false })
    expect(election([gone('a', null), untold('b')], 'a', nothingKnown).primary).toBe('b')
    expect(election([standby('a'), untold('b')], 'a', knows(3))).toMatchObject({ primary: 'b', timeline: 3 })
  })

  test('stay primary beside one that tells the timeline that they were on, and not beside a higher one', () => {
    expect(election([untold('a'), primary('b', 1)], 'a')).toMatchObject({
      primary: 'a',
      refused: new Map([['b', 'second primary']]),
    })
    expect(election([untold('a'), primary('b', 2)], 'a')).toMatchObject({ primary: 'b', because: 'higher timeline' })
    // Where none is known nobody can say which one is higher.
    expect(election([untold('a'), primary('b', 2)], 'a', nothingKnown)).toMatchObject({ primary: 'a', timeline: null })
  })

  test('come after one that does', () => {
    expect(election([untold('a'), primary('b', 1)], null).primary).toBe('b')
  })

  test('are no second primary when they do not say when they were started, either', () => {
    const { refused, because } = election([primary('a', 1), untold('b', { server: null })], 'a')
    expect({ refused, because }).toEqual({ refused: new Map(), because: 'answers' })
  })
})

describe('whatever the nodes say', () => {
  const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(arbitrary, { nil: null, freq: 4 })
  const anyTimeline = fc.integer({ min: 1, max: 3 })
  const anySaid: fc.Arbitrary<Said> = fc
    .record({
      inRecovery: fc.boolean(),
      timeline: maybe(anyTimeline),
      receivedTimeline: maybe(anyTimeline),
      server: maybe(fc.constantFrom('x', 'y', 'z')),
      systemIdentifier: maybe(fc.constantFrom(cluster, cluster, 'another')),
    })
    .map((said) => ({
      ...said,
      timeline: said.inRecovery ? null : said.timeline,
      receivedTimeline: said.inRecovery ? said.receivedTimeline : null,
    }))
  const anyNodes = fc.uniqueArray(
    fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd'), said: maybe(anySaid), reachable: fc.boolean() }),
    { selector: ({ name }) => name },
  )
  const anyKnown = fc.record({
    timeline: fc.integer({ min: 0, max: 3 }),
    systemIdentifier: maybe(fc.constant(cluster)),
  })
  const anyCase = fc.record({ nodes: anyNodes, current: maybe(fc.constantFrom('a', 'b', 'e')), known: anyKnown })

  const holds = (claim: (views: NodeView[], current: string | null, known: Known) => void): void => {
    fc.assert(
      fc.property(anyCase, ({ nodes, current, known }) => {
        claim(
          nodes.map(({ name, said, reachable }) => node(name, said, reachable)),
          current,
          known,
        )
      }),
      { numRuns: 2_000 },
    )
  }
  const find = (views: NodeView[], name: string | null): NodeView | undefined => views.find((one) => one.name === name)

  test('no standby, no stranger, nobody unheard and nobody refused becomes the primary', () => {
    holds((views, current, known) => {
      const { primary: name, is, systemIdentifier, refused } = elect(views, current, known)
      if (is !== 'other') return
      const chosen = find(views, name)
      expect(chosen).toMatchObject({ reachable: true, sample: { inRecovery: false } })
      if (systemIdentifier !== null) expect([systemIdentifier, null]).toContain(chosen!.sample!.systemIdentifier)
      expect(refused.has(name!)).toBe(false)
    })
  })

  test('a primary that answers as a standby is none any more', () => {
    holds((views, current, known) => {
      const { primary: name } = elect(views, current, known)
      const chosen = find(views, name)
      expect(chosen?.reachable === true && chosen.sample?.inRecovery === true).toBe(false)
    })
  })

  test('the timeline never goes back, and never does a primary on a lower one get anything', () => {
    holds((views, current, known) => {
      const { primary: name, timeline, timelineMoved, refused } = elect(views, current, known)
      expect(timeline ?? 0).toBeGreaterThanOrEqual(known.timeline)
      expect(timelineMoved).toBe(known.timeline > 0 && timeline! > known.timeline)
      for (const { reachable, sample, name: other } of views) {
        if (!reachable || sample?.inRecovery !== false || sample.timeline === null) continue
        if (sample.timeline < known.timeline) expect(refused.has(other)).toBe(true)
        if (sample.timeline < known.timeline) expect(name).not.toBe(other)
      }
    })
  })

  test('nobody who accepts writes on a higher timeline than the primary is left aside, but strangers', () => {
    holds((views, current, known) => {
      const { primary: name, is, timeline, refused } = elect(views, current, known)
      const chosen = find(views, name)
      if (is === 'none' || chosen?.reachable !== true || chosen.sample === null) return
      // By its role alone.
      if (chosen.sample.timeline === null) return
      for (const { reachable, sample, name: other } of views) {
        if (!reachable || sample?.inRecovery !== false || refused.get(other) === 'another cluster') continue
        expect(sample.timeline ?? 0).toBeLessThanOrEqual(timeline ?? 0)
      }
    })
  })

  test('the order of the nodes is no matter', () => {
    holds((views, current, known) => {
      const one = elect(views, current, known)
      const other = elect(views.toReversed(), current, known)
      // Maps are equal in whatever order they were filled.
      expect(other).toEqual(one)
    })
  })

  test('what was elected stays elected while nothing changes', () => {
    holds((views, current, known) => {
      const first = elect(views, current, known)
      const { timeline, systemIdentifier } = first
      const second = elect(views, first.primary, { timeline: timeline ?? 0, systemIdentifier })
      expect(second).toMatchObject({ primary: first.primary, timeline, timelineMoved: false, systemIdentifier })
      expect(second.is).toBe(first.primary === null ? 'none' : 'same')
      expect(second.refused).toEqual(first.refused)
    })
  })

  test('only nodes are named, and the cluster that is known stays known', () => {
    holds((views, current, known) => {
      const { primary: name, systemIdentifier, refused } = elect(views, current, known)
      const names = views.map((view) => view.name)
      if (name !== null) expect(names).toContain(name)
      for (const other of refused.keys()) expect(names).toContain(other)
      if (known.systemIdentifier !== null) expect(systemIdentifier).toBe(known.systemIdentifier)
    })
  })
})
