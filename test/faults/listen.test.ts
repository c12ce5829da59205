// LISTEN while servers and networks fail. Notifications that were sent meanwhile are lost, and nobody can bring them
// back; so every one that did not arrive must lie in a gap that its listener was told of, and after it nothing is lost.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { Client } from 'pg'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { SmartPgDialect } from '../../src/index.ts'
import type { BackgroundErrorEvent, Gap, ListenOptions, SmartPgOptions } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { backends, borrowed, ownOnly } from './dialects.ts'

/** The time as gaps tell it. */
const now = (): number => performance.timeOrigin + performance.now()

interface Ear {
  readonly dialect: SmartPgDialect
  readonly heard: string[]
  readonly gaps: Gap[]
  readonly errors: BackgroundErrorEvent[]
}

async function listening(url: string, options: Partial<SmartPgOptions> = {}, more: ListenOptions = {}): Promise<Ear> {
  const dialect = new SmartPgDialect({ wire, primary: url, metrics: false, ...options })
  onTestFinished(() => dialect.destroy())
  const ear: Ear = { dialect, heard: [], gaps: [], errors: [] }
  dialect.on('error', (event) => ear.errors.push(event))
  await dialect.listen('orders', (payload) => ear.heard.push(payload), { onGap: (gap) => ear.gaps.push(gap), ...more })
  return ear
}

const notify = (url: string, payload: string): Promise<unknown> => ask(url, "select pg_notify('orders', $1)", [payload])

/** Settles when what is sent is heard again. */
async function hearsAgain({ heard }: Ear, url: string): Promise<void> {
  await expect
    .poll(async () => {
      await notify(url, 'are you there?')
      return heard.includes('are you there?')
    })
    .toBe(true)
}

describe('a listener whose backend is terminated again and again', () => {
  test('hears every notification once, in order, except for those within the gaps it is told of', async () => {
    const url = inject('primaryUrl')
    const applicationName = 'the ear'
    const ear = await listening(url, { applicationName })
    const sender = new Client({ connectionString: url })
    await sender.connect()
    onTestFinished(() => sender.end())
    const sent: { readonly n: number; readonly from: number; readonly to: number }[] = []
    const send = async (): Promise<void> => {
      const [n, from] = [sent.length, now()]
      await sender.query("select pg_notify('orders', $1)", [String(n)])
      sent.push({ n, from, to: now() })
    }
    for (let kills = 1; kills <= 5; kills++) {
      for (let i = 0; i < 50; i++) await send()
      const killed = ask(
        url,
        'select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1',
        [applicationName],
      )
      while (ear.gaps.length < kills) await send()
      await killed
    }
    for (let i = 0; i < 50; i++) await send()
    await expect.poll(() => ear.heard.at(-1)).toBe(String(sent.length - 1))
    const numbers = ear.heard.map(Number)
    expect(numbers).toEqual([...new Set(numbers)].toSorted((a, b) => a - b))
    const missed = sent.filter(({ n }) => !numbers.includes(n))
    const unexplained = missed.filter(({ from, to }) => !ear.gaps.some((gap) => gap.since <= to && from <= gap.until))
    console.log(`${sent.length} notifications, ${ear.gaps.length} kills: ${missed.length} missed, all of them in gaps`)
    expect(unexplained).toEqual([])
    expect(ear.gaps).toHaveLength(5)
  })
})

describe('a network that swallows everything', () => {
  test('is found out within keepalive and five seconds, and the listener hears on a new connection', async () => {
    const url = inject('primaryUrl')
    await using proxy = await startFaultProxy(url)
    const ear = await listening(proxy.url, { pool: { keepalive: 200 } })
    await notify(url, 'before')
    await expect.poll(() => ear.heard).toEqual(['before'])
    // This one alone: a new one goes through.
    proxy.connections[0]!.silence()
    const silentAt = now()
    await notify(url, 'into the void')
    const sentAt = now()
    await expect.poll(() => ear.gaps.length).toBe(1)
    await hearsAgain(ear, url)
    expect(ear.heard).not.toContain('into the void')
    const [gap] = ear.gaps
    expect(gap!.since).toBeLessThanOrEqual(sentAt)
    expect(gap!.until).toBeGreaterThanOrEqual(sentAt)
    expect(gap!.until - silentAt).toBeLessThan(8_000)
    await ear.dialect.destroy()
  })

  test('in the middle of listen() holds nobody up for longer than pool.acquireTimeout', async () => {
    await using proxy = await startFaultProxy(inject('primaryUrl'))
    proxy.silence()
    const options = { pool: { acquireTimeout: 300, connectTimeout: 200 } }
    const failed = listening(proxy.url, options).then(
      () => null,
      (error: unknown) => error,
    )
    expect(await failed).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', node: 'primary', retryable: true })
  })

  test('does not hold up destroy()', async () => {
    const url = inject('primaryUrl')
    const applicationName = 'the ear in silence'
    await using proxy = await startFaultProxy(url)
    const ear = await listening(proxy.url, { applicationName })
    proxy.silence()
    await ear.dialect.destroy()
    // The server learns now that its client has gone.
    await proxy.heal()
    await expect.poll(() => backends(url, applicationName)).toBe(0)
  })
})

