// What a rule of the lanes is worth, before anybody builds it into the engine: the same loads over the engine's lanes
// and over simpler ways to share ten connections, in virtual time (test/support/lane-model.ts). Change a rule in
// src/core/lane.ts, run `node bench/lanes.ts` again, compare. The figures are the same on every machine; what they say
// of real ones only `npm run bench` can tell.

import { anyOf, read, runModel, sleeper, write } from '../test/support/lane-model.ts'
import type { Group, Model, Outcome, Way } from '../test/support/lane-model.ts'

const DISTANCES = [0, 1, 5, 25]
const WAYS: readonly Way[] = ['lanes', 'least-in-flight', 'rotation', 'one-each']

interface Load {
  readonly name: string
  readonly groups: () => Group[]
  readonly model?: Partial<Model>
}

const four = <T>(make: (n: number) => T): T[] => [1, 2, 3, 4].map(make)

function readers(callers: number, leastMs = 0.05, mostMs = 0.2): Group {
  return { name: 'reads', callers, next: anyOf(four((n) => read(`select ${n}`, leastMs, mostMs))) }
}

function writers(callers: number, diskMs: number): Group {
  return { name: 'writes', callers, next: anyOf(four((n) => write(`update ${n}`, diskMs))) }
}

/** `sql` by everybody. */
function each(name: string, callers: number, text: ReturnType<typeof read>): Group {
  return { name, callers, next: () => text }
}

/** One statement in ten writes. */
function mixed(callers: number, diskMs: number): Group {
  const [reading, writing] = [readers(0).next, writers(0, diskMs).next]
  return { name: 'mixed', callers, next: (chance) => (chance() < 0.1 ? writing : reading)(chance) }
}

const busyClient: Partial<Model> = { askMs: 0.03, answerMs: 0.02 }

const LOADS: readonly Load[] = [
  { name: '10 readers', groups: () => [readers(10)] },
  { name: '100 readers', groups: () => [readers(100)] },
  { name: '1000 readers', groups: () => [readers(1000)] },
  { name: '100 readers, jitter 3 ms', groups: () => [readers(100)], model: { jitterMs: 3 } },
  { name: '100 readers, busy client', groups: () => [readers(100, 0.02, 0.08)], model: busyClient },
  { name: '300 readers, busy client', groups: () => [readers(300, 0.02, 0.08)], model: busyClient },
  { name: '1000 readers, busy client', groups: () => [readers(1000, 0.02, 0.08)], model: busyClient },
  {
    name: '100 readers, 8 sleep 100 ms',
    groups: () => [readers(100), each('sleeps', 8, sleeper('select pg_sleep(0.1)', 100))],
    model: { warmMs: 600 },
  },
  {
    name: '50 readers, 50 want one row',
    groups: () => [readers(50), each('updates', 50, write('update hot', 1, 'hot'))],
  },
  { name: '100 writers, commit 1 ms', groups: () => [writers(100, 1)] },
  { name: '100 writers, pipelined', groups: () => [writers(100, 1)], model: { pipelineWrites: true } },
  { name: '100 of 90/10, commit 1 ms', groups: () => [mixed(100, 1)] },
  { name: '1000 of 90/10, commit 1 ms', groups: () => [mixed(1000, 1)] },
  { name: '100 of 90/10, commit 5 ms', groups: () => [mixed(100, 5)] },
  { name: '100 of 90/10, pipelined', groups: () => [mixed(100, 1)], model: { pipelineWrites: true } },
  { name: '90 readers, 10 writers', groups: () => [readers(90), writers(10, 1)] },
  { name: '900 readers, 100 writers', groups: () => [readers(900), writers(100, 1)] },
]

const cell = (text: string, width: number): string => text.padStart(width)

/** Statements per second, the 99th percentile, and how many came more than 20 ms and a round trip late. */
function figures(outcome: Outcome, { name }: Group, roundTripMs: number): string {
  const group = outcome.of(name)
  const late = `${(100 * group.later(20 + roundTripMs)).toFixed(1)} %`
  return [cell(group.perSecond.toFixed(0), 8), cell(group.quantile(0.99).toFixed(1), 8), cell(late, 8)].join('')
}

console.log('Per second, 99th percentile (ms), later than 20 ms and a round trip; ten connections, virtual time.\n')
console.log(`${'load'.padEnd(30)}${cell('R', 4)} ${'group'.padEnd(8)}${WAYS.map((way) => cell(way, 26)).join('')}`)
for (const { name, groups, model } of LOADS) {
  for (const roundTripMs of DISTANCES) {
    const outcomes: Outcome[] = []
    for (const way of WAYS) outcomes.push(await runModel({ warmMs: 300, ...model, way, roundTripMs, groups: groups() }))
    for (const group of groups()) {
      const row = outcomes.map((outcome) => `  ${figures(outcome, group, roundTripMs)}`).join('')
      console.log(`${name.padEnd(30)}${cell(String(roundTripMs), 4)} ${group.name.padEnd(8)}${row}`)
    }
  }
}
