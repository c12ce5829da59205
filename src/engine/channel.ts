// One channel with its listeners, who share one LISTEN: who waits for it to be heard, who is told of each
// notification, and since when some may have been missed.

import type { Session } from '../core/types.ts'

/** Where a notification came from. */
export interface NotificationSource {
  readonly channel: string
  /** The backend that sent it. */
  readonly processId?: number
}

/** Called with every notification, in their order. What it throws, or rejects with, becomes an `error` event. */
export type NotificationListener = (payload: string, source: NotificationSource) => unknown

/** A time in which notifications may have been missed, milliseconds on the wall clock of this process. */
export interface Gap {
  readonly channel: string
  /** What was notified before has been heard: the last question that the server answered was asked then. */
  readonly since: number
  /** What is sent from here on is heard again. */
  readonly until: number
}

export interface ListenOptions {
  /** Called after the connection was lost and before the first notification that comes after. */
  readonly onGap?: (gap: Gap) => unknown
  /** The process goes on for as long as this listener is there. Default false: a listener alone keeps no process alive. */
  readonly keepsProcessAlive?: boolean
}

export interface ChannelListener {
  readonly fn: NotificationListener
  readonly onGap: ListenOptions['onGap']
  readonly keepsProcessAlive: boolean
  /** It has been promised every notification, so it is told when some may be missing. */
  promised: boolean
}

interface Waiter {
  resolve(): void
  reject(error: unknown): void
}

/** Who else is told. */
export interface ChannelReports {
  gap(gap: Gap): void
  /** A listener of this channel has thrown. */
  threw(channel: string, error: unknown): void
}

export class Channel {
  readonly name: string
  readonly listeners = new Set<ChannelListener>()
  readonly #reports: ChannelReports
  readonly #waiting = new Set<Waiter>()
  /** The connection on which LISTEN was answered last. */
  #heardOn: Session | null = null
  /** Since when notifications may have been missed; null: none. */
  #missingSince: number | null = null

  constructor(name: string, reports: ChannelReports) {
    this.name = name
    this.#reports = reports
  }

  /** Somebody waits for the first LISTEN, or for the next. */
  get awaited(): boolean {
    return this.#waiting.size > 0
  }

  get everHeard(): boolean {
    return this.#heardOn !== null
  }

  isHeardOn(session: Session | null): boolean {
    return session !== null && session.lost === null && this.#heardOn === session
  }

  /** Settles when LISTEN is answered, or as `rejectWaiting` says; `within` may give up earlier. */
  async wait(within: (wait: Promise<void>) => Promise<void>): Promise<void> {
    let waiter: Waiter
    const wait = new Promise<void>((resolve, reject) => this.#waiting.add((waiter = { resolve, reject })))
    try {
      await within(wait)
    } finally {
      this.#waiting.delete(waiter!)
    }
  }

  rejectWaiting(error: unknown): void {
    for (const waiter of this.#waiting) waiter.reject(error)
  }

  /** LISTEN was answered. */
  heard(session: Session, now: number): void {
    this.#heardOn = session
    this.#tellGap(now)
    for (const waiter of this.#waiting) waiter.resolve()
  }

  /** The connection is gone; whatever was notified before `since` has been heard. */
  lost(since: number): void {
    if (this.everHeard) this.#missingSince ??= since
  }

  notified(payload: string, processId: number | undefined, now: number): void {
    // It may come in one piece with the answer to LISTEN, before anybody was told of that.
    this.#tellGap(now)
    const channel = this.name
    const source: NotificationSource = processId === undefined ? { channel } : { channel, processId }
    for (const { fn } of [...this.listeners]) this.#call(() => fn(payload, source))
  }

  #tellGap(now: number): void {
    if (this.#missingSince === null) return
    const gap: Gap = { channel: this.name, since: this.#missingSince, until: now }
    this.#missingSince = null
    this.#reports.gap(gap)
    for (const { onGap, promised } of [...this.listeners]) {
      if (promised && onGap !== undefined) this.#call(() => onGap(gap))
    }
  }

  /** A listener that throws hurts nobody else. */
  #call(run: () => unknown): void {
    const threw = (error: unknown): void => this.#reports.threw(this.name, error)
    try {
      const answer = run()
      if (answer instanceof Promise) answer.catch(threw)
    } catch (error) {
      threw(error)
    }
  }
}
