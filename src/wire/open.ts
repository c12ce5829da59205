// Opens one connection: pg resolves, connects, negotiates TLS and authenticates; we add the deadline, the
// abort, the startup parameters, and errors that say which node, where, and what to do.

import { Client } from 'pg'
import type { ClientConfig } from 'pg'
import type { ConnectionTarget, SslOptions, TypeParsers } from '../config/options.ts'
import { ConfigError, SmartPgError, isSmartPgError } from '../core/errors.ts'
import type { Clock, OpenSession, Session, Timer } from '../core/types.ts'
import type { SessionOptions } from './connected.ts'
import { guardFraming } from './framing.ts'
import type { Guard } from './framing.ts'
import { PgSession } from './pg-session.ts'
import type { PgClient } from './pg-client.ts'
import { NativeSession } from './session.ts'
import type { NativeSessionOptions } from './session.ts'

export interface OpenOptions extends SessionOptions {
  /** Asked at every connect, so that credentials and addresses may change. */
  readonly target: () => ConnectionTarget | Promise<ConnectionTarget>
  readonly ssl: SslOptions | undefined
  readonly types: TypeParsers | undefined
  readonly applicationName: string
  /** Server settings that travel in the startup message and so survive RESET. */
  readonly settings: { readonly [setting: string]: string }
  /** Told where each connection really went, for labels. */
  readonly onAddress?: (host: string, port: number) => void
}

/** An OpenSession for one node, over pg's Client.query. */
export function sessionOpener(options: OpenOptions): OpenSession {
  return openerOf(options, ({ client }) => new PgSession(client, options))
}

/** An OpenSession for one node, over our own wire. */
export function nativeSessionOpener(options: OpenOptions & NativeSessionOptions): OpenSession {
  return openerOf(options, async ({ client, guard }, waits) => {
    // Half a message in pg's parser would be lost to ours.
    while (!guard().betweenMessages) await waits.race(guard().nextBytes())
    return new NativeSession(client, guard(), options)
  })
}

function openerOf(
  options: OpenOptions,
  takeOver: (connected: NewClient, waits: Deadline) => Session | Promise<Session>,
): OpenSession {
  return async ({ timeoutMs, signal }) => {
    const waits = new Deadline(options, timeoutMs, signal)
    try {
      const connecting = newClient(await waits.race(Promise.resolve().then(options.target)), options)
      const { client } = connecting
      waits.onGiveUp(() => client.connection.stream.destroy())
      // pg raises late socket errors on the client; without a listener they would end the process.
      client.on('error', () => undefined)
      options.onAddress?.(client.host, client.port)
      await waits.race(client.connect())
      client.connection.stream.setKeepAlive?.(true, 10_000)
      return await takeOver(connecting, waits)
    } catch (error) {
      throw connectError(error, options)
    } finally {
      waits.end()
    }
  }
}

interface NewClient {
  readonly client: PgClient
  /** There from the moment pg has a stream that it reads. */
  readonly guard: () => Guard
}

function newClient(target: ConnectionTarget, options: OpenOptions): NewClient {
  const config: ClientConfig = typeof target === 'string' ? { connectionString: target } : { ...(target as object) }
  if (options.ssl !== undefined) config.ssl ??= options.ssl as boolean
  if (options.types !== undefined) config.types = options.types as never
  config.application_name = options.applicationName
  const client = new Client(config) as unknown as PgClient & { getStartupConf(): Record<string, string> }
  const attach = client.connection.attachListeners.bind(client.connection)
  let guard: Guard
  client.connection.attachListeners = (stream) => {
    attach(stream)
    guard = guardFraming(stream as never, options.node)
  }
  const startup = client.getStartupConf.bind(client)
  client.getStartupConf = () => ({ ...startup(), ...options.settings })
  return { client, guard: () => guard }
}

