// A process of its own for open.test.ts: connects to servers that speak nonsense, one after the other, asks each
// one thing, and writes a line of JSON on how it went. What would have ended the process is in `uncaught`.

import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { READ_FACTS } from '../../src/core/statements.ts'
import { systemClock } from '../../src/engine/clock.ts'
import { nativeSessionOpener, sessionOpener } from '../../src/wire/open.ts'

let uncaught: string[] = []
process.on('uncaughtException', (error) => uncaught.push(String(error)))
process.on('unhandledRejection', (error) => uncaught.push(String(error)))

// A parser that goes round in circles never lets this process hear anything again, but its other threads live.
new Worker("setTimeout(() => process.kill(process.pid, 'SIGKILL'), 10_000)", { eval: true }).unref()

const patienceMs = 100
const [wire, ...urls] = process.argv.slice(2)
const opener = wire === 'native' ? nativeSessionOpener : sessionOpener

async function visit(url: string): Promise<{ connected: boolean; settled: boolean }> {
  const open = opener({
    node: 'primary',
    clock: systemClock,
    target: () => url,
    ssl: undefined,
    types: undefined,
    applicationName: 'nonsense',
    settings: {},
    cacheSize: 10,
    onStatementsUnreliable: () => undefined,
    onStatementsOutdated: () => undefined,
    mayBePooled: () => false,
  })
  const session = await open({ timeoutMs: patienceMs }).catch(() => null)
  if (session === null) return { connected: false, settled: true }
  const answer = session.send({ sql: 'select 1', parameters: [], facts: READ_FACTS })
  // What the engine does with a statement that is overdue.
  const overdue = setTimeout(() => session.destroy(new Error('overdue')), patienceMs)
  await answer.catch(() => undefined)
  clearTimeout(overdue)
  // What the socket still has to say.
  await sleep(10)
  session.destroy(new Error('done'))
  return { connected: true, settled: session.unanswered === 0 && session.lost !== null }
}

for (const url of urls) {
  uncaught = []
  const seen = await visit(url)
  await sleep(10)
  console.log(JSON.stringify({ ...seen, uncaught }))
}
process.exit(0)
