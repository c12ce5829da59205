// The proxy that fault tests stand on: every fault does to a plain client of PostgreSQL what it says, and without one
// nothing is changed. A proxy that did less would make those tests prove nothing.

import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { Client } from 'pg'
import { describe, expect, inject, onTestFinished, test } from 'vitest'
import { startFaultProxy } from './fault-proxy.ts'
import type { FaultProxy } from './fault-proxy.ts'
import { Delayed } from './fault-proxy/delayed.ts'
import type { LineQuality } from './fault-proxy/delayed.ts'
import { Messages } from './fault-proxy/messages.ts'
import { seededChance } from './chance.ts'
import { startCluster } from './postgres/cluster.ts'
import { createDatabase } from './postgres/database.ts'
import { freePort } from './postgres/free-port.ts'
import { ask } from './postgres/server.ts'

const server = (): string => inject('primaryUrl')

async function proxied(url = server()): Promise<FaultProxy> {
  const proxy = await startFaultProxy(url)
  onTestFinished(() => proxy.close())
  return proxy
}

async function connected(proxy: FaultProxy): Promise<Client> {
  const client = new Client({ connectionString: proxy.url })
  client.on('error', () => undefined)
  onTestFinished(async () => {
    // pg waits for an answer to its goodbye, which a silent server does not give.
    ;(client as unknown as { connection: { stream: Socket } }).connection.stream.destroy()
  })
  await client.connect()
  return client
}

/** `once` would reject when the client tells why. */
const endOf = (client: Client): Promise<void> => new Promise((resolve) => client.on('end', () => resolve()))

/** A socket that writes down what it gets. */
async function listening(proxy: FaultProxy): Promise<{ socket: Socket; got: () => Buffer; ended: Promise<string> }> {
  const socket = connect(proxy.port, '127.0.0.1')
  const chunks: Buffer[] = []
  let how = 'end'
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  socket.on('error', (error: NodeJS.ErrnoException) => (how = error.code ?? error.message))
  const ended = once(socket, 'close').then(
    () => how,
    () => how,
  )
  onTestFinished(() => void socket.destroy())
  await once(socket, 'connect')
  return { socket, got: () => Buffer.concat(chunks), ended }
}

const startup = (): Buffer => {
  const text = Buffer.from('user\0postgres\0database\0postgres\0\0')
  const head = Buffer.alloc(8)
  head.writeUInt32BE(text.length + 8, 0)
  head.writeUInt32BE(196_608, 4)
  return Buffer.concat([head, text])
}

const query = (text: string): Buffer => {
  const head = Buffer.from('Q\0\0\0\0')
  head.writeUInt32BE(text.length + 5, 1)
  return Buffer.concat([head, Buffer.from(`${text}\0`)])
}

/** A session by hand, past its opening: what is asked for and what comes back, byte by byte. */
async function greeted(proxy: FaultProxy): ReturnType<typeof listening> {
  const line = await listening(proxy)
  line.socket.write(startup())
  await expect.poll(() => types(line.got()).at(-1)).toBe('Z')
  const before = line.got().length
  return { ...line, got: () => line.got().subarray(before) }
}

/** Type letters of the messages that begin in these bytes. */
function types(bytes: Buffer): string[] {
  return [...new Messages().pieces(bytes)].filter(({ at }) => at === 0).map(({ type }) => type)
}

const tenRows = 'select n, repeat(chr(64 + n), 20) as text from generate_series(1, 10) as n'
const failure = (work: Promise<unknown>): Promise<NodeJS.ErrnoException> =>
  work.then(
    (value) => Promise.reject(new Error(`expected a rejection, got ${JSON.stringify(value)}`)),
    (error: unknown) => error as NodeJS.ErrnoException,
  )

async function elapsed(work: () => Promise<unknown>): Promise<number> {
  const since = performance.now()
  await work()
  return performance.now() - since
}