/** One deadline and one abort over the several waits of a connect. */
class Deadline {
  readonly #clock: Clock
  readonly #timer: Timer
  readonly #signal: AbortSignal | undefined
  readonly #expired: Promise<never>
  #giveUp: (() => void) | null = null
  readonly #onAbort = (): void => this.#fail(this.#signal?.reason as Error)
  #reject!: (error: unknown) => void

  constructor(options: OpenOptions, timeoutMs: number, signal: AbortSignal | undefined) {
    this.#clock = options.clock
    this.#signal = signal
    this.#expired = new Promise((_, reject) => (this.#reject = reject))
    this.#expired.catch(() => undefined)
    this.#timer = this.#clock.setTimeout(
      () => this.#fail(Object.assign(new Error(`no connection within ${timeoutMs} ms`), { code: 'ETIMEDOUT' })),
      timeoutMs,
    )
    if (signal?.aborted) this.#onAbort()
    else signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  race<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#expired])
  }

  onGiveUp(run: () => void): void {
    this.#giveUp = run
  }

  end(): void {
    this.#clock.clearTimeout(this.#timer)
    this.#signal?.removeEventListener('abort', this.#onAbort)
  }

  #fail(error: unknown): void {
    this.#reject(error)
    this.#giveUp?.()
  }
}

function connectError(error: unknown, options: OpenOptions): unknown {
  if (isSmartPgError(error)) return error
  const message = messageOf(error)
  const refused = /unsupported startup parameter(?: in options)?:? "?([\w.]+)/i.exec(message)?.[1]
  const setting = Object.keys(options.settings).find((name) => name.toLowerCase() === refused?.toLowerCase())
  if (setting !== undefined) {
    return new ConfigError(
      [
        {
          path: `session.settings.${setting}`,
          received: 'a setting that the pooler in between refuses at startup',
          expected: 'settings that it lets through; the others by ALTER ROLE … SET or ALTER DATABASE … SET',
        },
      ],
      { node: options.node, cause: error },
    )
  }
  const code = codeOf(error)
  return new SmartPgError(
    'SMARTPG_CONNECT_FAILED',
    `Cannot connect to node '${options.node}': ${message}${code === undefined ? '' : ` (${code})`}`,
    { node: options.node, phase: 'connect', retryable: true, hint: hintFor(code, message), cause: error },
  )
}

function hintFor(code: string | undefined, message: string): string | undefined {
  if (code !== undefined && code in HINTS) return HINTS[code]
  if (message.includes('unsupported startup parameter')) {
    return 'A pooler in between refuses it: leave it out, and use ALTER ROLE … SET or ALTER DATABASE … SET.'
  }
  if (message.includes('does not support SSL')) return 'The server speaks no TLS: set `ssl: false` or mend the server.'
  return undefined
}

const HINTS: Record<string, string> = {
  ECONNREFUSED: 'Nothing listens there: check host and port, and that the server runs.',
  ENOTFOUND: 'The host name does not resolve: check it, and the DNS.',
  EAI_AGAIN: 'The host name could not be looked up for now: check the DNS.',
  ETIMEDOUT: 'No answer in time: check the network and firewalls, or raise `pool.connectTimeout`.',
  '28P01': 'Wrong user or password.',
  '28000': 'The server refuses this user from this address: see pg_hba.conf.',
  '3D000': 'The database does not exist on that server.',
  '53300': 'The server has no free connection slots: lower `pool.max`.',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'The CA is not known here: give it by `ssl: { ca }`.',
  ERR_TLS_CERT_ALTNAME_INVALID: 'The certificate is for another host: connect by the name it was made for.',
  SELF_SIGNED_CERT_IN_CHAIN: 'The CA is not known here: give it by `ssl: { ca }`.',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'The certificate is self-signed: give it as CA by `ssl: { ca }`.',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'The CA is not known here: give it by `ssl: { ca }` (Amazon RDS: its bundle).',
}

function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map((one) => messageOf(one)).join('; ')
  }
  return error instanceof Error ? error.message : String(error)
}

function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined
  return typeof error.code === 'string' ? error.code : undefined
}
