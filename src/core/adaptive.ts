// How `routing.strategy: 'adaptive'` chooses among the strategies: by how unlike the replicas are in pace, and by how much
// is under way. Where they are alike, turns or counting spread reads more evenly than speed does; where they are not,
// only speed helps.

/** What a strategy is called, `adaptive` itself apart. */
export type PlainStrategy = 'performance' | 'round-robin' | 'least-connections' | 'random'

export interface InUse {
  readonly strategy: PlainStrategy
  readonly because: string
}

/** The slowest is so many times slower than the fastest. Two numbers, so that it does not go to and fro between. */
const UNLIKE = 1.5
const ALIKE = 1.2
/** Reads under way on the replica that is chosen, on average. */
const BUSY = 1
const IDLE = 0.5
/** By turns a replica may have so many under way; then something holds it up, and turns would go on adding to it. */
const HELD_UP = 4
const LOOKS_EVERY_MS = 1_000
/** Speed, once it was found to matter, does for at least so long. */
const STAYS_MS = 10_000
/** The last 64 decisions or so. */
const SMOOTHING = 1 / 64

export class Adaptive {
  inUse: InUse = { strategy: 'performance', because: 'nothing is known of the replicas yet' }
  #load = 0
  /** Not before the first second has shown something. */
  #lookAt = NaN

  /** Whether `look` is due. */
  isDue(now: number): boolean {
    return now >= this.#lookAt
  }

  /** `spread`: how many times slower the slowest is than the fastest. */
  look(spread: number, now: number): void {
    const next = nextInUse(this.inUse.strategy, spread, this.#load)
    const unlike = next?.strategy === 'performance' && this.inUse.strategy !== 'performance'
    if (next !== null) this.inUse = next
    this.#lookAt = now + (unlike ? STAYS_MS : LOOKS_EVERY_MS)
  }

  /** A read went where so many were under way. */
  chose(load: number, now: number): void {
    this.#load += (load - this.#load) * SMOOTHING
    if (Number.isNaN(this.#lookAt)) this.#lookAt = now + LOOKS_EVERY_MS
    if (this.inUse.strategy !== 'round-robin' || load < HELD_UP) return
    this.inUse = { strategy: 'least-connections', because: `by turns a replica had ${load} statements under way` }
  }
}

/** What it should be, or null: between the limits it stays what it is. */
export function nextInUse(current: PlainStrategy, spread: number, load: number): InUse | null {
  if (spread >= UNLIKE) {
    return {
      strategy: 'performance',
      because: `the slowest replica takes ${spread.toFixed(1)} times as long as the fastest`,
    }
  }
  if (spread > ALIKE && current === 'performance') return null
  const underWay = `${load.toFixed(1)} statements under way`
  if (load >= BUSY) return { strategy: 'least-connections', because: `the replicas are alike, with ${underWay}` }
  if (load <= IDLE) return { strategy: 'round-robin', because: `the replicas are alike, with ${underWay}` }
  return current === 'performance'
    ? { strategy: 'least-connections', because: `the replicas are alike, with ${underWay}` }
    : null
}
