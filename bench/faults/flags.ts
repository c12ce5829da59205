// What may stand behind `npm run bench:faults --`.

import { parseArgs } from 'node:util'
import { clientNames } from '../../test/support/fault-load/clients.ts'
import type { ClientName } from '../../test/support/fault-load/clients.ts'
import { scenarioOf, scenarios } from '../../test/support/fault-load/scenarios.ts'
import type { Scenario } from '../../test/support/fault-load/scenarios.ts'

export interface Flags {
  readonly scenarios: readonly Scenario[]
  readonly clients: readonly ClientName[]
  /** How long every fault lasts; undefined: as long as each does. */
  readonly seconds: number | undefined
  readonly seed: number
  readonly rate: number
  readonly connections: number
  readonly timeline: boolean
  readonly json: string | undefined
}

export const usage = `Usage: npm run bench:faults -- [options]

Puts kysely-smart-pg and Kysely's PostgresDialect on pg.Pool (stock) under a load whose
operations begin when they are due, injects a fault, ends it, and asks the database what
really happened. On a temporary PostgreSQL on this machine, one run at a time.

  --scenario A,B   default all:
${scenarios.map(({ name, description }) => `                   ${name.padEnd(18)}${description}`).join('\n')}
  --client A,B     of ${clientNames.join(', ')} (default stock,smart)
  --seconds N      that the fault lasts (default as each scenario says)
  --seed N         of the load (default 1)
  --rate N         operations per second (default 300)
  --connections N  of each client (default 10)
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
      seconds: { type: 'string' },
      seed: { type: 'string', default: '1' },
      rate: { type: 'string', default: '300' },
      connections: { type: 'string', default: '10' },
      timeline: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return undefined
  const flags: Flags = {
    scenarios: values.scenario === undefined ? scenarios : values.scenario.split(',').map(scenarioOf),
    clients: values.client.split(',').map(clientOf),
    seconds: values.seconds === undefined ? undefined : Number(values.seconds),
    seed: Number(values.seed),
    rate: Number(values.rate),
    connections: Number(values.connections),
    timeline: values.timeline,
    json: values.json,
  }
  if (flags.seconds !== undefined && !(flags.seconds >= 0)) throw new Error('--seconds must be a number')
  if (!Number.isInteger(flags.seed)) throw new Error('--seed must be a whole number')
  if (!(flags.rate > 0)) throw new Error('--rate must be a number above 0')
  if (!(Number.isInteger(flags.connections) && flags.connections > 0)) {
    throw new Error('--connections must be a whole number above 0')
  }
  return flags
}

function clientOf(name: string): ClientName {
  const found = clientNames.find((one) => one === name)
  if (found === undefined) throw new Error(`--client: there is no ${name}; there are ${clientNames.join(', ')}`)
  return found
}