describe('a fault proxy without a fault', () => {
  test('changes no byte of what passes, and counts connections, bytes and round trips', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    const trips = proxy.connections[0]!.roundTrips
    const direct = await ask(server(), tenRows)
    expect((await client.query(tenRows)).rows).toEqual(direct)
    expect((await client.query('select $1::text as big', ['x'.repeat(3_000_000)])).rows[0].big).toHaveLength(3_000_000)
    expect(proxy.connections).toHaveLength(1)
    expect(proxy.open).toHaveLength(1)
    expect(proxy.connections[0]!.roundTrips - trips).toBe(2)
    expect(proxy.bytes.toServer).toBeGreaterThan(3_000_000)
    expect(proxy.bytes.toClient).toBeGreaterThan(3_000_000)
    await client.end()
    await expect.poll(() => proxy.open).toEqual([])
  })

  test('passes an end on, whichever side it comes from', async () => {
    const proxy = await proxied()
    const [client, other] = [await connected(proxy), await connected(proxy)]
    const { rows } = await client.query('select pg_backend_pid() as pid')
    const there = (): Promise<unknown[]> => ask(server(), 'select from pg_stat_activity where pid = $1', [rows[0].pid])
    await client.end()
    await expect.poll(there).toEqual([])
    const [mine] = (await other.query('select pg_backend_pid() as pid')).rows
    const ended = endOf(other)
    await ask(server(), 'select pg_terminate_backend($1)', [mine.pid])
    await ended
    await expect.poll(() => proxy.open).toEqual([])
  })

  test('passes a request for encryption and a cancel request, and shows what a client sent first', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    const line = await listening(proxy)
    const request = Buffer.alloc(8)
    request.writeUInt32BE(8, 0)
    request.writeUInt32BE(80_877_103, 4)
    line.socket.write(request)
    // A server with TLS says S, one without it N.
    await expect.poll(() => line.got().toString()).toMatch(/^[SN]$/)
    expect(proxy.connections[1]!.opening).toEqual(request)
    const sleeping = failure(client.query('select pg_sleep(60)'))
    const { processID, secretKey } = client as unknown as { processID: number; secretKey: number }
    const cancelling = await listening(proxy)
    const cancel = Buffer.alloc(16)
    for (const [i, word] of [16, 80_877_102, processID, secretKey].entries()) cancel.writeInt32BE(word, i * 4)
    const running = 'select from pg_stat_activity where pid = $1 and wait_event = $2'
    await expect.poll(() => ask(server(), running, [processID, 'PgSleep'])).toHaveLength(1)
    cancelling.socket.write(cancel)
    expect((await sleeping).code).toBe('57014')
  })

  test('lets a server that is not there look like one', async () => {
    const proxy = await proxied(`postgres://postgres@127.0.0.1:${await freePort()}/postgres`)
    await expect(connected(proxy)).rejects.toThrow(/ECONNRESET|terminated/)
  })

  test('leaves nothing behind when it is closed: no listener, no connection, no backend', async () => {
    let url = ''
    let pid = 0
    let ended: Promise<void>
    {
      await using proxy = await startFaultProxy(server())
      url = proxy.url
      const client = await connected(proxy)
      pid = (await client.query('select pg_backend_pid() as pid')).rows[0].pid
      ended = endOf(client)
      proxy.silence()
    }
    await ended
    expect((await failure(ask(url, 'select'))).code).toBe('ECONNREFUSED')
    await expect.poll(() => ask(server(), 'select from pg_stat_activity where pid = $1', [pid])).toEqual([])
  })
})

