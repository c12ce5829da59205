// Asks the nodes for role, lag and replayed position, on connections of its own, so that an exhausted pool
// cannot make a healthy replica look dead. It runs while there are reads to route and rests otherwise; a read
// that found this process's own writes not yet replayed makes it look every few milliseconds until they are.

import type { PrimaryHistory, ReplicaSample } from '../core/freshness.ts'
import { judgeReplica, parseLsn, settleLsn } from '../core/freshness.ts'
import type { OwnWrites } from '../core/own-writes.ts'
import { PLAIN_TABLES_SQL } from '../core/plain-tables.ts'
import type { PlainTables } from '../core/plain-tables.ts'
import type { Clock, OpenSession, Timer } from '../core/types.ts'
import type { Listeners } from './listeners.ts'
import type { Node } from './node.ts'
import { Probe } from './probe.ts'

export interface MonitorOptions {
  readonly intervalMs: number
  readonly connectTimeoutMs: number
  readonly limits: { readonly maxLagMs: number; readonly maxLagBytes: number }
}

/**
 * Between two looks while reads go to the primary because of our own writes. A replica has mostly replayed them at
 * the first look; where writes never pause it never has, and looking more often would only cost.
 */
const HURRY_MS = { first: 2, last: 128 }
/** The catalog is read again after this, and after a definition that passes through here. */
const CATALOG_MS = 30_000
/** Without reads for this long the monitor rests. */
const REST_AFTER_MS = 10_000

const PRIMARY_SQL = `select pg_is_in_recovery() as recovering,
  case when pg_is_in_recovery() then null else pg_current_wal_insert_lsn() end::text as lsn,
  current_setting('wal_block_size') as block, (select setting from pg_settings where name = 'wal_segment_size') as segment`
const REPLICA_SQL = `select pg_is_in_recovery()::text as recovering, pg_last_wal_receive_lsn()::text as received,
  pg_last_wal_replay_lsn()::text as replayed, exists (select from pg_stat_wal_receiver)::text as receiving`

export class Monitor {
  readonly #primary: Probe
  readonly #replicas: readonly Probe[]
  readonly #ownWrites: OwnWrites
  readonly #plainTables: PlainTables
  readonly #history: PrimaryHistory
  readonly #options: MonitorOptions
  readonly #clock: Clock
  readonly #listeners: Listeners
  #running: Promise<void> | null = null
  #lastRound: Promise<unknown[]> = Promise.resolve([])
  #stopped = false
  #readAt = 0
  #judgedAt = 0
  #catalogAt = 0
  #hurried = false
  #hurryMs = HURRY_MS.first
  /** The pause between two rounds. */
  #resting: { readonly end: () => void; timer: Timer } | null = null

  constructor(
    primary: { node: Node; open: OpenSession },
    replicas: readonly { node: Node; open: OpenSession }[],
    options: MonitorOptions,
    ports: {
      ownWrites: OwnWrites
      plainTables: PlainTables
      history: PrimaryHistory
      clock: Clock
      listeners: Listeners
    },
  ) {
    const probe = ({ node, open }: { node: Node; open: OpenSession }): Probe =>
      new Probe(node, open, ports.clock, options.connectTimeoutMs)
    this.#primary = probe(primary)
    this.#replicas = replicas.map(probe)
    this.#options = options
    this.#ownWrites = ports.ownWrites
    this.#plainTables = ports.plainTables
    this.#history = ports.history
    this.#clock = ports.clock
    this.#listeners = ports.listeners
  }

