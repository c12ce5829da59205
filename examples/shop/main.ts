// What `npm start` shows: a web shop on a PostgreSQL primary and two replicas, under the same load through
// kysely-smart-pg and through Kysely's own PostgresDialect in turns, and a table of what became of it.
//
// Read on in operations.ts (the shop, plain Kysely) and clients.ts (the few lines that differ).

import { connectionsPerServer, openClient, type ClientName } from './clients.ts'
import { nothing, plus, Tally, type Counts } from './counts.ts'
import { readFlags, usage, type Flags } from './flags.ts'
import { Progress } from './progress.ts'
import { messageOf, report, type Outcome } from './report.ts'
import { nothingMeasured, workOneRound, type Measured } from './round.ts'
import { size } from './schema.ts'
import { findServers, openShop, type Servers, type Undo } from './servers.ts'

const rounds = 4
const warmUpMs = 700
const progress = new Progress(process.stdout)
const undo: Undo = []

const interrupted = new AbortController()
for (const [name, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  // A second Ctrl-C changes nothing: npm passes the first one on, so that it arrives twice anyway.
  process.on(name, () => interrupted.abort(code))
}
// Nobody reads any more (`npm start | head`).
process.stdout.on('error', () => interrupted.abort(1))
// A bug must not leave a schema in somebody's database.
process.on('uncaughtException', (error) => {
  console.error(error)
  interrupted.abort(1)
})

process.exit(await main(process.argv.slice(2)))

async function main(args: readonly string[]): Promise<number> {
  const asked = readFlags(args)
  if (asked.at === 'help') {
    console.log(usage)
    return 0
  }
  if (asked.at === 'wrong') {
    console.error(`${asked.because}\n\n${usage}`)
    return 2
  }
  let code: number
  try {
    code = await orInterrupted(demo(asked.flags))
  } catch (error) {
    code = told(error)
  }
  return Math.max(code, await clear())
}

async function demo(flags: Flags): Promise<number> {
  console.log('kysely-smart-pg and PostgresDialect: the same shop, servers and callers, in turns')
  progress.step(flags.url === undefined ? 'Starting a primary and two replicas' : 'Looking at your servers')
  const servers = await findServers(flags, undo)
  progress.done()
  console.log(servers.description)
  console.log(
    `${flags.concurrency} callers, up to ${connectionsPerServer} connections to a server, ${rounds} rounds each`,
  )
  progress.step(`Filling the shop: ${size.orders.toLocaleString('en-US')} orders`)
  await openShop(servers, undo, interrupted.signal)
  const [smart, stock] = await allRounds(flags, servers)
  progress.done()
  console.log(`\n${report(smart, stock)}`)
  const failed = [smart, stock].some(({ measured }) => measured.errors + measured.ownOrdersNotSeen > 0)
  return failed ? 1 : 0
}

async function allRounds(flags: Flags, servers: Servers): Promise<readonly [smart: Outcome, stock: Outcome]> {
  const urls = [servers.primary, ...servers.replicas]
  const begin = (name: ClientName) => ({ name, measured: nothingMeasured(), counts: urls.map(() => nothing) })
  const [smart, stock] = [begin('kysely-smart-pg'), begin('PostgresDialect')] as const
  for (let round = 1; round <= rounds; round++) {
    // a b, b a, a b …: what changes with time (caches, temperature, table size) meets both alike.
    for (const outcome of round % 2 === 1 ? [smart, stock] : [stock, smart]) {
      progress.step(`Round ${round} of ${rounds}: ${outcome.name}`)
      const counted = await oneRound(flags, servers, outcome.name, round, outcome.measured)
      outcome.counts = outcome.counts.map((counts, i) => plus(counts, counted[i]!))
    }
  }
  return [smart, stock]
}

async function oneRound(
  flags: Flags,
  { primary, replicas, schema }: Servers,
  name: ClientName,
  round: number,
  measured: Measured,
): Promise<readonly Counts[]> {
  const applicationName = `${schema} ${name}`
  const tallies = [primary, ...replicas].map((url) => new Tally(url, schema))
  await Promise.all(tallies.map((tally) => tally.begin()))
  const client = openClient(name, { primary, replicas, applicationName })
  const before = measured.operations
  const watch = setInterval(() => {
    const done = measured.operations - before
    progress.detail(done === 0 ? 'warming up' : `${done} operations`)
  }, 200)
  try {
    const plan = {
      callers: flags.concurrency,
      round,
      warmUpMs,
      measuredMs: (1000 * flags.seconds) / rounds,
      signal: interrupted.signal,
    }
    await workOneRound(client, plan, measured)
  } finally {
    clearInterval(watch)
    await client.close()
  }
  interrupted.signal.throwIfAborted()
  return Promise.all(tallies.map((tally) => tally.end(applicationName)))
}

// On an interruption callers stop after the answer they wait for, and all connections are closed as usual. What
// takes longer than that is not waited for: the rest is cleared away under its feet.
async function orInterrupted<T>(work: Promise<T>): Promise<T> {
  const { signal } = interrupted
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => setTimeout(() => reject(signal.reason), 500))
    work.then(resolve, reject)
  })
}

/** The exit code, after one line for the reader. */
function told(error: unknown): number {
  progress.done()
  const { aborted, reason } = interrupted.signal
  if (aborted) {
    console.error('Interrupted; clearing up.')
    return reason as number
  }
  console.error(messageOf(error))
  return 1
}

// Last come, first gone. Nothing here may wait for ever: the process is about to end.
async function clear(): Promise<number> {
  const deadline = AbortSignal.timeout(15_000)
  const late = new Promise<never>((_, reject) =>
    deadline.addEventListener('abort', () => reject(new Error('not within 15 s'))),
  )
  let code = 0
  for (const step of undo.toReversed()) {
    try {
      await Promise.race([step(), late])
    } catch (error) {
      console.error(`Could not clear up: ${messageOf(error)}`)
      code = 1
    }
  }
  return code
}
