// Keeps what is known of the catalog up to date, beside the traffic: read when the primary is first known, again now and
// then, and after a definition that has passed through here. Until it is known the text of a statement alone decides, and
// every own write counts for every read.

import type { Catalog } from '../core/catalog.ts'
import { READ_FACTS } from '../core/statements.ts'
import type { Clock, Row, Session } from '../core/types.ts'
import { readCatalog } from './catalog-reader.ts'
import { within } from './clock.ts'
import type { Listeners } from './listeners.ts'
import type { Node } from './node.ts'

const AGAIN_MS = 30_000
const AFTER_FAILURE_MS = 5_000
/** A catalog that takes longer is given up for this time. */
const AT_MOST_MS = 30_000
/** After the goodbye the server closes the socket at once or not at all. */
const CLOSE_GRACE_MS = 2_000

export interface CatalogKeeperPorts {
  readonly catalog: Catalog
  readonly clock: Clock
  readonly listeners: Listeners
  readonly connectTimeoutMs: number
}

export class CatalogKeeper {
  readonly #ports: CatalogKeeperPorts
  readonly #stopping = new AbortController()
  #dueAt = Number.NEGATIVE_INFINITY
  #session: Session | null = null
  #reading: Promise<void> | null = null

  constructor(ports: CatalogKeeperPorts) {
    this.#ports = ports
  }

  /** What the catalog says may be out of date. */
  changed(): void {
    this.#dueAt = Number.NEGATIVE_INFINITY
  }

  /** Reads it if it is due; settles when it has been read, or could not be, which is told. */
  keep(primary: Node): Promise<void> {
    const { clock } = this.#ports
    if (this.#reading !== null) return this.#reading
    if (clock.now() < this.#dueAt) return Promise.resolve()
    this.#dueAt = clock.now() + AFTER_FAILURE_MS
    this.#reading = this.#read(primary).finally(() => (this.#reading = null))
    return this.#reading
  }

  async stop(): Promise<void> {
    const over = new Error('the dialect was destroyed')
    this.#stopping.abort(over)
    this.#session?.destroy(over)
    await this.#reading
  }

  async #read(primary: Node): Promise<void> {
    const { catalog, clock, listeners } = this.#ports
    try {
      await this.#learn(primary)
      // Unless something has changed it meanwhile.
      if (catalog.known) this.#dueAt = clock.now() + AGAIN_MS
    } catch (error) {
      if (this.#stopping.signal.aborted) return
      listeners.emit('error', { node: primary.name, during: 'reading the catalog', error })
    }
  }

  /** On a connection of its own: whoever is asked about roles is not to wait for it. */
  async #learn({ openApart }: Node): Promise<void> {
    const { catalog, clock, connectTimeoutMs } = this.#ports
    const { version } = catalog
    const session = await openApart({ timeoutMs: connectTimeoutMs, signal: this.#stopping.signal })
    session.unref()
    this.#session = session
    try {
      const late = (): Error => new Error(`the catalog was not read within ${AT_MOST_MS} ms`)
      const ask = async (sql: string): Promise<Row[]> =>
        (await session.send({ sql, parameters: [], facts: READ_FACTS })).rows
      catalog.learn(await within(clock, AT_MOST_MS, readCatalog(ask, catalog.snapshot), late), version)
    } finally {
      this.#session = null
      void session.close(CLOSE_GRACE_MS)
    }
  }
}
