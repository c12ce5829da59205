// Opens one connection: pg resolves, connects, negotiates TLS and authenticates; we say which TLS, refuse what would
// give a password away, and add the deadline, the abort, the startup parameters, and errors that say which node,
// where, and what to do.

import { Client } from 'pg'
import type { ConnectionTarget, Lookup, SslOptions, TypeParsers } from '../config/options.ts'
import { isLoopback } from '../core/tls.ts'
import type { Clock, OpenSession, Session, Timer } from '../core/types.ts'
import { guardAuthentication, isEncrypted, peerOf } from './auth.ts'
import type { AuthenticationRules } from './auth.ts'
import { connectError } from './connect-error.ts'
import type { SessionOptions } from './connected.ts'
import { guardFraming } from './framing.ts'
import type { Guard } from './framing.ts'
import { socketsBy } from './lookup.ts'
import { PgSession } from './pg-session.ts'
import type { PgClient } from './pg-client.ts'
import { ReportedSettings } from './reported.ts'
import { NativeSession } from './session.ts'
import type { NativeSessionOptions } from './session.ts'
import { prepareTls, withoutTls } from './tls.ts'
import type { Prepared } from './tls.ts'

export interface OpenOptions extends SessionOptions {
  /** Asked at every connect, so that credentials and addresses may change. */
  readonly target: () => ConnectionTarget | Promise<ConnectionTarget>
  readonly ssl: SslOptions | undefined
  /** Answers servers that ask for the password in the clear, or as MD5 hash, without TLS. Default false. */
  readonly allowInsecureAuth?: boolean
  /** How host names are looked up, anew at each connect. Default `dns.lookup`. */
  readonly lookup?: Lookup | undefined
  readonly types: TypeParsers | undefined
  readonly applicationName: string
  /** Server settings that travel in the startup message and so survive RESET. */
  readonly settings: { readonly [setting: string]: string }
  /** Told where each connection really went, for labels. */
  readonly onAddress?: (host: string, port: number) => void
  /** Told at each connection that somebody on the way could read or answer, in words for people. */
  readonly onInsecure?: (message: string) => void
}

/** An OpenSession for one node, over pg's Client.query. */
export function sessionOpener(options: OpenOptions): OpenSession {
  return openerOf(options, ({ client, reported }) => new PgSession(client, options, reported))
}

/** An OpenSession for one node, over our own wire. */
export function nativeSessionOpener(options: OpenOptions & NativeSessionOptions): OpenSession {
  return openerOf(options, async ({ client, guard, reported }, waits) => {
    // Half a message in pg's parser would be lost to ours.
    while (!guard().betweenMessages) await waits.race(guard().nextBytes())
    return new NativeSession(client, guard(), options, reported)
  })
}

function openerOf(
  options: OpenOptions,
  takeOver: (connected: NewClient, waits: Deadline) => Session | Promise<Session>,
): OpenSession {
  return async ({ timeoutMs, signal }) => {
    const waits = new Deadline(options, timeoutMs, signal)
    let host = ''
    try {
      const target = await waits.race(Promise.resolve().then(options.target))
      const prepared = await waits.race(prepareTls(target, options.ssl, options.node))
      const connecting = newClient(prepared, options)
      const { client } = connecting
      waits.onGiveUp(() => client.connection.stream.destroy())
      // pg raises late socket errors on the client; without a listener they would end the process.
      client.on('error', () => undefined)
      guardAuthentication(client, rulesOf(options, prepared), (why) => waits.giveUp(why))
      host = client.host
      options.onAddress?.(host, client.port)
      await waits.race(client.connect())
      client.connection.stream.setKeepAlive?.(true, 10_000)
      warnOfInsecure(client, prepared, options)
      return await takeOver(connecting, waits)
    } catch (error) {
      const explained = connectError(error, { node: options.node, host, settings: options.settings })
      // pg only ends its half, and a server that does not end the other would keep the socket.
      waits.giveUp(explained)
      throw explained
    } finally {
      waits.end()
    }
  }
}

