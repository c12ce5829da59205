// What every session over pg's client has in common, whoever reads the answers: how it is opened for others to see,
// how it listens, cancels and ends. A connection is lost once, for one reason, and everybody is told.

import type { Clock } from '../core/types.ts'
import { sendCancel } from './cancel.ts'
import type { PgClient } from './pg-client.ts'
import type { ReportedSettings } from './reported.ts'
import { coded, connectionLost } from './values.ts'

export interface SessionOptions {
  readonly node: string
  readonly clock: Clock
  /** Named statements kept on the server for this connection. */
  readonly cacheSize: number
  /** The server had lost, or already had, a statement of ours: something between us reuses its connections. */
  readonly onStatementsUnreliable: () => void
  /** The row type of the statement of this name has changed (0A000), and every connection that knows the name will say so. */
  readonly onStatementsOutdated: (name: string) => void
}

export abstract class ConnectedSession {
  readonly pid: number
  readonly client: PgClient
  lost: Error | null = null
  protected closing = false
  /** Private for real, because it may hold keys and whoever inspects a session would see them. */
  readonly #options: SessionOptions
  readonly #reported: ReportedSettings
  readonly #lostListeners: ((reason: Error) => void)[] = []
  readonly #readListeners: (() => void)[] = []

  /** Takes over an authenticated client. */
  constructor(client: PgClient, options: SessionOptions, reported: ReportedSettings) {
    this.client = client
    this.#reported = reported
    this.#options = options
    this.pid = client.processID
    client.connection.on('end', () => this.end(connectionLost(options.node)))
    client.on('error', (error) => this.end(coded(options.node, error)))
  }

  protected get options(): SessionOptions {
    return this.#options
  }

  get node(): string {
    return this.options.node
  }

  get raw(): PgClient {
    return this.client
  }

  abstract get unanswered(): number

  get bytesRead(): number {
    return this.client.connection.stream.bytesRead
  }

  /** Called once, with `lost` set: whoever waits for an answer gets none any more. */
  protected abstract settleAll(reason: Error): void

  get drifted(): boolean {
    return this.#reported.drifted
  }

  keepSettings(): void {
    this.#reported.keep()
  }

  get standby(): boolean | null {
    return this.#reported.standby
  }

  onStandby(listener: (standby: boolean) => void): void {
    this.#reported.onStandby(listener)
  }

  cancel(timeoutMs: number): Promise<void> {
    return sendCancel(this.client, this.options.clock, timeoutMs)
  }

  ref(): void {
    this.client.connection.stream.ref?.()
  }

  unref(): void {
    this.client.connection.stream.unref?.()
  }

  close(graceMs: number): Promise<void> {
    if (this.lost !== null) return Promise.resolve()
    this.closing = true
    this.ref()
    return new Promise((resolve) => {
      const { clock } = this.options
      const { stream } = this.client.connection
      const grace = clock.setTimeout(() => stream.destroy(), graceMs, 'awaited')
      this.onLost(() => {
        clock.clearTimeout(grace)
        resolve()
      })
      void this.client.end().catch(() => stream.destroy())
      // A statement that hangs would hold up the goodbye.
      if (this.unanswered > 0) stream.destroy()
    })
  }

  destroy(reason: Error): void {
    this.closing = true
    this.client.connection.stream.destroy()
    this.end(reason)
  }

  onLost(listener: (reason: Error) => void): void {
    if (this.lost !== null) listener(this.lost)
    else this.#lostListeners.push(listener)
  }

  onRead(listener: () => void): void {
    this.#readListeners.push(listener)
  }

  /** Every answer of this read has been told. */
  protected tellRead(): void {
    const listeners = this.#readListeners
    for (let i = 0; i < listeners.length; i++) listeners[i]!()
  }

  onNotification(listener: (channel: string, payload: string, processId?: number) => void): void {
    this.client.on('notification', ({ channel, payload, processId }) => listener(channel, payload ?? '', processId))
  }

  protected end(reason: Error): void {
    if (this.lost !== null) return
    this.lost = reason
    this.settleAll(reason)
    for (const listener of this.#lostListeners.splice(0)) listener(reason)
  }
}
