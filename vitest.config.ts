// The rooms of the test house. `unit` and `simulation` touch no network; the others run against one real
// PostgreSQL cluster, which starts only when one of their files runs. The same tests of `test/kysely` run four
// times: against the oldest Kysely that is supported, the newest, and the next one, and once more over `wire: 'pg'`,
// over which `test/faults` and those of `test/wire` that know nothing but the Session run again, too.

import { join } from 'node:path'
import { defineConfig } from 'vitest/config'
import type { TestProjectInlineConfiguration } from 'vitest/config'

// Projects of one group run at the same time, groups one after the other: no two projects may disturb each
// other in one database, and no fault may be injected while someone else measures what a fault does.
const withDatabase = (
  name: string,
  folder: string,
  groupOrder: number,
  live: string[] = [],
): TestProjectInlineConfiguration => ({
  extends: true,
  test: {
    name,
    include: [folder.includes('*') ? `test/${folder}.test.ts` : `test/${folder}/**/*.test.ts`, ...live],
    globalSetup: ['test/support/one-cluster.ts'],
    sequence: { groupOrder },
  },
})

/** The same tests over `wire: 'pg'`; test/support/wire.ts reads it, in processes that tests start as well. */
const overPg = (project: TestProjectInlineConfiguration): TestProjectInlineConfiguration => ({
  ...project,
  test: { ...project.test, env: { TEST_WIRE: 'pg' } },
})

/** Of these the wire is no part: they ask the pool, the circuit and the judge. */
const ofNoWire = [
  'circuit-breaker',
  'failover',
  'hint-lag',
  'judge',
  'levels',
  'overload',
  'replica-faults',
  'slow-accept',
  'stale-reads',
  'stock',
  'switchover',
]

const without = (names: string[], project: TestProjectInlineConfiguration): TestProjectInlineConfiguration => ({
  ...project,
  test: { ...project.test, exclude: names.map((name) => `test/**/${name}.test.ts`) },
})

/** Tests that ask a Session, whichever it is. */
const ofSessions = ['session', 'prepared', 'portal', 'cancel', 'open', 'tls']

const withKysely = (name: string, entry: string, groupOrder: number): TestProjectInlineConfiguration => ({
  ...withDatabase(name, 'kysely', groupOrder),
  // Applies to `src` and to the tests alike, so that both see the same Kysely.
  resolve: { alias: [{ find: /^kysely$/, replacement: join(import.meta.dirname, 'node_modules', entry) }] },
})

export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    retry: 0,
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // What is polled for comes late on a busy machine; how late is no matter of the test.
    expect: { poll: { timeout: 20_000 } },
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/*.test.ts', 'test/{core,config,sql,telemetry,engine,types}/**/*.test.ts'],
          exclude: ['test/**/*.live.test.ts'],
        },
      },
      { extends: true, test: { name: 'simulation', include: ['test/simulation/**/*.test.ts'] } },
      withDatabase('support', 'support', 1),
      withDatabase('wire', 'wire', 2, ['test/**/*.live.test.ts']),
      overPg(withDatabase('wire-pg', `wire/*(${ofSessions.join('|')})`, 3)),
      withKysely('kysely-0.28', 'kysely-0.28/dist/esm/index.js', 4),
      withKysely('kysely-0.29', 'kysely/dist/index.js', 5),
      withKysely('kysely-next', 'kysely-next/dist/index.js', 6),
      overPg(withKysely('kysely-pg', 'kysely/dist/index.js', 7)),
      withDatabase('faults', 'faults', 8),
      without(ofNoWire, overPg(withDatabase('faults-pg', 'faults', 9))),
      withDatabase('package', 'package', 10),
    ],
  },
})