describe('slow lines', () => {
  test('latency lengthens a round trip by as much as was asked for, on open connections, until healed', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    proxy.latency(40)
    expect(await elapsed(() => client.query('select 1'))).toBeGreaterThanOrEqual(40)
    proxy.latency(60, { direction: 'toServer' })
    proxy.latency(0, { direction: 'toClient' })
    expect(await elapsed(() => client.query('select 1'))).toBeGreaterThanOrEqual(60)
    // It would take a minute; what is under way arrives when the line is healed.
    proxy.latency(120_000)
    const trips = proxy.connections[0]!.roundTrips
    const answered = client.query('select 1 as n')
    await expect.poll(() => proxy.connections[0]!.roundTrips).toBeGreaterThan(trips)
    await proxy.heal()
    expect((await answered).rows).toEqual([{ n: 1 }])
    expect((await client.query('select 2 as n')).rows).toEqual([{ n: 2 }])
  })

  test('jitter keeps the order, and with the same seed is the same', async () => {
    const run = async (seed: number): Promise<{ order: string; delays: number[] }> => {
      let order = ''
      const delays: number[] = []
      const drawn = seededChance(seed)
      const chance = (): number => {
        delays.push(drawn())
        return delays.at(-1)!
      }
      const quality: LineQuality = { latencyMs: 1, jitterMs: 10, chance, bytesPerSecond: 0 }
      const line = new Delayed(quality, (bytes) => (order += bytes.toString()))
      for (const letter of 'abcdefghij') line.send(Buffer.from(letter))
      expect(order).toBe('')
      await new Promise<void>((resolve) => line.whenArrived(resolve))
      return { order, delays }
    }
    const [first, again, other] = [await run(7), await run(7), await run(8)]
    expect([first.order, again.order, other.order]).toEqual(Array.from({ length: 3 }, () => 'abcdefghij'))
    expect(again.delays).toEqual(first.delays)
    expect(other.delays).not.toEqual(first.delays)
  })

  test('jitter changes no answer', async () => {
    const proxy = await proxied()
    proxy.latency(0, { jitter: 6, seed: 3 })
    const client = await connected(proxy)
    for (let n = 0; n < 20; n++) {
      expect((await client.query('select $1::int as n', [n])).rows).toEqual([{ n }])
    }
  })

  test('bandwidth limits how fast an answer comes, each way of its own', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    proxy.bandwidth(200_000, 'toClient')
    expect(await elapsed(() => client.query("select repeat('x', 60000)"))).toBeGreaterThanOrEqual(300)
    await proxy.heal()
    proxy.bandwidth(200_000, 'toServer')
    expect(await elapsed(() => client.query('select length($1)', ['x'.repeat(40_000)]))).toBeGreaterThanOrEqual(200)
  })

  test('a slow line makes its sender wait instead of piling up what it sends', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    proxy.bandwidth(1_000_000, 'toClient')
    const rows = client.query("select repeat('x', 1000000) from generate_series(1, 40)")
    rows.catch(() => undefined)
    await expect.poll(() => proxy.bytes.toClient).toBeGreaterThan(1_500_000)
    // 40 MB are ready to be sent; not much more than what has arrived and a megabyte was taken.
    expect(proxy.bytes.toClient).toBeLessThan(10_000_000)
    proxy.reset()
    await expect(rows).rejects.toThrow(/ECONNRESET|terminated/)
  })

  test('a slow accept delays the first answer and loses nothing', async () => {
    const proxy = await proxied()
    await proxy.accept({ afterMs: 150 })
    const ms = await elapsed(async () => {
      const client = await connected(proxy)
      expect((await client.query('select 1 as n')).rows).toEqual([{ n: 1 }])
    })
    expect(ms).toBeGreaterThanOrEqual(149)
    await proxy.accept()
    expect(proxy.open).toHaveLength(1)
  })
})

describe('silence', () => {
  test.each(['toServer', 'toClient', undefined] as const)(
    'swallows what is sent (%s), the connection stays open, and stays silent when others are healed',
    async (direction) => {
      const proxy = await proxied()
      const client = await connected(proxy)
      const { rows } = await client.query('select pg_backend_pid() as pid')
      let answered = false
      const trips = proxy.connections[0]!.roundTrips
      proxy.silence(direction)
      const asked = client.query("select 'asked'").then(
        () => (answered = true),
        () => undefined,
      )
      const seen = async (): Promise<unknown> =>
        (await ask<{ query: string }>(server(), 'select query from pg_stat_activity where pid = $1', [rows[0].pid]))[0]!
          .query
      if (direction === 'toClient') await expect.poll(seen).toBe("select 'asked'")
      else await expect.poll(() => proxy.connections[0]!.roundTrips).toBeGreaterThan(trips)
      await proxy.heal()
      // Another connection's whole life is longer than an answer would have taken.
      const fresh = await connected(proxy)
      expect((await fresh.query('select 1 as n')).rows).toEqual([{ n: 1 }])
      expect(answered).toBe(false)
      expect(proxy.connections[0]!.open).toBe(true)
      if (direction !== 'toClient') expect(await seen()).toBe('select pg_backend_pid() as pid')
      proxy.reset()
      await asked
    },
  )

  test('of a connection that sent nothing meanwhile leaves no trace', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    proxy.silence()
    await proxy.heal()
    expect((await client.query('select 1 as n')).rows).toEqual([{ n: 1 }])
  })

  test('takes new connections without a word', async () => {
    const proxy = await proxied()
    proxy.silence()
    const line = await listening(proxy)
    line.socket.write(startup())
    await expect.poll(() => proxy.bytes.toServer).toBeGreaterThan(0)
    expect(line.got()).toHaveLength(0)
    expect(proxy.open).toHaveLength(1)
  })

  test('of one connection leaves the others alone', async () => {
    const proxy = await proxied()
    const [silent, other] = [await connected(proxy), await connected(proxy)]
    proxy.connections[0]!.silence()
    const asked = silent.query('select 1')
    asked.catch(() => undefined)
    expect((await other.query('select 1 as n')).rows).toEqual([{ n: 1 }])
    proxy.connections[0]!.reset()
    await expect(asked).rejects.toThrow(/ECONNRESET|terminated/)
    expect((await other.query('select 1 as n')).rows).toEqual([{ n: 1 }])
  })

  test('swallows ends, too: the client does not hear that its backend is gone', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    const { rows } = await client.query('select pg_backend_pid() as pid')
    let ended = false
    client.on('end', () => (ended = true))
    proxy.silence()
    await ask(server(), 'select pg_terminate_backend($1)', [rows[0].pid])
    await expect.poll(() => ask(server(), 'select from pg_stat_activity where pid = $1', [rows[0].pid])).toEqual([])
    await proxy.heal()
    expect((await (await connected(proxy)).query('select 1 as n')).rows).toEqual([{ n: 1 }])
    expect(ended).toBe(false)
  })
})

