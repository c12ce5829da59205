// What may stand behind `npm start --`.

import { parseArgs } from 'node:util'

export const usage = `Usage: npm start -- [--seconds N] [--concurrency N] [--url URL [--replica URL]...]

A web shop under load, through kysely-smart-pg and through Kysely's PostgresDialect
in turns, on the same PostgreSQL servers, and what became of it.

  --seconds N       measured seconds for each of the two clients (default 10)
  --concurrency N   simulated callers, each waiting for its answer (default 50)
  --url URL         your own primary (postgres://...) instead of a temporary
                    cluster; all is done in a schema of its own that is dropped
  --replica URL     a standby of --url; may be given more than once
  --help            this text

Without --url the demo starts a PostgreSQL primary and two streaming replicas
on this machine and removes them at the end.`

export interface Flags {
  readonly seconds: number
  readonly concurrency: number
  /** Undefined: a temporary cluster. */
  readonly url: string | undefined
  readonly replicas: readonly string[]
}

/** The flags, a wish for help, or the one thing that is wrong with them. */
export type Asked = { at: 'run'; flags: Flags } | { at: 'help' } | { at: 'wrong'; because: string }

export function readFlags(args: readonly string[]): Asked {
  let values
  try {
    values = parseArgs({
      args: [...args],
      options: {
        seconds: { type: 'string', default: '10' },
        concurrency: { type: 'string', default: '50' },
        url: { type: 'string' },
        replica: { type: 'string', multiple: true, default: [] },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values
  } catch (error) {
    // parseArgs explains at length how a dash could have been meant; its first sentence is the fault.
    return { at: 'wrong', because: (error as Error).message.split('. ')[0]! }
  }
  if (values.help) return { at: 'help' }
  const flags: Flags = {
    seconds: Number(values.seconds),
    concurrency: Number(values.concurrency),
    url: values.url,
    replicas: values.replica,
  }
  const because = faultOf(flags, values)
  return because === undefined ? { at: 'run', flags } : { at: 'wrong', because }
}

function faultOf(flags: Flags, given: { seconds: string; concurrency: string }): string | undefined {
  if (!(flags.seconds >= 1 && flags.seconds <= 3600)) {
    return `--seconds must be a number from 1 to 3600, not '${given.seconds}'`
  }
  if (!(Number.isInteger(flags.concurrency) && flags.concurrency >= 1 && flags.concurrency <= 10_000)) {
    return `--concurrency must be a whole number from 1 to 10000, not '${given.concurrency}'`
  }
  if (flags.url === undefined && flags.replicas.length > 0) return '--replica needs --url, the primary it follows'
  // The value is not shown: it may hold a password.
  if (flags.url !== undefined && !isPostgresUrl(flags.url)) return '--url must be a postgres:// URL'
  if (!flags.replicas.every(isPostgresUrl)) return '--replica must be a postgres:// URL'
  return undefined
}

function isPostgresUrl(text: string): boolean {
  return URL.canParse(text) && /^postgres(ql)?:$/.test(new URL(text).protocol)
}
