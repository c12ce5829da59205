// Which server is what. A name and an address are given once; the role is found out, and moves: after a failover one of
// the replicas is the primary, and what was the primary may come back as a replica. Decided in core/election.ts, by what
// the monitor has seen; kept here, and told to whoever waits for a primary.

import type { Election } from '../core/election.ts'
import type { CurrentTimeline } from '../core/token.ts'
import { ConfigError, NotExecutedError } from '../core/errors.ts'
import type { Clock } from '../core/types.ts'
import type { Listeners } from './listeners.ts'
import type { Node } from './node.ts'

export interface RolesPorts {
  readonly clock: Clock
  readonly listeners: Listeners
  /** Positions in the log mean something else from now on. */
  readonly onTimeline: () => void
  /** Another server is the primary. */
  readonly onMoved: () => void
}

export class Roles {
  #primary: Node
  #replicas: readonly Node[]
  #nodes: readonly Node[]
  /** No server is the primary, as far as anybody has said. */
  #vacant: boolean
  #because = 'not asked yet'
  /** When the role last went from one to another. */
  movedAt = Number.NEGATIVE_INFINITY
  /** What positions in the log are compared with. */
  #current: CurrentTimeline = { timeline: 0, beganAt: null }
  /** Of the cluster, once the primary has said it. */
  systemIdentifier: string | null = null
  /** Nodes that are none of ours, or no longer, and why. */
  #refused: ReadonlyMap<string, string> = new Map()
  readonly #ports: RolesPorts
  readonly #waiting = new Set<() => void>()
  /** Who is told of a change has been told of a primary before. */
  #told: boolean
  #closed: Error | null = null

  constructor(primary: Node, replicas: readonly Node[], rolesUnknown: boolean, ports: RolesPorts) {
    this.#primary = primary
    this.#replicas = replicas
    this.#nodes = [primary, ...replicas]
    this.#vacant = rolesUnknown && replicas.length > 0
    this.#told = !this.#vacant
    this.#ports = ports
  }

  get primary(): Node {
    return this.#primary
  }

  get replicas(): readonly Node[] {
    return this.#replicas
  }

  /** The primary first. */
  get nodes(): readonly Node[] {
    return this.#nodes
  }

  get vacant(): boolean {
    return this.#vacant
  }

  node(name: string): Node | undefined {
    return this.#nodes.find((node) => node.name === name)
  }

  /** What positions in the log are compared with. */
  get current(): CurrentTimeline {
    return this.#current
  }

  /** The primary's; 0 while unknown. */
  get timeline(): number {
    return this.#current.timeline
  }

  /** Why a node must not be used at all; undefined: it may. */
  refusalOf(node: Node): string | undefined {
    return this.#refused.get(node.name)
  }

  add(replica: Node): void {
    this.#set(this.#primary, [...this.#replicas, replica])
  }

  /** Throws ConfigError for the primary, which cannot be done without. */
  remove(node: Node): void {
    if (node === this.#primary) {
      const received = `'${node.name}', which is the primary now`
      throw new ConfigError([{ path: 'removeReplica(name)', received, expected: 'a replica' }])
    }
    this.#set(
      this.#primary,
      this.#replicas.filter((one) => one !== node),
    )
  }

  /** What was found out, and where the primary's log stood then. Tells who waits, and the world of another primary. */
  elected({ primary: name, because, timeline, systemIdentifier, refused }: Election, position: bigint | null): void {
    this.#refused = refused
    this.#because = because
    this.systemIdentifier = systemIdentifier
    if (name === null) {
      this.#vacate(because)
      return
    }
    const before = this.#primary
    const moved = name !== before.name
    if (moved) this.#moveTo(this.node(name)!, because)
    if (timeline !== null && timeline > this.timeline) {
      const first = this.timeline === 0
      this.#current = { timeline, beganAt: position }
      if (!first && !moved) this.#ports.onTimeline()
    }
    if (moved) {
      this.movedAt = this.#ports.clock.now()
      this.#ports.onTimeline()
      this.#ports.onMoved()
    }
    if (this.#told && (moved || this.#vacant)) {
      this.#ports.listeners.emit('failover', { from: before.name, to: name, because, timeline })
    }
    this.#told = true
    this.#vacant = false
    for (const found of [...this.#waiting]) found()
  }

  /** Settles when there is a primary, or after `ms`, and says whether there is one. */
  async primaryFound(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#vacant) await this.pause(ms, signal)
    else this.#throwIfOver(signal)
    return !this.#vacant
  }

  /** Settles after `ms`, or when there is a primary; rejects with the signal's reason, and when all is over. */
  async pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
    this.#throwIfOver(signal)
    const { clock } = this.#ports
    let end!: () => void
    const over = new Promise<void>((resolve) => (end = resolve))
    this.#waiting.add(end)
    const timer = clock.setTimeout(end, Math.max(1, ms), 'awaited')
    signal?.addEventListener('abort', end, { once: true })
    await over
    clock.clearTimeout(timer)
    this.#waiting.delete(end)
    signal?.removeEventListener('abort', end)
    this.#throwIfOver(signal)
  }

  #throwIfOver(signal: AbortSignal | undefined): void {
    signal?.throwIfAborted()
    if (this.#closed !== null) throw this.#closed
  }

  /** What to tell whoever has waited for a primary in vain. */
  noPrimary(waitedMs: number, cause?: unknown): NotExecutedError {
    const states = this.#nodes.map((node) => `${node.name}: ${this.refusalOf(node) ?? node.health.because}`).join('; ')
    const message = `No server is the primary, after ${Math.round(waitedMs)} ms (failover.timeout): ${this.#because} (${states}).`
    return new NotExecutedError(this.#primary.name, message, 'acquire', cause)
  }

  /** Rejects whoever waits: nothing more will be found out. */
  stop(closed: Error): void {
    this.#closed = closed
    for (const found of [...this.#waiting]) found()
  }

  #vacate(because: string): void {
    if (this.#vacant) return
    this.#vacant = true
    this.#ports.listeners.emit('failover', { from: this.#primary.name, to: null, because, timeline: null })
  }

  #moveTo(next: Node, because: string): void {
    const before = this.#primary
    this.#set(next, [before, ...this.#replicas.filter((node) => node !== next)])
    next.becomes('primary', because)
    before.becomes('replica', because)
  }

  #set(primary: Node, replicas: readonly Node[]): void {
    this.#primary = primary
    this.#replicas = replicas
    this.#nodes = [primary, ...replicas]
  }
}
