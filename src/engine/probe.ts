// One node's connection for the monitor's questions: opened when first asked, given up when it fails, opened anew.
// A replica whose server closes it is known to be gone at once, not at the next look.

import { READ_FACTS } from '../core/statements.ts'
import type { Clock, OpenSession, Row, Session } from '../core/types.ts'
import { within } from './clock.ts'
import type { Node } from './node.ts'

/** A probe is one round trip; a node that takes longer is not fit to be read from. */
const PROBE_MS = 2_000

export class Probe {
  readonly node: Node
  readonly #open: OpenSession
  readonly #clock: Clock
  readonly #connectTimeoutMs: number
  #session: Session | null = null

  constructor(node: Node, open: OpenSession, clock: Clock, connectTimeoutMs: number) {
    this.node = node
    this.#open = open
    this.#clock = clock
    this.#connectTimeoutMs = Math.min(connectTimeoutMs, PROBE_MS)
  }

  async ask(sql: string): Promise<Row[]> {
    const session = await this.#opened()
    session.ref()
    try {
      const late = (): Error => new Error(`node '${this.node.name}' did not answer a probe within ${PROBE_MS} ms`)
      const answer = await within(this.#clock, PROBE_MS, session.send({ sql, parameters: [], facts: READ_FACTS }), late)
      return answer.rows
    } catch (error) {
      if (this.#session === session) this.#session = null
      session.destroy(error as Error)
      throw error
    } finally {
      session.unref()
    }
  }

  async close(): Promise<void> {
    const session = this.#session
    this.#session = null
    await session?.close(PROBE_MS)
  }

  async #opened(): Promise<Session> {
    if (this.#session !== null && this.#session.lost === null) return this.#session
    const session = await this.#open({ timeoutMs: this.#connectTimeoutMs })
    this.#session = session
    session.unref()
    session.onLost((reason) => {
      if (this.#session !== session) return
      this.#session = null
      // The server closed it: known at once, not at the next look.
      if (this.node.role === 'replica') {
        const because = `connection lost: ${reason.message}`
        this.node.observed({ fit: false, up: false, because, lagMs: null, lagBytes: null, at: this.#clock.now() })
      }
    })
    return session
  }
}