describe.skipIf(borrowed)(`a server that fails ${ownOnly}`, () => {
  test.each(['stop', 'kill -9'] as const)('and comes back after %s is listened to again', async (how) => {
    await using cluster = await startCluster()
    const ear = await listening(cluster.url)
    await notify(cluster.url, 'before')
    await expect.poll(() => ear.heard).toEqual(['before'])
    const downAt = now()
    await (how === 'stop' ? cluster.primary.stop() : cluster.primary.kill9())
    await cluster.primary.start()
    await expect.poll(() => ear.gaps.length).toBe(1)
    expect(ear.gaps[0]!.since).toBeLessThanOrEqual(downAt)
    for (let n = 0; n < 20; n++) await notify(cluster.url, String(n))
    await expect.poll(() => ear.heard.slice(1)).toEqual(Array.from({ length: 20 }, (_, n) => String(n)))
    expect(ear.gaps).toHaveLength(1)
    expect(ear.errors.filter(({ during }) => during !== 'listen')).toEqual([])
    await ear.dialect.destroy()
  })

  test('is followed by its standby on the same address: nobody can listen before that is promoted, then all do', async () => {
    await using cluster = await startCluster({ replicas: 1 })
    await using proxy = await startFaultProxy(cluster.url)
    const applicationName = 'the ear'
    const ear = await listening(proxy.url, { applicationName })
    await notify(proxy.url, 'before')
    await expect.poll(() => ear.heard).toEqual(['before'])
    await cluster.primary.kill9()
    const [standby] = cluster.replicas
    proxy.retarget(standby!.url, { cut: true })
    await expect.poll(() => ear.errors.map(({ error }) => (error as { code?: string }).code)).toContain('25006')
    expect(ear.gaps).toEqual([])
    await standby!.promote()
    await expect.poll(() => ear.gaps.length).toBe(1)
    for (let n = 0; n < 20; n++) await notify(proxy.url, String(n))
    await expect.poll(() => ear.heard.slice(1)).toEqual(Array.from({ length: 20 }, (_, n) => String(n)))
    expect(await backends(standby!.url, applicationName)).toBe(1)
    await ear.dialect.destroy()
    await expect.poll(() => backends(standby!.url, applicationName)).toBe(0)
  })
})

describe('a process that listens', () => {
  async function script(body: string): Promise<string> {
    const head = `
      import { SmartPgDialect } from ${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)}
      import { wire } from ${JSON.stringify(new URL('../support/wire.ts', import.meta.url).href)}
      const [url] = process.argv.slice(-1)
      const dialect = new SmartPgDialect({ wire, primary: url, applicationName: 'awake' })
    `
    const flags = ['--input-type=module-typescript', '--disable-warning=ExperimentalWarning', '--eval', head + body]
    const { stdout } = await promisify(execFile)(process.execPath, [...flags, inject('primaryUrl')], {
      cwd: import.meta.dirname,
      timeout: 25_000,
    })
    return stdout.trim()
  }

  test('and has nothing else to do ends by itself', async () => {
    const body = `await dialect.listen('orders', () => {}); console.log('listening')`
    expect(await script(body)).toBe('listening')
  })

  test('goes on where it is asked to, even while the connection is away, and ends when it is disposed', async () => {
    const body = `
      const onGap = () => dialect.withClient((client) => client.query("select pg_notify('awake', '')"))
      const listening = await dialect.listen('awake', () => {
        console.log('heard')
        listening[Symbol.dispose]()
      }, { keepsProcessAlive: true, onGap })
      const client = new (await import('pg')).default.Client(url)
      await client.connect()
      await client.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'awake'")
      await client.end()`
    expect(await script(body)).toBe('heard')
  })
})
