// What may stand behind `npm run bench:failover --`.

import { parseArgs } from 'node:util'
import { clusterScenarioOf, clusterScenarios } from '../../test/support/failover/scenarios.ts'
import type { ClusterScenario } from '../../test/support/failover/scenarios.ts'
import { clientNames } from '../../test/support/fault-load/clients.ts'
import type { ClientName } from '../../test/support/fault-load/clients.ts'

export interface Flags {
  readonly scenarios: readonly ClusterScenario[]
  readonly clients: readonly ClientName[]
  readonly rounds: number
  readonly seed: number
  readonly rate: number
  readonly connections: number
  readonly ownReads: number
  readonly timeline: boolean
  readonly json: string | undefined
}

export const usage = `Usage: npm run bench:failover -- [options]

Puts kysely-smart-pg and Kysely's PostgresDialect on pg.Pool (stock) under a load whose
operations begin when they are due, on a temporary cluster of a primary and two standbys,
lets somebody take over or a replica fail, and asks the database what really happened.
Every round has a new cluster. Then inserts rows and selects them at once while the
replicas stand still and go on at random.

  --scenario A,B   default all of these; those of bench:faults happen to the primary alone:
${clusterScenarios.map(({ name, description }) => `                   ${name.padEnd(18)}${description}`).join('\n')}
  --client A,B     of ${clientNames.join(', ')} (default stock,smart)
  --rounds N       of each (default 15)
  --seed N         of the load of the first round (default 1)
  --rate N         operations per second (default 300)
  --connections N  of each client to each server (default 10)
  --own-reads N    inserts that are read at once, in each mode of readYourWrites (default 10000; 0: none)
  --timeline       what callers were told, by the quarter of a second, and what the client did
  --json FILE      writes every figure there
  --help           this text`

/** The flags, or undefined when help was asked for; throws what is wrong with them. */
export function readFlags(args: readonly string[]): Flags | undefined {
  const { values } = parseArgs({
    args: [...args],
    options: {
      scenario: { type: 'string' },
      client: { type: 'string', default: 'stock,smart' },
      rounds: { type: 'string', default: '15' },
      seed: { type: 'string', default: '1' },
      rate: { type: 'string', default: '300' },
      connections: { type: 'string', default: '10' },
      'own-reads': { type: 'string', default: '10000' },
      timeline: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return undefined
  return {
    scenarios: scenariosOf(values.scenario),
    clients: values.client.split(',').map(clientOf),
    rounds: wholeNumber('rounds', values.rounds, 1),
    seed: wholeNumber('seed', values.seed, 0),
    rate: wholeNumber('rate', values.rate, 1),
    connections: wholeNumber('connections', values.connections, 1),
    ownReads: wholeNumber('own-reads', values['own-reads'], 0),
    timeline: values.timeline,
    json: values.json,
  }
}

function scenariosOf(names: string | undefined): readonly ClusterScenario[] {
  if (names === undefined) return clusterScenarios
  return names.split(',').filter(Boolean).map(clusterScenarioOf)
}

function wholeNumber(name: string, value: string, least: number): number {
  const number = Number(value)
  if (!Number.isInteger(number) || number < least) throw new Error(`--${name} must be a whole number from ${least}`)
  return number
}

function clientOf(name: string): ClientName {
  const found = clientNames.find((one) => one === name)
  if (found === undefined) throw new Error(`--client: there is no ${name}; there are ${clientNames.join(', ')}`)
  return found
}
