// Asks the nodes for role, lag and replayed position, on connections of its own, so that an exhausted pool cannot make
// a healthy replica look dead. It runs while there are statements to route and rests otherwise; a read that found this
// process's own writes not yet replayed makes it look every few milliseconds until they are, and so does a primary
// that is gone until there is another one. What it sees it hands to core: who is primary, who is fit to be read from.

import { elect } from '../core/election.ts'
import type { Known, NodeView } from '../core/election.ts'
import { PrimaryHistory, judgeReplica, settleLsn } from '../core/freshness.ts'
import { NODE_SQL, sampleOf } from '../core/node-sample.ts'
import type { NodeSample } from '../core/node-sample.ts'
import { reviewOutliers } from '../core/ejection.ts'
import type { OwnWrites } from '../core/own-writes.ts'
import type { Catalog } from '../core/catalog.ts'
import type { Chance, Clock, Timer } from '../core/types.ts'
import { CatalogKeeper } from './catalog-keeper.ts'
import type { Listeners } from './listeners.ts'
import type { Node } from './node.ts'
import { PROBE_MS, Probe } from './probe.ts'
import type { Roles } from './roles.ts'

export interface MonitorOptions {
  readonly intervalMs: number
  readonly connectTimeoutMs: number
  readonly limits: { readonly maxLagMs: number; readonly maxLagBytes: number }
}

export interface MonitorPorts {
  readonly roles: Roles
  readonly ownWrites: OwnWrites
  readonly catalog: Catalog
  readonly clock: Clock
  readonly chance: Chance
  readonly listeners: Listeners
}

/**
 * Between two looks while reads go to the primary because of our own writes. A replica has mostly replayed them at
 * the first look; where writes never pause it never has, and looking more often would only cost.
 */
const HURRY_MS = { first: 2, last: 128 }
/** Between two looks while there is no primary: whoever writes waits for it. */
const SEARCH_MS = 50
/** Between two looks by connections of their own, while there is no primary. */
const ANEW_MS = 1_000
/** A replica that is to follow another primary has found it by then, or somebody has to help it. */
const SETTLING_MS = 5_000
/** A node that takes longer to answer is not waited for: others must not look old because of it. */
const PATIENCE_MS = { atFirst: 2 * PROBE_MS, later: 250 }
/** The same failure of the same node is told again after this. */
const TOLD_AGAIN_MS = 5_000
/** Nothing is known of it. */
const ANOTHER_CLUSTER: Known = { timeline: 0, systemIdentifier: null }
/** Without statements to route for this long the monitor rests. */
const REST_AFTER_MS = 10_000

export class Monitor {
  readonly #probes = new Map<Node, Probe>()
  readonly #options: MonitorOptions
  readonly #ports: MonitorPorts
  #history = new PrimaryHistory()
  #running: Promise<void> | null = null
  #lastRound: Promise<void> = Promise.resolve()
  /** The one after that, while it has not begun. */
  #nextRound: { judging: boolean; readonly done: Promise<void> } | null = null
  #stopped = false
  #askedForAt = 0
  #judgedAt = Number.NEGATIVE_INFINITY
  readonly #catalog: CatalogKeeper
  #hurried = false
  #hurryMs = HURRY_MS.first
  /** Something has happened that may have moved a role. */
  #suspected = false
  /** Since when the primary is known to be it: false from the start, and from a trouble with it, until the next look. */
  #sure = false
  #connectedAt = Number.NEGATIVE_INFINITY
  #making: Promise<void> | null = null
  #askingAnew: Promise<boolean> | null = null
  /** The pause between two rounds. */
  #resting: { readonly end: () => void; timer: Timer } | null = null

  constructor(options: MonitorOptions, ports: MonitorPorts) {
    this.#options = options
    this.#ports = ports
    this.#catalog = new CatalogKeeper({ ...ports, connectTimeoutMs: options.connectTimeoutMs })
    for (const node of ports.roles.nodes) this.watch(node)
  }

  /** From now on this node is looked at, too. */
  watch(node: Node): void {
    const probe = new Probe(node, {
      clock: this.#ports.clock,
      connectTimeoutMs: this.#options.connectTimeoutMs,
      onStandby: () => this.suspect(),
      onLost: (because) => this.#lost(probe, because),
    })
    this.#probes.set(node, probe)
  }

  async forget(node: Node): Promise<void> {
    const probe = this.#probes.get(node)
    this.#probes.delete(node)
    this.#ports.ownWrites.drop(node.name)
    await probe?.close()
  }