  /** A read that may go to a replica is being routed. */
  poke(): void {
    this.#readAt = this.#clock.now()
    if (this.#running === null && !this.#stopped) this.#running = this.#run().finally(() => (this.#running = null))
  }

  /** A read had to go to the primary because no replica shows our own writes yet. */
  hurry(): void {
    if (this.#hurried) return
    this.#hurried = true
    if (this.#resting === null) return
    this.#clock.clearTimeout(this.#resting.timer)
    this.#resting.timer = this.#clock.setTimeout(this.#resting.end, this.#hurryMs)
  }

  /** Whether what was seen of a node is recent enough to rely on. */
  knows(node: Node, now: number): boolean {
    return now - node.health.at <= Math.max(3_000, 3 * this.#options.intervalMs)
  }

  /** One full look at every node, at once; rejects with the first node's fault. */
  async look(): Promise<void> {
    const faults = await this.#round(true)
    if (faults.length > 0) throw faults[0]
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#clock.clearTimeout(this.#resting?.timer)
    this.#resting?.end()
    await this.#running
    await this.#lastRound
    await Promise.all([this.#primary, ...this.#replicas].map((probe) => probe.close()))
  }

  async #run(): Promise<void> {
    while (!this.#stopped && this.#clock.now() - this.#readAt < REST_AFTER_MS) {
      this.#hurried = false
      await this.#round()
      const shown = this.#replicas.some(({ node }) => this.#ownWrites.covers(node.name, null))
      this.#hurryMs = shown ? HURRY_MS.first : Math.min(HURRY_MS.last, this.#hurryMs * 2)
      await this.#pause()
      this.#resting = null
    }
    // A database that sleeps when nobody asks shall not be kept awake.
    if (!this.#stopped) await Promise.all([this.#primary, ...this.#replicas].map((probe) => probe.close()))
  }

  #pause(): Promise<void> {
    if (this.#stopped) return Promise.resolve()
    return new Promise((end) => {
      this.#resting = {
        end,
        timer: this.#clock.setTimeout(end, this.#hurried ? this.#hurryMs : this.#options.intervalMs),
      }
    })
  }

  /** One round at a time, each after the one before: two would open two connections and compare mixed answers. */
  #round(judging = false): Promise<unknown[]> {
    this.#lastRound = this.#lastRound.then(() => this.#ask(judging))
    return this.#lastRound
  }

  async #ask(judging: boolean): Promise<unknown[]> {
    if (this.#stopped) return []
    const faults: unknown[] = []
    const note = (error: unknown): null => {
      faults.push(error)
      return null
    }
    // Before the replicas are asked: what they have replayed is compared with where our writes ended.
    if (this.#ownWrites.pending()) await this.#samplePrimary().catch(note)
    const samples = await Promise.all(this.#replicas.map((probe) => this.#sampleReplica(probe).catch(note)))
    const now = this.#clock.now()
    if (!judging && now - this.#judgedAt < this.#options.intervalMs) return faults
    this.#judgedAt = now
    // After them: a replica that is ahead of the primary is on another timeline.
    const lsn = await this.#samplePrimary().catch(note)
    this.#judgePrimary(faults.at(-1), lsn !== null)
    if (lsn !== null) this.#history.add(lsn, this.#clock.now())
    if (lsn !== null) await this.#readCatalog().catch(note)
    this.#replicas.forEach((probe, i) => this.#judge(probe.node, samples[i] ?? null, lsn))
    return faults
  }

  /** Beside the traffic; until it is known, every own write counts for every read. */
  async #readCatalog(): Promise<void> {
    const now = this.#clock.now()
    if (this.#plainTables.known && now - this.#catalogAt < CATALOG_MS) return
    this.#catalogAt = now
    const { version } = this.#plainTables
    const rows = await this.#primary.ask(PLAIN_TABLES_SQL)
    this.#plainTables.learn(
      rows.map((row) => String(row['name'])),
      version,
    )
  }

  async #samplePrimary(): Promise<bigint | null> {
    const upTo = this.#ownWrites.finished
    try {
      const [row] = await this.#primary.ask(PRIMARY_SQL)
      if (typeof row?.['lsn'] !== 'string') return null
      const lsn = parseLsn(row['lsn'])
      // Past a page header stands a position that an idle, caught-up replica never reaches.
      this.#ownWrites.sampled(settleLsn(lsn, Number(row['block']), Number(row['segment'])), upTo)
      return lsn
    } catch (error) {
      this.#listeners.emit('error', { node: this.#primary.node.name, during: 'probe', error })
      throw error
    }
  }

  async #sampleReplica(probe: Probe): Promise<ReplicaSample> {
    const { node } = probe
    try {
      const [row = {}] = await probe.ask(REPLICA_SQL)
      const replayLsn = lsnOf(row['replayed'])
      if (replayLsn !== null) this.#ownWrites.replayed(node.name, replayLsn)
      return {
        inRecovery: row['recovering'] === 'true',
        walReceiver: row['receiving'] === 'true',
        receiveLsn: lsnOf(row['received']),
        replayLsn,
        at: this.#clock.now(),
      }
    } catch (error) {
      const because = error instanceof Error ? error.message : String(error)
      this.#ownWrites.drop(node.name)
      node.observed({ fit: false, up: false, because, lagMs: null, lagBytes: null, at: this.#clock.now() })
      this.#listeners.emit('error', { node: node.name, during: 'probe', error })
      throw error
    }
  }

  #judgePrimary(fault: unknown, up: boolean): void {
    const because = up ? 'answers' : fault instanceof Error ? fault.message : 'in recovery'
    this.#primary.node.observed({ fit: true, up, because, lagMs: null, lagBytes: null, at: this.#clock.now() })
  }

  #judge(node: Node, sample: ReplicaSample | null, primaryLsn: bigint | null): void {
    if (sample === null) return
    const now = this.#clock.now()
    const verdict = judgeReplica(sample, primaryLsn, this.#options.limits, this.#history, now)
    node.observed({
      fit: verdict.fresh,
      up: true,
      because: verdict.fresh ? 'fresh' : verdict.because,
      lagMs: verdict.lag.ms,
      lagBytes: verdict.lag.bytes,
      at: now,
    })
  }
}

function lsnOf(value: unknown): bigint | null {
  return typeof value === 'string' ? parseLsn(value) : null
}
