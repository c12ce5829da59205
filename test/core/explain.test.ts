// The text of `explainRoute`. Its form is a promise: people compare it, and scripts look for its first line.

import { describe, expect, test } from 'vitest'
import { explanationText } from '../../src/core/explain.ts'
import type { CandidateExplanation, RouteExplanation } from '../../src/core/explain.ts'
import { factsOf } from '../../src/sql/facts.ts'

const node: CandidateExplanation = {
  name: 'primary',
  role: 'primary',
  eligible: true,
  because: 'primary',
  lagMs: null,
  lagBytes: null,
  score: { value: 100, answered: 1, latency: 1, freshness: 1 },
  load: 0,
  latencyMs: null,
  breaker: 'closed',
  ownWrites: 'visible',
  zone: undefined,
  priority: 1,
  weight: 1,
  tags: [],
}
const near: CandidateExplanation = {
  ...node,
  name: 'eu-2',
  role: 'replica',
  because: 'fresh',
  lagMs: 11.6,
  lagBytes: 0,
  score: { value: 96.6, answered: 1, latency: 0.97, freshness: 0.996 },
  load: 3,
  latencyMs: 0.849,
  zone: 'eu',
  tags: ['reports', 'big'],
}
const far: CandidateExplanation = {
  ...near,
  name: 'us-1',
  eligible: false,
  because: 'too many bytes behind',
  lagMs: 61_000,
  lagBytes: 34_603_008,
  breaker: 'half-open',
  ownWrites: 'not visible yet',
  zone: 'us',
  priority: 2,
  weight: 0.5,
  tags: [],
}

const toReplica: RouteExplanation = {
  target: 'replica',
  node: 'eu-2',
  reason: 'read',
  facts: factsOf('select lower(name) from orders join customers using (id)'),
  refused: null,
  strategy: { strategy: 'performance', because: 'it is configured' },
  candidates: [node, near, { ...far, ownWrites: 'none' }],
}
const headlineOf = (explanation: RouteExplanation) => explanationText(explanation).split('\n')[0]

describe('the text of an explanation', () => {
  test('says where and why, what the statement says, and what there was to choose from', () => {
    expect(explanationText({ ...toReplica, candidates: [node, near, far] })).toBe(
      [
        `replica 'eu-2' — read (fresh, score 97): SELECT orders customers`,
        '  statement  read_complex',
        '  reads      orders, customers',
        '  calls      lower',
        '  strategy   performance: it is configured',
        '  node     role     could take it              lag                   score  load  latency  breaker    own writes       zone  priority  weight  tags',
        '  primary  primary  yes: primary               –                     100    0     –        closed     visible          –     1         1       –',
        '  eu-2     replica  yes: fresh                 12 ms, 0 B            97     3     0.8 ms   closed     visible          eu    1         1       reports, big',
        '  us-1     replica  no: too many bytes behind  61000 ms, 34603008 B  97     3     0.8 ms   half-open  not visible yet  us    2         0.5     –',
      ].join('\n'),
    )
  })

  test('says what is written, why a read stays, and what a standby has said of it', () => {
    const stays = {
      ...toReplica,
      target: 'primary',
      node: 'primary',
      reason: 'refused',
      facts: factsOf('with moved as (insert into archive select * from orders returning id) select f(id) from moved'),
      refused: 'cannot execute INSERT in a read-only transaction',
    } satisfies RouteExplanation
    expect(explanationText(stays).split('\n').slice(0, 6)).toEqual([
      `primary 'primary' — refused (primary, score 100): ${stays.facts.summary}`,
      '  statement  write_simple (write)',
      '  reads      orders',
      '  writes     archive',
      '  calls      f',
      '  refused    cannot execute INSERT in a read-only transaction',
    ])
  })

  test('says so when nobody could take it', () => {
    expect(headlineOf({ ...toReplica, node: null, reason: 'fallback' })).toBe(
      'no replica — fallback: SELECT orders customers',
    )
    expect(headlineOf({ ...toReplica, target: 'primary', node: null, reason: 'write' })).toMatch(
      /^no primary — write: /,
    )
  })

  test('calls a server by the role that it has, whatever the statement was meant for', () => {
    expect(headlineOf({ ...toReplica, node: 'primary', reason: 'stale-replicas' })).toMatch(
      /^primary 'primary' — stale-replicas \(primary, score 100\): /,
    )
  })

  test('is as many lines as it has things to say, whatever is in a name', () => {
    const named = {
      ...toReplica,
      facts: factsOf('select "a\nb"() from "line\nbreak\u2028and\u009bmore"'),
      refused: 'one\ntwo',
      candidates: [{ ...near, because: 'odd\nreason', tags: ['new\nline'] }],
    }
    const text = explanationText(named)
    expect(text.split('\n')).toHaveLength(8)
    // oxlint-disable-next-line no-control-regex -- they are what is looked for
    expect(text.replaceAll('\n', '')).not.toMatch(/[\u0000-\u001f\u0080-\u009f\u2028]/)
  })
})
