// How far a replica is behind, and whether it shows what this process wrote. Everything is measured in positions of
// the write-ahead log (LSN), because clocks lie here: an idle primary looks seconds behind, a standby that is cut
// off looks caught up. Whatever is not known counts as too old: a read that goes to the primary for nothing costs
// little, a row that is missing costs trust.

/** `'16/B374D848'` as a number. A position is 64 bits wide, too wide for a plain number. */
export function parseLsn(text: string): bigint {
  const slash = text.indexOf('/')
  const high = text.slice(0, Math.max(0, slash))
  const low = text.slice(slash + 1)
  if (!half.test(high) || !half.test(low)) throw new RangeError(`not a position in the write-ahead log: '${text}'`)
  return (BigInt(parseInt(high, 16)) << 32n) | BigInt(parseInt(low, 16))
}

const half = /^[0-9A-Fa-f]{1,8}$/

/** As PostgreSQL up to 18 prints it, without leading zeros. */
export function formatLsn(lsn: bigint): string {
  return `${(lsn >> 32n).toString(16)}/${(lsn & 0xffff_ffffn).toString(16)}`.toUpperCase()
}

/**
 * The position that a replica really reaches. An insert position can stand behind the header of a page that has
 * nothing on it yet, where an idle replica that has replayed everything never comes. Headers are 24 bytes long, 40
 * at the beginning of a segment. Both sizes as the server says (`wal_block_size`, `wal_segment_size`).
 */
export function settleLsn(lsn: bigint, walBlockSize = 8192, walSegmentSize = 16 * 1024 * 1024): bigint {
  if (lsn % BigInt(walSegmentSize) === 40n) return lsn - 40n
  return lsn % BigInt(walBlockSize) === 24n ? lsn - 24n : lsn
}

// A quarter of an hour at one sample a second: longer than any lag that someone would accept.
const samplesKept = 900

/** Where the primary's log stood when, as far as it was asked: one entry for each position, with its first time. */
export class PrimaryHistory {
  readonly #lsns: bigint[] = []
  readonly #times: number[] = []
  readonly #size: number
  /** Where the oldest sample lies, once the ring is full. */
  #oldest = 0
  #seenAt = Number.NEGATIVE_INFINITY

  constructor(size = samplesKept) {
    this.#size = size
  }

  /** The newest position known; null before the first sample. */
  get latest(): bigint | null {
    return this.#lsns.length === 0 ? null : this.#lsns[this.#slot(this.#lsns.length - 1)]!
  }

  /** The newest position, if it was still that at `since` or later; else null. */
  lastSeen(since: number): bigint | null {
    return this.#seenAt >= since ? this.latest : null
  }

  /** A sample. One that goes back comes from another timeline, and what was known is worth nothing. */
  add(lsn: bigint, now: number): void {
    const { latest } = this
    this.#seenAt = now
    if (latest === lsn) return
    if (latest !== null && lsn < latest) this.#forget()
    if (this.#lsns.length < this.#size) {
      this.#lsns.push(lsn)
      this.#times.push(now)
    } else {
      this.#lsns[this.#oldest] = lsn
      this.#times[this.#oldest] = now
      this.#oldest = (this.#oldest + 1) % this.#size
    }
  }

  /** When a position beyond this one was first seen; null if there is none. */
  firstSeenBeyond(lsn: bigint): number | null {
    let from = 0
    let to = this.#lsns.length
    while (from < to) {
      const middle = (from + to) >> 1
      if (this.#lsns[this.#slot(middle)]! > lsn) to = middle
      else from = middle + 1
    }
    return from === this.#lsns.length ? null : this.#times[this.#slot(from)]!
  }

  #slot(index: number): number {
    return (this.#oldest + index) % this.#lsns.length
  }

  #forget(): void {
    this.#lsns.length = 0
    this.#times.length = 0
    this.#oldest = 0
  }
}

/** How far behind; null where it cannot be known. */
export interface Lag {
  readonly bytes: number | null
  readonly ms: number | null
}

/**
 * How far a replica that has replayed up to `replayLsn` is behind what was seen of the primary. The time is the age
 * of the first sample that it has not replayed: right on an idle primary, and needs no writes.
 */
