// How the calls of the last seconds went: how many, how many failed, how many were slow. Ten buckets that forget
// themselves one after the other (Hystrix' rolling window), with the sums kept, so that counting costs nothing.

const BUCKETS = 10

export class CallWindow {
  calls = 0
  failed = 0
  slow = 0
  readonly #bucketMs: number
  readonly #counts = new Float64Array(BUCKETS * 3)
  /** Buckets since the beginning of time. */
  #bucket = 0
  #bucketEnd: number

  constructor(windowMs: number) {
    this.#bucketMs = windowMs / BUCKETS
    this.#bucketEnd = this.#bucketMs
  }

  count(now: number, failed: boolean, slow: boolean): void {
    if (now >= this.#bucketEnd) this.turnTo(now)
    const at = (this.#bucket % BUCKETS) * 3
    this.#counts[at]! += 1
    this.calls += 1
    if (failed) {
      this.#counts[at + 1]! += 1
      this.failed += 1
    }
    if (slow) {
      this.#counts[at + 2]! += 1
      this.slow += 1
    }
  }

  /** Forgets what has gone out of the window by now. */
  turnTo(now: number): void {
    const bucket = Math.floor(now / this.#bucketMs)
    const gone = Math.min(BUCKETS, bucket - this.#bucket)
    for (let i = 1; i <= gone; i++) this.#forget(((this.#bucket + i) % BUCKETS) * 3)
    if (gone <= 0) return
    this.#bucket = bucket
    this.#bucketEnd = (bucket + 1) * this.#bucketMs
  }

  clear(): void {
    this.#counts.fill(0)
    this.calls = 0
    this.failed = 0
    this.slow = 0
  }

  #forget(at: number): void {
    this.calls -= this.#counts[at]!
    this.failed -= this.#counts[at + 1]!
    this.slow -= this.#counts[at + 2]!
    this.#counts.fill(0, at, at + 3)
  }
}
