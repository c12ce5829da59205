// What the tests of this room share: sessions opened by the real opener against the real server, a server that
// says whatever a test wants, and a road to the server that a test can watch, silence and break.

import { once } from 'node:events'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { Client } from 'pg'
import { inject, onTestFinished } from 'vitest'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { OpenSession, Rows, Session, Statement } from '../../src/core/types.ts'
import { systemClock } from '../../src/engine/clock.ts'
import { nativeSessionOpener, sessionOpener } from '../../src/wire/open.ts'
import type { OpenOptions } from '../../src/wire/open.ts'
import type { NativeSessionOptions } from '../../src/wire/session.ts'
import type { PgClient } from '../../src/wire/pg-client.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { freePort } from '../support/postgres/free-port.ts'
import { wire } from '../support/wire.ts'
import type { Wire } from '../support/wire.ts'

export { wire }

/** Tests that need a server to do things to start one of their own, which TEST_DATABASE_URL and TEST_PG forbid. */
export const borrowed = Boolean(process.env['TEST_DATABASE_URL'] ?? process.env['TEST_PG'])

type AllOptions = OpenOptions & NativeSessionOptions
export type Overrides = Partial<Omit<AllOptions, 'target'>>

export function opener(target: OpenOptions['target'], overrides: Overrides = {}, over: Wire = wire): OpenSession {
  const openerOver = over === 'native' ? nativeSessionOpener : sessionOpener
  return openerOver({
    node: 'primary',
    clock: systemClock,
    target,
    ssl: undefined,
    types: undefined,
    applicationName: 'kysely-smart-pg:wire',
    settings: {},
    cacheSize: 100,
    onStatementsUnreliable: () => undefined,
    onStatementsOutdated: () => undefined,
    mayBePooled: () => false,
    ...overrides,
  })
}

/** A session that is gone when the test is. */
export async function open(overrides: Overrides = {}, url = inject('primaryUrl'), over = wire): Promise<Session> {
  const session = await opener(() => url, overrides, over)({ timeoutMs: 10_000 })
  onTestFinished(() => session.destroy(new Error('the test is over')))
  return session
}

export function statement(sql: string, parameters: readonly unknown[] = [], name?: string): Statement {
  return { sql, parameters, facts: READ_FACTS, ...(name === undefined ? {} : { name }) }
}

export function run(session: Session, sql: string, parameters: readonly unknown[] = [], name?: string): Promise<Rows> {
  return session.send(statement(sql, parameters, name))
}

/** The first column of all rows. */
export async function column(session: Session, sql: string, parameters: readonly unknown[] = []): Promise<unknown[]> {
  const { rows } = await run(session, sql, parameters)
  return rows.map((row) => Object.values(row)[0])
}

/** What a promise was rejected with; a promise that is kept fails the test. */
export async function failure(work: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  const answer = await work.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  if ('value' in answer) throw new Error(`expected a rejection, got ${JSON.stringify(answer.value)}`)
  return answer.error as Error & Record<string, unknown>
}

/** The client that pg made, with the parts this room leans on. */
export function clientOf(session: Session): PgClient {
  return session.raw as PgClient
}

/** Every write to the socket from now on, as the types of its messages: `PBDES`. */
export function writesOf(session: Session): string[] {
  const writes: string[] = []
  const { stream } = clientOf(session).connection
  const write = stream.write.bind(stream)
  stream.write = (bytes) => {
    writes.push(typesOf(bytes))
    return write(bytes)
  }
  return writes
}

function typesOf(bytes: Buffer): string {
  let types = ''
  for (let at = 0; at < bytes.length; at += 1 + bytes.readInt32BE(at + 1)) types += String.fromCharCode(bytes[at]!)
  return types
}

/** A connection from outside, as superuser. */
export async function outside(url = inject('primaryUrl')): Promise<Client> {
  const client = new Client({ connectionString: url, application_name: 'outside' })
  client.on('error', () => undefined)
  await client.connect()
  onTestFinished(() => client.end())
  return client
}

/** Whether the server still has a backend of this id. */
export async function alive(client: Client, pid: number): Promise<boolean> {
  const { rowCount } = await client.query('select from pg_stat_activity where pid = $1', [pid])
  return rowCount === 1
}

/** Whether a backend runs a statement now. */
export async function busy(client: Client, pid: number): Promise<boolean> {
  const sql = "select from pg_stat_activity where pid = $1 and state = 'active'"
  return (await client.query(sql, [pid])).rowCount === 1
}

export interface Listener {
  readonly port: number
  readonly url: string
  readonly sockets: Socket[]
  close(): Promise<void>
}

/** A server that treats its connections as the test says; the test's process does not wait for it. */
export async function listener(onConnection: (socket: Socket, index: number) => void): Promise<Listener> {
  const sockets: Socket[] = []
  const server = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => undefined)
    // Somebody must read, else the end of the connection is never seen.
    socket.on('data', () => undefined)
    onConnection(socket, sockets.length - 1)
  })
  const port = await freePort()
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await new Promise((resolve) => server.close(resolve))
  }
  server.unref()
  return { port, url: `postgres://app@127.0.0.1:${port}/app`, sockets, close }
}

/** A way to a server that a test can watch, silence and break; gone when the test is. */
export async function road(toUrl: string): Promise<FaultProxy> {
  const proxy = await startFaultProxy(toUrl)
  onTestFinished(() => proxy.close())
  return proxy
}

/** One message of the server: type, length, content. */
export function message(type: string, ...parts: (string | number | Buffer)[]): Buffer {
  const content = Buffer.concat(parts.map(encoded))
  const head = Buffer.alloc(5)
  head.write(type, 'latin1')
  head.writeInt32BE(content.length + 4, 1)
  return Buffer.concat([head, content])
}

/** Numbers are 32 bits, text ends with a zero byte. */
function encoded(part: string | number | Buffer): Buffer {
  if (Buffer.isBuffer(part)) return part
  if (typeof part === 'string') return Buffer.from(`${part}\0`)
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(part)
  return bytes
}

/** What a server says until the first ReadyForQuery. */
export const welcome = Buffer.concat([message('R', 0), message('K', 4711, 815), message('Z', Buffer.from('I'))])

/** An ErrorResponse. */
export function refusal(code: string, text: string): Buffer {
  return message('E', Buffer.from('SFATAL\0'), Buffer.from(`C${code}\0`), Buffer.from(`M${text}\0`), Buffer.from('\0'))
}
