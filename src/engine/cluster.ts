// The nodes and who among them serves what: asks core where a statement belongs, with what the monitor saw.

import { chooseReplica } from '../core/balance.ts'
import type { Candidate } from '../core/balance.ts'
import type { RouteReason } from '../core/cells.ts'
import { NotExecutedError } from '../core/errors.ts'
import type { OwnWrites } from '../core/own-writes.ts'
import type { PlainTables } from '../core/plain-tables.ts'
import { destinationOf } from '../core/route.ts'
import type { RouteRules } from '../core/route.ts'
import type { Chance, Clock, Facts } from '../core/types.ts'
import type { Hold } from './hold.ts'
import type { Monitor } from './monitor.ts'
import type { Node } from './node.ts'

export interface ClusterRules extends RouteRules {
  readonly fallbackToPrimary: boolean
  readonly readYourWrites: 'auto' | 'off'
}

export interface Routed {
  readonly node: Node
  readonly because: RouteReason
}

export class Cluster {
  readonly primary: Node
  readonly replicas: readonly Node[]
  readonly #rules: ClusterRules
  readonly #ownWrites: OwnWrites
  readonly #plainTables: PlainTables
  readonly #monitor: Monitor
  readonly #clock: Clock
  readonly #chance: Chance

  constructor(
    primary: Node,
    replicas: readonly Node[],
    rules: ClusterRules,
    ports: { ownWrites: OwnWrites; plainTables: PlainTables; monitor: Monitor; clock: Clock; chance: Chance },
  ) {
    this.primary = primary
    this.replicas = replicas
    this.#rules = rules
    this.#ownWrites = ports.ownWrites
    this.#plainTables = ports.plainTables
    this.#monitor = ports.monitor
    this.#clock = ports.clock
    this.#chance = ports.chance
  }

  get nodes(): readonly Node[] {
    return [this.primary, ...this.replicas]
  }

  node(name: string): Node | undefined {
    return this.nodes.find((node) => node.name === name)
  }

  /** The node for a lease's first statement, and why; null when no replica will do and the primary may not help. */
  route(hold: Hold, facts: Facts, raw: boolean, failedOn: readonly Node[]): Routed | null {
    const choice = this.#choose(hold, facts, raw, failedOn)
    if (choice !== null) this.primary.cells.routed[choice.node.role][choice.because]++
    return choice
  }

  /** What to tell a read that found no replica. */
  noReplica(failedOn: readonly Node[], cause: unknown): NotExecutedError {
    const now = this.#clock.now()
    const state = (node: Node): string => {
      if (failedOn.includes(node)) return 'failed'
      if (!node.admits(now)) return 'circuit open'
      return this.#monitor.knows(node, now) ? node.health.because : 'not asked for long'
    }
    const states = this.replicas.map((node) => `${node.name}: ${state(node)}`).join('; ')
    const message = `No replica can take this read, and routing.fallbackToPrimary is false (${states}).`
    return new NotExecutedError(this.replicas[0]!.name, message, 'acquire', cause)
  }

  #choose(hold: Hold, facts: Facts, raw: boolean, failedOn: readonly Node[]): Routed | null {
    if (hold.forcePrimary) return { node: this.primary, because: 'pinned' }
    const { target, because } = destinationOf({ facts, raw, transaction: hold.transaction }, this.#rules)
    if (target === 'primary') return { node: this.primary, because }
    this.#monitor.poke()
    const choice = chooseReplica(this.#candidates(facts, failedOn), this.#chance)
    if (choice.chosen !== null) return { node: choice.chosen.node, because }
    if (choice.because === 'own-write') this.#monitor.hurry()
    else if (!this.#rules.fallbackToPrimary) return null
    return { node: this.primary, because: choice.because }
  }

  #candidates(facts: Facts, failedOn: readonly Node[]): (Candidate & { node: Node })[] {
    const now = this.#clock.now()
    const tables = this.#plainTables.keysOf(facts.tablesRead)
    return this.replicas.map((node) => ({
      node,
      reachable: node.health.up && !failedOn.includes(node) && node.admits(now),
      fresh: node.health.fit && this.#monitor.knows(node, now),
      showsOwnWrites: this.#rules.readYourWrites === 'off' || this.#ownWrites.covers(node.name, tables),
      load: node.load,
    }))
  }
}
