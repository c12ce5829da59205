// Callers waiting for a connection, first come first served. A doubly linked list, because a waiter who
// gives up leaves from the middle, ten thousand of them at once if need be.

export interface Waiter<T> {
  readonly since: number
  readonly deadline: number
  resolve(value: T, now: number): void
  reject(error: unknown): void
}

interface Place<T, W extends Waiter<T>> {
  readonly waiter: W
  before: Place<T, W> | null
  after: Place<T, W> | null
  left: boolean
}

/** Where a waiter stands; hand it back to leave. */
export type Ticket<T, W extends Waiter<T> = Waiter<T>> = Place<T, W>

export class WaitQueue<T, W extends Waiter<T> = Waiter<T>> {
  #first: Place<T, W> | null = null
  #last: Place<T, W> | null = null
  #length = 0

  get length(): number {
    return this.#length
  }

  /** The one who has waited longest, still in the queue. */
  get head(): W | null {
    return this.#first?.waiter ?? null
  }

  join(waiter: W): Ticket<T, W> {
    const place: Place<T, W> = { waiter, before: this.#last, after: null, left: false }
    if (this.#last === null) this.#first = place
    else this.#last.after = place
    this.#last = place
    this.#length++
    return place
  }

  /** The one who has waited longest, now out of the queue. */
  next(): W | null {
    const place = this.#first
    if (place === null) return null
    this.leave(place)
    return place.waiter
  }

  /** Whether it still stood in the queue. */
  leave(place: Ticket<T, W>): boolean {
    if (place.left) return false
    place.left = true
    if (place.before === null) this.#first = place.after
    else place.before.after = place.after
    if (place.after === null) this.#last = place.before
    else place.after.before = place.before
    this.#length--
    return true
  }

  /** At most `limit` of those whose deadline has come, now out of the queue. */
  expired(now: number, limit: number): W[] {
    const gone: W[] = []
    for (let place = this.#first; place !== null && gone.length < limit;) {
      const after = place.after
      if (place.waiter.deadline <= now) {
        this.leave(place)
        gone.push(place.waiter)
      }
      place = after
    }
    return gone
  }

  /** The earliest deadline of all who wait, or Infinity. */
  earliestDeadline(): number {
    let earliest = Infinity
    for (let place = this.#first; place !== null; place = place.after) {
      earliest = Math.min(earliest, place.waiter.deadline)
    }
    return earliest
  }
}