interface NewClient {
  readonly client: PgClient
  /** There from the moment pg has a stream that it reads. */
  readonly guard: () => Guard
  readonly reported: ReportedSettings
}

type StartingClient = PgClient & { getStartupConf(): Record<string, string> }

function newClient({ config, binding }: Prepared, options: OpenOptions): NewClient {
  if (options.types !== undefined) config.types = options.types as never
  config.application_name = options.applicationName
  if (options.lookup !== undefined) config.stream = socketsBy(options.lookup)
  let client = new Client(config) as unknown as StartingClient
  // As libpq: nobody listens in on a Unix socket, and PostgreSQL offers no TLS there.
  if (client.host.startsWith('/') && client.connectionParameters.ssl) {
    client = new Client(withoutTls(config)) as unknown as StartingClient
  }
  client.enableChannelBinding = Boolean(client.connectionParameters.ssl) && binding !== 'disable'
  const reported = new ReportedSettings()
  client.connection.on('parameterStatus', ({ parameterName, parameterValue }) => {
    reported.report(parameterName, parameterValue)
  })
  const attach = client.connection.attachListeners.bind(client.connection)
  let guard: Guard
  client.connection.attachListeners = (stream) => {
    attach(stream)
    guard = guardFraming(stream as never, options.node)
  }
  const startup = client.getStartupConf.bind(client)
  client.getStartupConf = () => ({ ...startup(), ...options.settings })
  return { client, guard: () => guard, reported }
}

function rulesOf({ node, allowInsecureAuth = false }: OpenOptions, { binding }: Prepared): AuthenticationRules {
  return { node, allowInsecureAuth, bindingRequired: binding === 'require' }
}

/** What a user may not know because nothing failed. Whoever has said that he wants it so is not told. */
function warnOfInsecure(client: PgClient, { tls }: Prepared, { node, onInsecure }: OpenOptions): void {
  const peer = peerOf(client)
  if (isLoopback(peer)) return
  if (tls === 'unchecked') {
    onInsecure?.(
      `The connection to node '${node}' (${peer}) is encrypted, but nobody checks who answers there: sslmode asks ` +
        'for no check. sslmode=verify-full does it; `sslrootcert`, or `ssl: { ca }`, names a CA of your own.',
    )
  }
  if (tls === 'unsaid' && !isEncrypted(client)) {
    onInsecure?.(
      `The connection to node '${node}' (${peer}) is not encrypted, because nothing is said about TLS. ` +
        '`ssl: true`, or sslmode=verify-full in the URL, encrypts it and checks the server; ' +
        '`ssl: false`, or sslmode=disable, says that it shall stay as it is.',
    )
  }
}

/** One deadline and one abort over the several waits of a connect. */
class Deadline {
  readonly #clock: Clock
  readonly #timer: Timer
  readonly #signal: AbortSignal | undefined
  readonly #expired: Promise<never>
  #whenGivenUp: (() => void) | null = null
  readonly #onAbort = (): void => this.giveUp(this.#signal?.reason as Error)
  #reject!: (error: unknown) => void

  constructor(options: OpenOptions, timeoutMs: number, signal: AbortSignal | undefined) {
    this.#clock = options.clock
    this.#signal = signal
    this.#expired = new Promise((_, reject) => (this.#reject = reject))
    this.#expired.catch(() => undefined)
    this.#timer = this.#clock.setTimeout(
      () => this.giveUp(Object.assign(new Error(`no connection within ${timeoutMs} ms`), { code: 'ETIMEDOUT' })),
      timeoutMs,
      'awaited',
    )
    if (signal?.aborted) this.#onAbort()
    else signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  race<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#expired])
  }

  onGiveUp(run: () => void): void {
    this.#whenGivenUp = run
  }

  end(): void {
    this.#clock.clearTimeout(this.#timer)
    this.#signal?.removeEventListener('abort', this.#onAbort)
  }

  /** Whoever waits is told why, and the socket is closed. */
  giveUp(why: unknown): void {
    this.#reject(why)
    this.#whenGivenUp?.()
  }
}
