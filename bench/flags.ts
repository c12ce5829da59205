// What may stand behind `npm run bench --`.

import { parseArgs } from 'node:util'
import { everyone } from './field.ts'
import { workloads } from './workloads/all.ts'

export interface Flags {
  readonly quick: boolean
  readonly clients: readonly string[]
  readonly workloads: readonly string[]
  readonly concurrency: readonly number[]
  readonly connections: number
  /** Milliseconds of round trip; 0 is no proxy. */
  readonly delays: readonly number[]
  readonly rounds: number
  readonly seconds: number
  readonly json: string | undefined
  readonly profile: string | undefined
}

const usual = {
  clients: everyone.join(),
  workloads: 'point,rows,insert,mixed,head-of-line,hot-row',
  concurrency: '1,10,100,1000',
  rounds: '15',
  seconds: '1',
}

/** Less than two minutes. What it says is noise; that it says it, without errors, is the point. */
const quick: typeof usual = {
  clients: 'smart,postgres.js,pgbench',
  workloads: 'point,rows,mixed,head-of-line,hot-row',
  concurrency: '1,100',
  rounds: '3',
  seconds: '0.3',
}

export const usage = `Usage: npm run bench -- [options]

Compares kysely-smart-pg with other clients, each in a process of its own, on a temporary
PostgreSQL on this machine. All is divided by kysely-pg (Kysely's PostgresDialect on
pg.Pool), which therefore always takes part, twice. Build first: npm run build.

  --clients A,B       of ${list(everyone)}
                      (default all)
  --workloads A,B     of ${list(workloads.map(({ name }) => name))}
                      (default ${usual.workloads})
  --concurrency N,N   callers, each waiting for its answer (default ${usual.concurrency});
                      head-of-line, hot-row, rls and transaction have their own
  --connections N     of each client (default 10)
  --delay MS,MS       of round trip, by a proxy; 0 is none (default 0)
  --rounds N          rounds of every client (default ${usual.rounds})
  --seconds N         measured seconds of a round (default ${usual.seconds})
  --quick             less than two minutes: the default of everything above is smaller
  --json FILE         writes every figure of every round there
  --profile DIR       every client writes a CPU profile there
  --help              this text`

/** The flags, or undefined when help was asked for; throws what is wrong with them. */
export function readFlags(args: readonly string[]): Flags | undefined {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      clients: { type: 'string' },
      workloads: { type: 'string' },
      concurrency: { type: 'string' },
      connections: { type: 'string', default: '10' },
      delay: { type: 'string', default: '0' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      json: { type: 'string' },
      profile: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return undefined
  const asked = { ...(values.quick ? quick : usual), ...values }
  const flags: Flags = {
    quick: values.quick,
    clients: names('--clients', asked.clients, everyone),
    workloads: names(
      '--workloads',
      asked.workloads,
      workloads.map(({ name }) => name),
    ),
    concurrency: asked.concurrency.split(',').map(Number),
    connections: Number(asked.connections),
    delays: asked.delay.split(',').map(Number),
    rounds: Number(asked.rounds),
    seconds: Number(asked.seconds),
    json: asked.json,
    profile: asked.profile,
  }
  if (!flags.concurrency.every(isCount)) throw new Error('--concurrency must be whole numbers above 0, with commas')
  if (!isCount(flags.connections)) throw new Error('--connections must be a whole number above 0')
  if (!flags.delays.every((delay) => delay >= 0)) throw new Error('--delay must be milliseconds, with commas')
  if (!isCount(flags.rounds)) throw new Error('--rounds must be a whole number above 0')
  if (!(flags.seconds > 0)) throw new Error('--seconds must be a number above 0')
  return flags
}

function names(flag: string, asked: string, known: readonly string[]): readonly string[] {
  const wanted = asked.split(',')
  const unknown = wanted.find((name) => !known.includes(name))
  if (unknown !== undefined) throw new Error(`${flag}: there is no ${unknown}; there are ${known.join(', ')}`)
  return wanted
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value > 0
}

/** As wide as the rest of the usage. */
function list(words: readonly string[]): string {
  let line = ''
  const lines = []
  for (const word of words) {
    if (line.length + word.length > 60) {
      lines.push(line)
      line = ''
    }
    line += line === '' ? word : `, ${word}`
  }
  return [...lines, line].join(',\n                      ')
}