describe('closed doors', () => {
  test('refuse refuses new connections and keeps open ones, until accept or heal', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    proxy.refuse()
    expect((await failure(connected(proxy))).code).toBe('ECONNREFUSED')
    expect((await client.query('select 1 as n')).rows).toEqual([{ n: 1 }])
    await proxy.accept()
    await connected(proxy)
    proxy.refuse()
    await proxy.heal()
    await connected(proxy)
  })

  test('reset ends every open connection with a RST, and new ones are welcome', async () => {
    const proxy = await proxied()
    const lines = [await greeted(proxy), await greeted(proxy)]
    proxy.reset()
    expect(await Promise.all(lines.map(({ ended }) => ended))).toEqual(['ECONNRESET', 'ECONNRESET'])
    expect(proxy.open).toEqual([])
    await connected(proxy)
  })

  test('retarget sends new connections to another server, and cuts old ones when told to', async () => {
    const [database, other] = [await createDatabase({ url: server() }), await startCluster()]
    onTestFinished(() => database.drop())
    onTestFinished(() => other.close())
    const proxy = await proxied()
    const port = async (client: Client): Promise<number> =>
      Number((await client.query("select current_setting('port') as port")).rows[0].port)
    const old = await connected(proxy)
    const before = await port(old)
    proxy.retarget(other.url)
    expect(await port(await connected(proxy))).toBe(other.primary.port)
    expect(await port(old)).toBe(before)
    const ended = endOf(old)
    proxy.retarget(server(), { cut: true })
    await ended
    expect(await port(await connected(proxy))).toBe(before)
  })
})