  /** A statement for which it matters is being routed. */
  poke(): void {
    this.#askedForAt = this.#ports.clock.now()
    if (this.#running === null && !this.#stopped) this.#running = this.#run().finally(() => (this.#running = null))
  }

  /** A read had to go to the primary because no replica shows our own writes yet. */
  hurry(): void {
    if (this.#hurried) return
    this.#hurried = true
    this.#wake(this.#hurryMs)
  }

  /** A role may have moved: looks at every node now. */
  suspect(): void {
    this.#sure = false
    this.poke()
    if (this.#suspected) return
    this.#suspected = true
    this.#wake(0)
  }

  /** Whether what was seen of a node is recent enough to rely on. */
  knows(node: Node, now: number): boolean {
    return now - node.health.at <= Math.max(3_000, 3 * this.#options.intervalMs)
  }

  /** One full look at every node, at once. */
  look(): Promise<void> {
    return this.#round(true)
  }

  /**
   * Whether whoever was the primary may be another one's by now: nobody has looked since the start, or since it lost a
   * connection. As long as one of its connections stands it has not been restarted, as what or whoever's it may be.
   */
  unsure({ pool }: Node, now: number): boolean {
    return !this.#sure || (!pool.hasSessions && now - this.#judgedAt > 3 * this.#options.intervalMs)
  }

  /** Settles when every node has been looked at, whatever was found; for all who ask meanwhile it is one look. */
  makeSure(): Promise<void> {
    return (this.#making ??= this.#round(true).finally(() => (this.#making = null)))
  }

  /** Settles after one more look at what the replicas have replayed, or after `ms`. */
  async glance(ms: number): Promise<void> {
    const { clock } = this.#ports
    let timer: Timer = null
    const late = new Promise<void>((end) => (timer = clock.setTimeout(end, ms, 'awaited')))
    await Promise.race([this.#round(false), late])
    clock.clearTimeout(timer)
  }

  /** Whether the server that a node's name leads to now says that it is a standby. One question for all who ask meanwhile. */
  isStandby(node: Node): Promise<boolean> {
    return (this.#askingAnew ??= this.#isStandby(node).finally(() => (this.#askingAnew = null)))
  }

  async #isStandby(node: Node): Promise<boolean> {
    const probe = this.#probes.get(node)
    // A name may lead to another server than the connection that stands.
    await probe?.rest()
    await this.#lookAt(node)
    return probe?.fault === null && probe.sample!.inRecovery
  }

  /** Why a node did not answer when it was asked last; null: it did. */
  faultOf(node: Node): unknown {
    return this.#probes.get(node)?.fault ?? null
  }

  /** What the catalog says may be out of date. */
  catalogChanged(): void {
    this.#catalog.changed()
  }

  /** Settles when the catalog has been read, or could not be. */
  catalogRead(): Promise<void> {
    return this.#catalog.keep(this.#ports.roles.primary)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#ports.clock.clearTimeout(this.#resting?.timer)
    this.#resting?.end()
    const close = (): Promise<unknown> => Promise.all([...this.#probes.values()].map((probe) => probe.close()))
    await Promise.all([this.#catalog.stop(), close()])
    await this.#running
    await this.#lastRound
    // One that was about to ask when it was told.
    await close()
  }

  /** Positions in the log mean something else from now on. */
  newTimeline(): void {
    this.#history = new PrimaryHistory()
  }

  async #run(): Promise<void> {
    const { ownWrites, roles } = this.#ports
    while (!this.#stopped && this.#wanted) {
      this.#hurried = false
      const suspected = this.#suspected
      this.#suspected = false
      await this.#round(suspected)
      const shown = roles.replicas.some(({ name }) => ownWrites.covers(name, null))
      this.#hurryMs = shown ? HURRY_MS.first : Math.min(HURRY_MS.last, this.#hurryMs * 2)
      await this.#pause()
      this.#resting = null
    }
    // A database that sleeps when nobody asks shall not be kept awake.
    if (!this.#stopped) await Promise.all([...this.#probes.values()].map((probe) => probe.rest()))
    // Somebody may have asked while that was said.
    if (!this.#stopped && this.#wanted) await this.#run()
  }

  get #wanted(): boolean {
    return this.#ports.clock.now() - this.#askedForAt < REST_AFTER_MS
  }

  #pause(): Promise<void> {
    if (this.#stopped) return Promise.resolve()
    return new Promise((end) => {
      this.#resting = { end, timer: this.#ports.clock.setTimeout(end, this.#pauseMs) }
    })
  }

  get #pauseMs(): number {
    if (this.#suspected) return 0
    if (this.#searching) return Math.min(SEARCH_MS, this.#options.intervalMs)
    return this.#hurried ? this.#hurryMs : this.#options.intervalMs
  }

  /** There is no primary, or it does not answer, or it has just become it and no replica is known to follow it. */
  get #searching(): boolean {
    const { clock, roles } = this.#ports
    if (roles.vacant || this.faultOf(roles.primary) !== null) return true
    const settling = clock.now() - roles.movedAt < SETTLING_MS
    return settling && !roles.replicas.some(({ health }) => health.fit)
  }

  #wake(ms: number): void {
    if (this.#resting === null) return
    const { clock } = this.#ports
    clock.clearTimeout(this.#resting.timer)
    this.#resting.timer = clock.setTimeout(this.#resting.end, ms)
  }

  /** One round at a time, each after the one before: two would compare mixed answers. */
  #round(judging: boolean): Promise<void> {
    // Whoever comes before it has begun is answered by the same one.
    if (this.#nextRound !== null) {
      this.#nextRound.judging ||= judging
      return this.#nextRound.done
    }
    const done: Promise<void> = this.#lastRound.then(() => {
      const now = this.#nextRound!.judging
      this.#nextRound = null
      return this.#lookAround(now)
    })
    this.#nextRound = { judging, done }
    return (this.#lastRound = done)
  }

  async #lookAround(judging: boolean): Promise<void> {
    if (this.#stopped) return
    const { clock, ownWrites, roles } = this.#ports
    if (roles.vacant) this.#connectAnew()
    // Before the replicas are asked: what they have replayed is compared with where our writes ended.
    if (ownWrites.pending()) await this.#ask([roles.primary])
    await this.#ask(roles.replicas, judging)
    const now = clock.now()
    const due = now - this.#judgedAt >= this.#options.intervalMs
    if (!judging && !due && !this.#searching) return
    this.#judgedAt = now
    // After them: a replica that is ahead of the primary is on another timeline.
    const before = roles.primary
    await this.#ask([before], judging)
    this.#elect()
    if (roles.primary !== before) {
      // Whoever was compared with the one before is compared with this one.
      await this.#ask(roles.replicas)
      await this.#ask([roles.primary])
    }
    this.#sure = !roles.vacant && this.faultOf(roles.primary) === null
    this.#judge()
    if (roles.primary.health.up && !roles.vacant) void this.#catalog.keep(roles.primary)
  }

  /** While nobody is the primary a name may come to mean another server, which what is open does not see. */
  #connectAnew(): void {
    const now = this.#ports.clock.now()
    if (now - this.#connectedAt < ANEW_MS) return
    this.#connectedAt = now
    for (const probe of this.#probes.values()) if (probe.fault === null && probe.looking === null) void probe.rest()
  }

  /** Settles when all have answered, or those that answer at all. */
  async #ask(nodes: readonly Node[], thoroughly = false): Promise<void> {
    const { clock } = this.#ports
    // Whoever has never been heard may only be far away.
    const patient = thoroughly && nodes.some((node) => this.#probes.get(node)?.tried === false)
    const looks = nodes.map((node) => this.#lookAt(node))
    let timer: Timer = null
    const patience = new Promise<void>(
      (end) => (timer = clock.setTimeout(end, PATIENCE_MS[patient ? 'atFirst' : 'later'])),
    )
    await Promise.race([Promise.all(looks), patience])
    clock.clearTimeout(timer)
  }

  #lookAt(node: Node): Promise<void> {
    const probe = this.#probes.get(node)
    if (probe === undefined) return Promise.resolve()
    const ended = (): void => {
      probe.looking = null
      probe.tried = true
    }
    return (probe.looking ??= this.#sample(probe).finally(ended))
  }

  /** Never rejects: what went wrong stands in the probe. */
  async #sample(probe: Probe): Promise<void> {
    const { clock, listeners, ownWrites, roles } = this.#ports
    const { node } = probe
    const upTo = ownWrites.finished
    const askedAt = clock.now()
    try {
      const [row] = await probe.ask(NODE_SQL)
      const sample = sampleOf(row ?? {}, clock.now())
      // It may have taken longer than the round had patience.
      if (probe.fault !== null) this.#lookAgain()
      probe.sample = sample
      probe.askedAt = askedAt
      probe.fault = null
      const { insertLsn, replayLsn, walBlockSize, walSegmentSize } = sample
      if (node === roles.primary && insertLsn !== null) {
        // Past a page header stands a position that an idle, caught-up replica never reaches.
        ownWrites.sampled(settleLsn(insertLsn, walBlockSize, walSegmentSize), upTo)
        this.#history.add(insertLsn, clock.now())
      }
      if (node !== roles.primary && sample.inRecovery && replayLsn !== null) {
        ownWrites.replayed(node.name, replayLsn)
        node.replayed = replayLsn
      }
    } catch (error) {
      if (this.#stopped || !this.#probes.has(node)) return
      const told = probe.fault instanceof Error && messageOf(probe.fault) === messageOf(error)
      probe.fault = error
      this.#down(probe, messageOf(error))
      // Where it is asked twenty times a second nobody wants to hear the same so often.
      if (told && clock.now() - probe.toldAt < TOLD_AGAIN_MS) return
      probe.toldAt = clock.now()
      listeners.emit('error', { node: node.name, during: 'probe', error })
    }
  }

  /** Somebody answers who did not: the next round shall judge, and soon. */
  #lookAgain(): void {
    this.#judgedAt = Number.NEGATIVE_INFINITY
    this.#wake(0)
  }

  #lost(probe: Probe, because: string): void {
    if (this.#stopped) return
    probe.fault = new Error(because)
    // The server closed it: known at once, not at the next look.
    this.#down(probe, because)
    if (probe.node === this.#ports.roles.primary) this.suspect()
  }

  #down({ node, silent }: Probe, because: string): void {
    const { clock, ownWrites, roles } = this.#ports
    const primary = node === roles.primary
    node.observed({ fit: primary, up: false, because, lagMs: null, lagBytes: null, at: clock.now() })
    if (primary) return
    ownWrites.drop(node.name)
    node.replayed = null
    // A server that is asked and says nothing answers nobody else either: who reads there reads elsewhere.
    if (silent) node.pool.abandon(because)
  }

  #elect(): void {
    const { roles } = this.#ports
    const views: NodeView[] = [...this.#probes.values()].map(({ node, fault, sample }) => ({
      name: node.name,
      reachable: fault === null,
      sample,
    }))
    const { primary, timeline, vacant } = roles
    const systemIdentifier = this.#cluster(views)
    const known = systemIdentifier === roles.systemIdentifier ? { timeline, systemIdentifier } : ANOTHER_CLUSTER
    const election = elect(views, vacant ? null : primary.name, known)
    const elected = views.find(({ name }) => name === election.primary)
    roles.elected(election, positionOf(elected?.sample ?? null))
  }

  /** Whose nodes these are. When all of them say the same, and another than before, it is the cluster that was replaced. */
  #cluster(views: readonly NodeView[]): string | null {
    const { systemIdentifier: before } = this.#ports.roles
    const now = new Set(views.map(({ reachable, sample }) => (reachable ? (sample?.systemIdentifier ?? null) : null)))
    const [only] = now
    return now.size === 1 && only !== null && only !== undefined ? only : before
  }

  #judge(): void {
    const { chance, clock, listeners, roles } = this.#ports
    const now = clock.now()
    const primary = this.#probes.get(roles.primary)
    if (primary?.fault === null) {
      const because = roles.vacant ? 'in recovery' : 'answers'
      roles.primary.observed({ fit: true, up: !roles.vacant, because, lagMs: null, lagBytes: null, at: now })
    }
    for (const node of roles.replicas) {
      const probe = this.#probes.get(node)
      if (probe !== undefined && probe.fault === null) this.#judgeReplica(probe, primary, now)
    }
    const reachable = roles.replicas.filter(({ health }) => health.up && health.fit)
    for (const verdict of reviewOutliers(reachable, now, chance)) {
      const { sibling, because } = verdict
      if (verdict.do === 'eject') sibling.standing.eject(verdict.forMs, now)
      else sibling.standing.returned(now)
      listeners.emit('node', { node: sibling.name, role: 'replica', up: verdict.do === 'return', because })
    }
  }

  #judgeReplica({ node, sample }: Probe, primary: Probe | undefined, now: number): void {
    const { roles } = this.#ports
    const refusal = roles.refusalOf(node)
    if (refusal !== undefined || sample === null) {
      node.observed({ fit: false, up: true, because: refusal ?? 'not asked yet', lagMs: null, lagBytes: null, at: now })
      return
    }
    // Only a position that was asked for afterwards can tell who is ahead of whom.
    const comparable = primary?.fault === null && primary.askedAt >= sample.at && !roles.vacant
    const lsn = comparable ? primary.sample!.insertLsn : null
    const { limits } = this.#options
    const verdict = judgeReplica(sample, lsn, limits, this.#history, now, roles.timeline || null)
    node.standing.observedLag(verdict.lag.ms, limits.maxLagMs)
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

/** Where an idle replica that has replayed everything stands. */
function positionOf(sample: NodeSample | null): bigint | null {
  if (sample === null || sample.insertLsn === null) return null
  return settleLsn(sample.insertLsn, sample.walBlockSize, sample.walSegmentSize)
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
