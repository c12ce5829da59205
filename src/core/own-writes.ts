// Read-your-writes: which replicas show what this process has written. Writes are only counted, per table where the
// table is known to stand for itself; now and then the primary is asked how far its log is, and whatever was
// counted before the question lies below the answer.

interface Sample {
  readonly lsn: bigint
  /** Writes that had finished when the primary was asked. */
  readonly upTo: number
}

interface Replica {
  readonly replayed: bigint
  /** Of our writes the first so many are visible there. */
  readonly shows: number
}

/** More samples than a replica lags behind in practice; when they are full every other one goes. */
const SAMPLES_KEPT = 64

export class OwnWrites {
  #finished = 0
  /** The newest write to a table that is not known, or that may have touched others. */
  #everything = 0
  /** The newest write to each table that is. */
  readonly #tables = new Map<string, number>()
  /** Ascending in both. */
  #samples: Sample[] = []
  readonly #replicas = new Map<string, Replica>()

  /** How many writes have finished. Take it before the primary is asked, and hand it to `sampled`. */
  get finished(): number {
    return this.#finished
  }

  /** A write to these tables has finished, or may have: also one whose answer was lost. null: to whatever tables. */
  wrote(tables: readonly string[] | null): void {
    this.#finished += 1
    if (tables === null) this.#everything = this.#finished
    else for (const table of tables) this.#tables.set(table, this.#finished)
  }

  /** The primary's insert position, asked for when `upTo` writes had finished. */
  sampled(lsn: bigint, upTo: number): void {
    const newest = this.#samples.at(-1)
    // Of two samples that know as many writes the lower is the sharper; one that comes late knows nothing new.
    if (newest !== undefined && (upTo < newest.upTo || (upTo === newest.upTo && lsn >= newest.lsn))) return
    if (newest?.upTo === upTo) this.#samples.pop()
    if (this.#samples.length === SAMPLES_KEPT) this.#samples = this.#samples.filter((_, i) => i % 2 === 1)
    this.#samples.push({ lsn, upTo })
    for (const [node, { replayed }] of this.#replicas) this.replayed(node, replayed)
  }

  /**
   * How far a replica has replayed. The last word counts, even if it is lower than the one before: a standby that
   * was killed comes back behind where it was.
   */
  replayed(node: string, lsn: bigint): void {
    const known = this.#replicas.get(node)
    const sampled = this.#samples.findLast((sample) => sample.lsn <= lsn)?.upTo ?? 0
    const shows = known !== undefined && known.replayed <= lsn ? Math.max(known.shows, sampled) : sampled
    this.#replicas.set(node, { replayed: lsn, shows })
  }

  /** A node has gone, or its connection was lost: nothing is known of it until it is asked again. */
  drop(node: string): void {
    this.#replicas.delete(node)
  }

  /** Another primary: positions of the old timeline mean nothing on the new one. */
  newTimeline(): void {
    this.#samples = []
    this.#replicas.clear()
  }

  /** Whether a read of these tables there sees every write of ours that has finished. null: of whatever tables. */
  covers(node: string, tables: readonly string[] | null): boolean {
    return this.shows(node, this.newest(tables))
  }

  /** Whether the first `needed` writes of ours are visible there. */
  shows(node: string, needed: number): boolean {
    return needed === 0 || (this.#replicas.get(node)?.shows ?? 0) >= needed
  }

  /** Some write has finished since the primary was last asked how far it is. */
  pending(): boolean {
    return this.#finished > (this.#samples.at(-1)?.upTo ?? 0)
  }

  /** The newest write of ours that has finished and concerns a read of these tables; 0: none. null: of whatever tables. */
  newest(tables: readonly string[] | null): number {
    if (tables === null) return this.#finished
    let newest = this.#everything
    for (const table of tables) newest = Math.max(newest, this.#tables.get(table) ?? 0)
    return newest
  }
}
