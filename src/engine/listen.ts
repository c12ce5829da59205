// What a dialect hears by LISTEN: one connection to the primary for all channels, opened for the first listener and
// closed after the last. It is none of the pool's, because a reset would end every LISTEN. When it is lost it comes
// back by itself, and since nobody keeps notifications for those who are away, every listener is told of the gap.

import type { NodePoolConfig } from '../config/options.ts'
import { channelFault, listenSql, unlistenSql } from '../core/channel.ts'
import { ConfigError, SmartPgError } from '../core/errors.ts'
import type { Fault } from '../core/fault.ts'
import { connectBackoff } from '../core/pool-plan.ts'
import { READ_FACTS, WHO_ANSWERS } from '../core/statements.ts'
import type { Chance, Clock, OpenSession, Rows, Session, Statement, Timer } from '../core/types.ts'
import { Channel } from './channel.ts'
import type { ChannelListener, ChannelReports, ListenOptions, NotificationListener } from './channel.ts'
import { within } from './clock.ts'
import type { Listeners } from './listeners.ts'

/** A listener that is heard. Disposing it ends that at once; `await using` waits until the server knows. */
export interface Listening extends Disposable, AsyncDisposable {
  readonly channel: string
}

export interface ListenPorts {
  readonly clock: Clock
  readonly chance: Chance
  readonly listeners: Listeners
  readonly faultOf: (error: unknown, during: 'connect' | 'query') => Fault
}

/** LISTEN, UNLISTEN and pings are one round trip; a server that takes longer is as good as gone. */
const ANSWER_MS = 5_000
/** After the goodbye the server closes the socket at once or not at all. */
const CLOSE_GRACE_MS = 2_000
/** A listener that is asked for nothing may take its time. */
const LONGEST_REST_MS = 1_000
/** A connection that is lost sooner was no success: the next pause is longer. */
const STEADY_MS = 5_000

/** Does it live, and does it still listen? */
const CHANNELS_HEARD = 'select count(*)::text as n from pg_listening_channels()'

export class Notifications {
  readonly #nodeNow: () => string
  readonly #open: OpenSession
  readonly #config: NodePoolConfig
  readonly #ports: ListenPorts
  readonly #channels = new Map<string, Channel>()
  /** Since it was authenticated and until it is lost or left. */
  #session: Session | null = null
  /** When its server was last known to serve it. */
  #heardAt = 0
  /** When the last question was asked that has been answered: whatever was notified before has been heard. */
  #surelyHeardAt = 0
  /** From the first listener until the last connection is gone. */
  #keeper: Promise<void> | null = null
  #connecting = new AbortController()
  /** The pause between two connections. */
  #resting: { readonly end: () => void } | null = null
  #lookTimer: Timer = null
  #failures = 0
  #lastError: unknown = undefined
  #warned = false
  #closed = false

  constructor(node: () => string, open: OpenSession, config: NodePoolConfig, ports: ListenPorts) {
    this.#nodeNow = node
    this.#open = open
    this.#config = config
    this.#ports = ports
  }

