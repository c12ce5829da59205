// Which replica takes a read. The caller has sorted out who may: reachable, fresh enough, with the tags that were asked
// for, with every write that the read must see. Here it is decided who should. First who comes into question: not ejected,
// healthy, of the best priority, of this zone. Then by a strategy. Decided for every read, so nothing is made on the way.

import { Adaptive } from './adaptive.ts'
import type { InUse, PlainStrategy } from './adaptive.ts'
import type { Standing, Traits } from './standing.ts'
import type { Chance } from './types.ts'

export type BalanceStrategy = PlainStrategy | 'adaptive'

export interface BalanceRules {
  readonly strategy: BalanceStrategy
  /** Where this process runs. */
  readonly zone: string | undefined
  /** Health scores below it get no reads. */
  readonly healthThreshold: number
}

export interface Replica {
  readonly name: string
  readonly standing: Standing
  /** Statements running and waiting there. */
  readonly load: number
}

/** Where none is healthy all take part that are at most so far below the best, so that it is not drowned. */
const NEARLY_BEST = 10
/** The second of two must be better by so much: else chance and the weights decide, and not a hair's breadth. */
const CLEARLY = 1.25

export class Balancer {
  readonly #rules: BalanceRules
  readonly #chance: Chance
  readonly #adaptive: Adaptive | null
  readonly #configured: InUse
  /** The places, among the candidates, of those who come into question; and of these: */
  #places = new Uint32Array(16)
  /** the sum of their weights, */
  #weights = 0
  /** whether all weigh the same, */
  #even = true
  /** and whether any has returned a moment ago. */
  #ramping = false

  constructor(rules: BalanceRules, chance: Chance) {
    this.#rules = rules
    this.#chance = chance
    this.#adaptive = rules.strategy === 'adaptive' ? new Adaptive() : null
    const strategy = rules.strategy === 'adaptive' ? 'performance' : rules.strategy
    this.#configured = { strategy, because: 'it is configured' }
  }

  /** The strategy that reads are spread by now, and because of what. */
  get using(): InUse {
    return this.#adaptive?.inUse ?? this.#configured
  }

  /** Of the first `count` candidates the one that takes the read; null when there is none. */
  choose<R extends Replica>(candidates: readonly R[], count: number, now: number): R | null {
    if (count === 0) return null
    if (count > this.#places.length) this.#places = new Uint32Array(2 * count)
    let left = this.#gather(candidates, count, now, null)
    if (left === 0) left = this.#gather(candidates, count, now, bestHealth(candidates, count, now) - NEARLY_BEST)
    left = this.#rampIn(candidates, left, now)
    const chosen = this.#byStrategy(candidates, left, now)
    this.#adaptive?.chose(chosen.load, now)
    return chosen
  }

  /**
   * Notes the places of the first in rank among those who may; returns how many there are. `least`: where none is
   * healthy, the health that does.
   */
  #gather(candidates: readonly Replica[], count: number, now: number, least: number | null): number {
    const { healthThreshold } = this.#rules
    let rank = Infinity
    let left = 0
    let weightOfAll = 0
    for (let i = 0; i < count; i++) {
      const { standing } = candidates[i]!
      const may =
        least === null
          ? !standing.isEjected(now) && standing.isHealthy(healthThreshold, now)
          : healthInNeed(standing, now) >= least
      if (!may) continue
      const own = this.#rankOf(standing.traits)
      if (own > rank) continue
      const { weight } = standing.traits
      if (own < rank) {
        rank = own
        left = 0
        weightOfAll = weight
        this.#begin()
      }
      this.#places[left++] = i
      this.#weights += weight
      this.#even &&= weight === weightOfAll
      this.#ramping ||= standing.ramp(now) < 1
    }
    return left
  }