export function lagOf(replayLsn: bigint | null, history: PrimaryHistory, now: number): Lag {
  const { latest } = history
  if (replayLsn === null || latest === null) return { bytes: null, ms: null }
  const since = history.firstSeenBeyond(replayLsn)
  return {
    bytes: latest > replayLsn ? Number(latest - replayLsn) : 0,
    ms: since === null ? 0 : Math.max(0, now - since),
  }
}

/** What a replica answered when it was asked. */
export interface ReplicaSample {
  readonly inRecovery: boolean
  /** There is a row in pg_stat_wal_receiver: it is connected to someone. */
  readonly walReceiver: boolean
  readonly receiveLsn: bigint | null
  readonly replayLsn: bigint | null
  /** The timeline that it receives, where it says so. */
  readonly receivedTimeline?: number | null
  readonly at: number
}

export interface LagLimits {
  readonly maxLagMs: number
  readonly maxLagBytes: number
}

/** A caught-up replica may stand this far behind: in front of the header of a page that nothing was written to yet. */
const PAGE_HEADER = 40

export type StaleReason =
  | 'not in recovery'
  | 'no WAL receiver'
  | 'another timeline'
  | 'position unknown'
  | 'received less than replayed'
  | 'primary position unknown'
  | 'ahead of the primary'
  | 'too many bytes behind'
  | 'too long behind'

export type Freshness =
  | { readonly fresh: true; readonly lag: Lag }
  | { readonly fresh: false; readonly because: StaleReason; readonly lag: Lag }

/**
 * Whether a replica may be read from. `primaryLsn` must have been sampled after the replica was; null if the primary
 * did not answer. Then nothing newer than its last answer can be missing that is older than that answer, so for
 * `maxLagMs` after it a replica goes on serving, with a WAL receiver or without. `timeline` is the primary's; null where
 * it is not known.
 */
export function judgeReplica(
  sample: ReplicaSample,
  primaryLsn: bigint | null,
  limits: LagLimits,
  history: PrimaryHistory,
  now: number,
  timeline: number | null = null,
): Freshness {
  const lag = lagBehind(sample.replayLsn, primaryLsn, history, now)
  const lastKnown = primaryLsn === null ? history.lastSeen(now - limits.maxLagMs) : null
  const because =
    lastKnown === null || sample.replayLsn === null
      ? staleBecause(sample, primaryLsn, limits, lag, timeline)
      : staleBecause({ ...sample, walReceiver: true }, larger(lastKnown, sample.replayLsn), limits, lag, timeline)
  return because === null ? { fresh: true, lag } : { fresh: false, because, lag }
}

function larger(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}

function lagBehind(replayLsn: bigint | null, primaryLsn: bigint | null, history: PrimaryHistory, now: number): Lag {
  const lag = lagOf(replayLsn, history, now)
  if (replayLsn === null || primaryLsn === null) return lag
  return { bytes: Math.max(0, Number(primaryLsn - replayLsn)), ms: lag.ms }
}

// The order is that of what is worst: a server that is not a standby at all needs no other reason.
function staleBecause(
  { inRecovery, walReceiver, receiveLsn, replayLsn, receivedTimeline = null }: ReplicaSample,
  primaryLsn: bigint | null,
  limits: LagLimits,
  lag: Lag,
  timeline: number | null,
): StaleReason | null {
  if (!inRecovery) return 'not in recovery'
  // Cut off: it has replayed all it has received, and would look caught up.
  if (!walReceiver) return 'no WAL receiver'
  // It follows a primary that was, or one that is not ours: its positions mean something else.
  if (receivedTimeline !== null && timeline !== null && receivedTimeline !== timeline) return 'another timeline'
  if (receiveLsn === null || replayLsn === null) return 'position unknown'
  if (primaryLsn === null || lag.ms === null || lag.bytes === null) return 'primary position unknown'
  // On the timeline of a primary that is gone.
  if (replayLsn > primaryLsn) return 'ahead of the primary'
  // After a restart the receive position stands at the start of its segment until the primary has something to say.
  if (receiveLsn < replayLsn && lag.bytes > PAGE_HEADER) return 'received less than replayed'
  if (lag.bytes > limits.maxLagBytes) return 'too many bytes behind'
  return lag.ms > limits.maxLagMs ? 'too long behind' : null
}