describe('faults of one message', () => {
  test('resetInside delivers the bytes before it and no other', async () => {
    const proxy = await proxied()
    const line = await greeted(proxy)
    const armed = proxy.resetInside({ type: 'D', message: 3, afterBytes: 9 })
    line.socket.write(query(tenRows))
    expect(await line.ended).toBe('ECONNRESET')
    const direct = await greeted(await proxied())
    direct.socket.write(query(tenRows))
    await expect.poll(() => types(direct.got()).at(-1)).toBe('Z')
    const pieces = [...new Messages().pieces(direct.got())]
    const third = pieces.filter(({ type }) => type === 'D')[2]!
    const offset = pieces.slice(0, pieces.indexOf(third)).reduce((sum, { size }) => sum + size, 0)
    expect(line.got()).toEqual(direct.got().subarray(0, offset + 9))
    expect(armed.happened).toBe(true)
  })

  test('resetInside counts every message when no type is named, and can end after none of its bytes', async () => {
    const proxy = await proxied()
    const line = await greeted(proxy)
    proxy.resetInside({ message: 2, afterBytes: 0 })
    line.socket.write(query(tenRows))
    await line.ended
    expect(types(line.got())).toEqual(['T'])
  })

  test.each([
    ['type', (whole: Buffer, bytes: Buffer) => bytes[0] === 0x7f && bytes.subarray(1).equals(whole.subarray(1))],
    [
      'length',
      (whole: Buffer, bytes: Buffer) => bytes.readUInt32BE(1) === 0x7fff_ffff && bytes.length === whole.length,
    ],
    ['truncate', (whole: Buffer, bytes: Buffer) => bytes.readUInt32BE(1) < whole.readUInt32BE(1)],
    [
      'gap',
      (whole: Buffer, bytes: Buffer) => bytes.readUInt32BE(1) === whole.readUInt32BE(1) && bytes.length < whole.length,
    ],
  ] as const)('corrupt damages one message (%s), and the connection stays open', async (kind, holds) => {
    const proxy = await proxied()
    const line = await greeted(proxy)
    line.socket.write(query('select 1'))
    await expect.poll(() => types(line.got())).toEqual(['T', 'D', 'C', 'Z'])
    const whole = line.got()
    const armed = proxy.corrupt({ kind, type: 'T' })
    line.socket.write(query('select 1'))
    const ready = 'Z\0\0\0\u0005I'
    await expect.poll(() => line.got().subarray(whole.length).toString('latin1').endsWith(ready)).toBe(true)
    expect(holds(whole, line.got().subarray(whole.length))).toBe(true)
    expect(armed.happened).toBe(true)
    const before = line.got().length
    line.socket.write(query('select 1'))
    await expect.poll(() => line.got().subarray(before).equals(whole)).toBe(true)
  })

  test('corrupt writes the byte or length it is given', async () => {
    const proxy = await proxied()
    const line = await greeted(proxy)
    proxy.corrupt({ kind: 'type', type: 'D', as: 'd'.charCodeAt(0) })
    line.socket.write(query('select 1'))
    await expect.poll(() => types(line.got())).toEqual(['T', 'd', 'C', 'Z'])
  })

  test('a fault for answers to one statement spares all others, by any way of sending', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    const armed = proxy.resetInside({ to: /marked/, type: 'D', afterBytes: 6 })
    for (const text of ['select 1 as n', 'select $1::int as n']) {
      expect((await client.query(text, text.includes('$1') ? [1] : [])).rows).toEqual([{ n: 1 }])
    }
    const named = { name: 'by-name', text: 'select $1::int as marked' }
    expect(armed.happened).toBe(false)
    await expect(client.query({ ...named, values: [1] })).rejects.toThrow(/ECONNRESET|terminated/)
    expect(armed.happened).toBe(true)
    const another = await connected(proxy)
    await another.query({ ...named, values: [1] })
    // Only its name is sent now.
    proxy.resetInside({ to: /marked/, afterBytes: 0 })
    await expect(another.query({ ...named, values: [1] })).rejects.toThrow(/ECONNRESET|terminated/)
  })

  test('loseReply loses one answer after the server has done what was asked', async () => {
    const database = await createDatabase({ url: server() })
    onTestFinished(() => database.drop())
    const proxy = await proxied(database.url)
    await ask(database.url, 'create table written (n int)')
    const client = await connected(proxy)
    const armed = proxy.loseReply({ to: /^commit/i })
    await client.query('begin')
    await client.query('insert into written values ($1)', [1])
    expect(armed.happened).toBe(false)
    await expect(client.query('commit')).rejects.toThrow(/ECONNRESET|terminated/)
    expect(armed.happened).toBe(true)
    // It had committed before the client was told anything.
    expect(await ask(database.url, 'select n from written')).toEqual([{ n: 1 }])
    const next = await connected(proxy)
    await next.query('begin')
    await next.query('commit')
  })

  test('loseReply lets answers pass that come before it on the same connection', async () => {
    const proxy = await proxied()
    const line = await greeted(proxy)
    proxy.loseReply({ to: /lost/ })
    line.socket.write(Buffer.concat([query('select 1'), query("select 'lost'"), query('select 2')]))
    await line.ended
    expect(types(line.got())).toEqual(['T', 'D', 'C', 'Z'])
  })

  test('a fault that has not happened is gone when the proxy is healed', async () => {
    const proxy = await proxied()
    const client = await connected(proxy)
    const armed = proxy.loseReply({ to: /select/ })
    await proxy.heal()
    expect((await client.query('select 1 as n')).rows).toEqual([{ n: 1 }])
    expect(armed.happened).toBe(false)
  })

  test('messages are found however their bytes are cut', () => {
    const bytes = Buffer.concat([query('select 1'), query(''), query('select 22')])
    for (let size = 1; size <= bytes.length; size++) {
      const messages = new Messages()
      const pieces = []
      for (let at = 0; at < bytes.length; at += size) pieces.push(...messages.pieces(bytes.subarray(at, at + size)))
      expect(Buffer.concat(pieces.map((piece) => piece.bytes))).toEqual(bytes)
      expect(pieces.filter(({ at }) => at === 0).map((piece) => piece.size)).toEqual([14, 6, 15])
    }
  })
})