  #begin(): void {
    this.#weights = 0
    this.#even = true
    this.#ramping = false
  }

  /** Lower comes first: the priority, and within it this zone. */
  #rankOf({ priority, zone }: Traits): number {
    return this.#rules.zone === undefined || zone === this.#rules.zone ? 2 * priority : 2 * priority + 1
  }

  /**
   * Leaves out now and then who has returned a moment ago, compared with the longest back: that one always stays, so
   * that somebody takes the read, and where all have just come nobody is left out.
   */
  #rampIn(candidates: readonly Replica[], count: number, now: number): number {
    if (!this.#ramping) return count
    let most = 0
    for (let i = 0; i < count; i++) most = Math.max(most, this.#at(candidates, i).standing.ramp(now))
    let left = 0
    for (let i = 0; i < count; i++) {
      const { standing } = this.#at(candidates, i)
      const ramp = standing.ramp(now)
      if (ramp < most && this.#chance() * most >= ramp) this.#weights -= standing.traits.weight
      else this.#places[left++] = this.#places[i]!
    }
    return left
  }

  #byStrategy<R extends Replica>(candidates: readonly R[], count: number, now: number): R {
    if (count === 1) return this.#at(candidates, 0)
    if (this.#adaptive?.isDue(now) === true) this.#adaptive.look(this.#spread(candidates, count, now), now)
    const { strategy } = this.using
    if (strategy === 'performance') return this.#betterOfTwo(candidates, count, now)
    if (strategy === 'round-robin') return this.#byTurns(candidates, count)
    if (strategy === 'least-connections') return this.#leastLoaded(candidates, count)
    return this.#at(candidates, this.#draw(candidates, count, -1))
  }

  /**
   * The power of two choices: of two that the weights have drawn, the one where a read would cost less. Knowing all and
   * taking the best would send everybody to the same one (Mitzenmacher; Finagle's P2C peak EWMA).
   */
  #betterOfTwo<R extends Replica>(candidates: readonly R[], count: number, now: number): R {
    const firstAt = this.#draw(candidates, count, -1)
    const first = this.#at(candidates, firstAt)
    const second = this.#at(candidates, this.#draw(candidates, count, firstAt))
    const weight = this.#weights / count
    return CLEARLY * costOf(second, weight, now) < costOf(first, weight, now) ? second : first
  }

  /** Weighted and smooth, as nginx does it: of 5, 1 and 1 the first is never asked five times in a row. */
  #byTurns<R extends Replica>(candidates: readonly R[], count: number): R {
    let next = this.#at(candidates, 0)
    let equals = 0
    for (let i = 0; i < count; i++) {
      const candidate = this.#at(candidates, i)
      const turn = (candidate.standing.turn += candidate.standing.traits.weight)
      if (i > 0 && turn < next.standing.turn) continue
      equals = i > 0 && turn === next.standing.turn ? equals + 1 : 1
      // Chance, or every process would begin with the same one.
      if (equals === 1 || this.#chance() * equals < 1) next = candidate
    }
    next.standing.turn -= this.#weights
    return next
  }

  /** The least under way for its weight; among equals the weights decide. */
  #leastLoaded<R extends Replica>(candidates: readonly R[], count: number): R {
    let least = this.#at(candidates, 0)
    let leastLoad = Infinity
    let weights = 0
    for (let i = 0; i < count; i++) {
      const candidate = this.#at(candidates, i)
      const { weight } = candidate.standing.traits
      const load = candidate.load / weight
      if (load > leastLoad) continue
      weights = load === leastLoad ? weights + weight : weight
      leastLoad = load
      // Each of the equals is kept with its share, without a second list.
      if (weights === weight || this.#chance() * weights < weight) least = candidate
    }
    return least
  }

  /** One of them by weight, other than the one at `except`. */
  #draw(candidates: readonly Replica[], count: number, except: number): number {
    if (this.#even) {
      const place = Math.floor(this.#chance() * (except < 0 ? count : count - 1))
      return except >= 0 && place >= except ? place + 1 : place
    }
    const without = except < 0 ? 0 : this.#weightAt(candidates, except)
    let left = this.#chance() * (this.#weights - without)
    let last = 0
    for (let i = 0; i < count; i++) {
      if (i === except) continue
      last = i
      left -= this.#weightAt(candidates, i)
      if (left < 0) break
    }
    return last
  }

  #weightAt(candidates: readonly Replica[], place: number): number {
    return this.#at(candidates, place).standing.traits.weight
  }

  /** How many times slower the slowest is than the fastest. */
  #spread(candidates: readonly Replica[], count: number, now: number): number {
    let slowest = 0
    let fastest = Infinity
    for (let i = 0; i < count; i++) {
      const felt = this.#at(candidates, i).standing.pace.felt(now)
      slowest = Math.max(slowest, felt)
      fastest = Math.min(fastest, felt)
    }
    return slowest / fastest
  }

  #at<R extends Replica>(candidates: readonly R[], place: number): R {
    return candidates[this.#places[place]!]!
  }
}

/** What a read would have to wait for: those before it, in proportion to what is this replica's share, at its pace. */
function costOf({ standing, load }: Replica, usualWeight: number, now: number): number {
  return standing.pace.felt(now) * (1 + (load * usualWeight) / standing.traits.weight)
}

function bestHealth(candidates: readonly Replica[], count: number, now: number): number {
  let best = -Infinity
  for (let i = 0; i < count; i++) best = Math.max(best, healthInNeed(candidates[i]!.standing, now))
  return best
}

/** Who was ejected comes last, and has forgotten why. */
function healthInNeed(standing: Standing, now: number): number {
  return standing.health(now) - (standing.isEjected(now) ? 1_000 : 0)
}