  /** Where it listens: at the primary, whoever that is now. */
  get #node(): string {
    return this.#nodeNow()
  }

  /**
   * Settles when the server has answered LISTEN: what is sent from then on is heard.
   * Rejects with ConfigError for a name that is none, or with what kept it from listening within `pool.acquireTimeout`.
   */
  async listen(name: string, fn: NotificationListener, options: ListenOptions = {}): Promise<Listening> {
    const fault = channelFault(name)
    if (fault !== null) throw new ConfigError([{ path: 'listen(channel)', ...fault }])
    if (this.#closed) throw this.#closedError()
    const { onGap, keepsProcessAlive = false } = options
    const listener: ChannelListener = { fn, onGap, keepsProcessAlive, promised: false }
    const channel = this.#join(name, listener)
    try {
      await this.#heard(channel)
    } catch (error) {
      void this.#leave(channel, listener)
      throw error
    }
    listener.promised = true
    this.#retain()
    let left: Promise<void> | undefined
    const leave = (): Promise<void> => (left ??= this.#leave(channel, listener))
    return { channel: name, [Symbol.dispose]: () => void leave(), [Symbol.asyncDispose]: leave }
  }

  /** Another server is the primary: nobody notifies at the old one any more. */
  moved(): void {
    const moved = new Error('another server is the primary now')
    if (this.#session === null) this.#connecting.abort(moved)
    else this.#session.destroy(moved)
  }

  /** Ends every listener, rejects who waits, says goodbye. Always settles. */
  async close(): Promise<void> {
    this.#closed = true
    this.#rejectAll(this.#closedError())
    for (const { listeners } of this.#channels.values()) listeners.clear()
    this.#channels.clear()
    await this.#letGo()
    await this.#keeper
  }

  #join(name: string, listener: ChannelListener): Channel {
    let channel = this.#channels.get(name)
    if (channel === undefined) {
      this.#channels.set(name, (channel = new Channel(name, this.#reports())))
      if (this.#session !== null) void this.#listenOn(this.#session, channel)
    }
    channel.listeners.add(listener)
    this.#keeper ??= this.#keep()
    return channel
  }

  async #leave(channel: Channel, listener: ChannelListener): Promise<void> {
    channel.listeners.delete(listener)
    if (channel.listeners.size > 0 || this.#channels.get(channel.name) !== channel) {
      this.#retain()
      return
    }
    this.#channels.delete(channel.name)
    if (this.#channels.size === 0) {
      await this.#letGo()
      return
    }
    this.#retain()
    const session = this.#session
    // When the connection is lost meanwhile, the server has forgotten the channel anyway.
    if (session !== null) await this.#say(session, unlistenSql(channel.name)).catch(() => undefined)
  }

  /** Settles when the channel is heard, by a connection that may have to be opened first. */
  async #heard(channel: Channel): Promise<void> {
    if (channel.isHeardOn(this.#session)) return
    const { acquireTimeoutMs } = this.#config
    const late = (): Error => this.#late(channel, acquireTimeoutMs)
    const heard = channel.wait((wait) => within(this.#ports.clock, acquireTimeoutMs, wait, late))
    this.#retain()
    await heard
  }

  /** The life of the connection: one after the other, for as long as somebody listens. */
  async #keep(): Promise<void> {
    this.#failures = 0
    while (this.#channels.size > 0) {
      const left = (this.#connecting = new AbortController()).signal
      try {
        await this.#stay(await this.#connect(left))
      } catch (error) {
        if (left.aborted) continue
        this.#failures++
        this.#lastError = error
        this.#ports.listeners.emit('error', { node: this.#node, during: 'listen', error })
        if (!left.aborted) await this.#rest(connectBackoff(this.#failures, this.#ports.chance(), LONGEST_REST_MS))
      }
    }
    this.#keeper = null
  }

  async #connect(signal: AbortSignal): Promise<Session> {
    try {
      return await this.#open({ timeoutMs: this.#config.connectTimeoutMs, signal })
    } catch (error) {
      // What the next try would end with as well is told to those who wait.
      const { class: fault } = this.#ports.faultOf(error, 'connect')
      if (fault === 'authentication') this.#rejectAll(error)
      throw error
    }
  }

  /** Listens on a new connection. Rejects with the reason when that is gone. */
  async #stay(session: Session): Promise<void> {
    const { clock } = this.#ports
    const openedAt = clock.now()
    const gone = new Promise<Error>((resolve) => session.onLost(resolve))
    this.#session = session
    this.#heardAt = this.#surelyHeardAt = openedAt
    session.onNotification((name, payload, processId) => this.#notified(name, payload, processId))
    if (this.#channels.size === 0) void this.#letGo()
    for (const channel of this.#channels.values()) void this.#listenOn(session, channel)
    void this.#askWhoAnswers(session)
    this.#lookLater(session)
    this.#retain()
    const reason = await gone
    clock.clearTimeout(this.#lookTimer)
    if (this.#session === session) this.#session = null
    for (const channel of this.#channels.values()) channel.lost(this.#surelyHeardAt)
    if (clock.now() - openedAt >= STEADY_MS) this.#failures = 0
    throw reason
  }

  async #listenOn(session: Session, channel: Channel): Promise<void> {
    try {
      await this.#say(session, listenSql(channel.name))
    } catch (error) {
      if (session.lost !== null) return
      // A name that the server does not take is its caller's trouble; a server on which nobody can listen is everybody's.
      const everybodys = channel.everHeard || this.#ports.faultOf(error, 'query').class === 'read-only'
      if (everybodys) session.destroy(error as Error)
      else channel.rejectWaiting(error)
      return
    }
    this.#lastError = undefined
    channel.heard(session, this.#ports.clock.now())
  }

  async #say(session: Session, sql: string): Promise<Rows> {
    const statement: Statement = { sql, parameters: [], facts: READ_FACTS }
    const { clock } = this.#ports
    const late = new Error(`no answer within ${ANSWER_MS} ms`)
    const askedAt = clock.now()
    try {
      const answer = await within(clock, ANSWER_MS, session.send(statement), () => late)
      this.#heardAt = clock.now()
      this.#surelyHeardAt = askedAt
      return answer
    } catch (error) {
      if (error === late) session.destroy(late)
      throw error
    }
  }

  #notified(name: string, payload: string, processId: number | undefined): void {
    this.#heardAt = this.#ports.clock.now()
    this.#channels.get(name)?.notified(payload, processId, this.#heardAt)
  }

  #reports(): ChannelReports {
    const { listeners } = this.#ports
    const node = this.#node
    return {
      gap: (gap) => listeners.emit('gap', { node, ...gap }),
      threw: (channel, error) => listeners.emit('error', { node, during: `listener of channel '${channel}'`, error }),
    }
  }

  /** A half-open socket is found by this, and a pooler that has handed the server connection to somebody else. */
  #lookLater(session: Session): void {
    const { clock } = this.#ports
    const { keepaliveMs } = this.#config
    if (keepaliveMs === 0) return
    const ms = Math.max(1, this.#heardAt + keepaliveMs - clock.now())
    this.#lookTimer = clock.setTimeout(() => void this.#look(session), ms)
  }

  async #look(session: Session): Promise<void> {
    const { clock } = this.#ports
    if (clock.now() - this.#heardAt >= this.#config.keepaliveMs) {
      const heard = [...this.#channels.values()].filter((channel) => channel.isHeardOn(session)).length
      try {
        const { rows } = await this.#say(session, CHANNELS_HEARD)
        if (Number(rows[0]?.['n']) < heard) throw this.#forgottenError()
      } catch (error) {
        session.destroy(error as Error)
      }
    }
    if (session.lost === null && session === this.#session) this.#lookLater(session)
  }

  /** A pooler makes up the backend's number that it gives at connect. Which mode it is in, it tells nobody. */
  async #askWhoAnswers(session: Session): Promise<void> {
    if (this.#warned) return
    const pid = await this.#say(session, WHO_ANSWERS.sql).then(
      ({ rows }) => Number(rows[0]?.['pid'] ?? session.pid),
      () => session.pid,
    )
    if (pid === session.pid || this.#warned) return
    this.#warned = true
    process.emitWarning(
      `dialect.listen: something in between answers for node '${this.#node}'. A pooler in transaction mode forgets ` +
        'LISTEN, and notifications are lost: connect to the server itself, or to a pooler in session mode.',
      { type: 'SmartPgWarning', code: 'SMARTPG_LISTEN_POOLED' },
    )
  }

  #rejectAll(error: unknown): void {
    for (const channel of this.#channels.values()) channel.rejectWaiting(error)
  }

  /** Nobody listens any more: gives up whatever the keeper waits for. */
  async #letGo(): Promise<void> {
    const session = this.#session
    this.#session = null
    this.#connecting.abort()
    this.#resting?.end()
    await session?.close(CLOSE_GRACE_MS)
  }

  async #rest(ms: number): Promise<void> {
    const { clock } = this.#ports
    let timer: Timer
    await new Promise<void>((end) => {
      this.#resting = { end }
      timer = clock.setTimeout(end, ms, this.#keepsProcessAlive ? 'awaited' : undefined)
    })
    clock.clearTimeout(timer)
    this.#resting = null
  }

  /** Whoever waits for the first LISTEN keeps the process alive; who listens does it on request. */
  #retain(): void {
    if (this.#keepsProcessAlive) this.#session?.ref()
    else this.#session?.unref()
  }

  get #keepsProcessAlive(): boolean {
    for (const { listeners, awaited } of this.#channels.values()) {
      if (awaited) return true
      for (const { keepsProcessAlive } of listeners) if (keepsProcessAlive) return true
    }
    return false
  }

  #late(channel: Channel, waitedMs: number): SmartPgError {
    const why = this.#lastError instanceof Error ? `: ${this.#lastError.message}` : ''
    return new SmartPgError(
      'SMARTPG_CONNECT_FAILED',
      `Cannot listen on channel '${channel.name}' at node '${this.#node}' within ${waitedMs} ms${why}`,
      { node: this.#node, phase: 'connect', retryable: true, cause: this.#lastError },
    )
  }

  #forgottenError(): ConfigError {
    return new ConfigError(
      [
        {
          path: this.#node,
          received: 'a connection that no longer listens: a pooler in transaction mode hands it to several servers',
          expected: 'the server itself, or a pooler in session mode, for dialect.listen',
        },
      ],
      { node: this.#node },
    )
  }

  #closedError(): SmartPgError {
    return new SmartPgError('SMARTPG_CLOSED', 'The dialect was destroyed.', { node: this.#node, phase: 'acquire' })
  }
}
