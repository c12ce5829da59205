// What may stand behind `npm run bench --`.

import { parseArgs } from 'node:util'

export const usage = `Usage: npm run bench -- [--quick] [--rounds N] [--seconds N] [--concurrency N,N...]

Compares kysely-smart-pg with Kysely's PostgresDialect on pg.Pool, each in a process of
its own, on a temporary PostgreSQL on this machine. Build first: npm run build.

  --quick             half-second rounds: less than two minutes
  --rounds N          rounds of every client (default 15)
  --seconds N         measured seconds of a round (default 1)
  --concurrency N,N   callers, each waiting for its answer (default 1,10,100)
  --profile DIR       every client writes a CPU profile there
  --help              this text`

export interface Flags {
  readonly rounds: number
  readonly seconds: number
  readonly concurrency: readonly number[]
  readonly profile: string | undefined
}

/** The flags, or undefined when help was asked for; throws what is wrong with them. */
export function readFlags(args: readonly string[]): Flags | undefined {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '15' },
      seconds: { type: 'string' },
      concurrency: { type: 'string', default: '1,10,100' },
      profile: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return undefined
  const flags: Flags = {
    rounds: Number(values.rounds),
    seconds: Number(values.seconds ?? (values.quick ? 0.5 : 1)),
    concurrency: values.concurrency.split(',').map(Number),
    profile: values.profile,
  }
  if (!isCount(flags.rounds)) throw new Error('--rounds must be a whole number above 0')
  if (!(flags.seconds > 0)) throw new Error('--seconds must be a number above 0')
  if (!flags.concurrency.every(isCount)) throw new Error('--concurrency must be whole numbers above 0, with commas')
  return flags
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value > 0
}
