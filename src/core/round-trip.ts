// Two things that are not the server's time: the way there and back, and the time for which an answer lies here
// unread because this process is busy.

/** So that it may rise from nothing. */
const STEP_MS = 0.05

/**
 * How long the way to a server and back takes at least: the minimum of the last 30 to 60 seconds. From one half minute
 * to the next it at most doubles: where nothing runs but one slow text, its time is not the network's.
 */
export class RoundTrip {
  #before = Infinity
  #recent = Infinity
  #since = -Infinity

  /** Of a handshake, a probe, or a statement that nothing stood before. */
  observe(ms: number, now: number): void {
    if (now - this.#since >= 30_000) {
      const known = Math.min(this.#recent, this.#before)
      this.#before = Math.min(this.#recent, 2 * known + STEP_MS)
      this.#recent = Infinity
      this.#since = now
    }
    if (ms < this.#recent) this.#recent = ms
  }

  /** Milliseconds; 0 while nothing is known. */
  get ms(): number {
    const ms = Math.min(this.#recent, this.#before)
    return ms === Infinity ? 0 : ms
  }
}

/**
 * For how long an answer may have lain unread because this process was busy. A round of the event loop reads what had
 * arrived when it began; what arrives meanwhile is read in the next. (A busy client took every server for late: it
 * closed all its lanes, and sent reads twice when it had least time for them.)
 */
export class Rounds {
  #began = 0
  #lastMs = 0
  #running = false

  /** Something happens; true when it is the first in its round: then `end` is due as soon as the loop has come round. */
  begin(now: number): boolean {
    if (this.#running) return false
    this.#running = true
    this.#began = now
    return true
  }

  end(now: number): void {
    this.#running = false
    this.#lastMs = now - this.#began
  }

  /** At most, milliseconds. */
  unreadMs(now: number): number {
    return this.#lastMs + (this.#running ? now - this.#began : 0)
  }
}
