// One node's connection for the monitor's questions: opened when first asked, given up when it fails, opened anew.
// A replica whose server closes it is known to be gone at once, not at the next look.

import type { NodeSample } from '../core/node-sample.ts'
import { READ_FACTS } from '../core/statements.ts'
import type { Clock, Row, Session } from '../core/types.ts'
import { within } from './clock.ts'
import type { Node } from './node.ts'

/** A probe is one round trip; a node that takes longer is not fit to be read from. */
export const PROBE_MS = 2_000

export interface ProbePorts {
  readonly clock: Clock
  readonly connectTimeoutMs: number
  /** The server says that it is a standby, or none any more, without having been asked. */
  readonly onStandby: () => void
  /** The connection was lost, though nobody had asked anything. */
  readonly onLost: (because: string) => void
}

export class Probe {
  readonly node: Node
  /** What it answered last, and when that was asked. */
  sample: NodeSample | null = null
  askedAt = Number.NEGATIVE_INFINITY
  /** Why it did not answer when it was asked last; null when it did. */
  fault: unknown = new Error('not asked yet')
  /** When that was told to those who listen. */
  toldAt = Number.NEGATIVE_INFINITY
  /** A question to it has been answered, or has failed. */
  tried = false
  /** It took the question, and said nothing. */
  silent = false
  /** A question under way. */
  looking: Promise<void> | null = null
  readonly #ports: ProbePorts
  #session: Session | null = null
  readonly #closing = new AbortController()

  constructor(node: Node, ports: ProbePorts) {
    this.node = node
    this.#ports = ports
  }

  async ask(sql: string): Promise<Row[]> {
    const session = await this.#opened()
    session.ref()
    try {
      const late = (): Error => {
        this.silent = true
        return new Error(`node '${this.node.name}' did not answer a probe within ${PROBE_MS} ms`)
      }
      const statement = { sql, parameters: [], facts: READ_FACTS }
      const { rows } = await within(this.#ports.clock, PROBE_MS, session.send(statement), late)
      this.silent = false
      return rows
    } catch (error) {
      if (this.#session === session) this.#session = null
      session.destroy(error as Error)
      throw error
    } finally {
      session.unref()
    }
  }

  /** Until it is asked again. A question under way gets its answer first. */
  async rest(): Promise<void> {
    while (this.looking !== null) await this.looking
    await this.#leave()
  }

  /** For good. */
  async close(): Promise<void> {
    this.#closing.abort(new Error('nobody asks any more'))
    await this.#leave()
  }

  async #leave(): Promise<void> {
    const session = this.#session
    this.#session = null
    await session?.close(PROBE_MS)
  }

  async #opened(): Promise<Session> {
    if (this.#session !== null && this.#session.lost === null) return this.#session
    const { connectTimeoutMs, onLost, onStandby } = this.#ports
    const timeoutMs = Math.min(connectTimeoutMs, PROBE_MS)
    const session = await this.node.openApart({ timeoutMs, signal: this.#closing.signal })
    this.#session = session
    session.unref()
    session.onStandby(onStandby)
    session.onLost((reason) => {
      if (this.#session !== session) return
      this.#session = null
      onLost(`connection lost: ${reason.message}`)
    })
    return session
  }
}
