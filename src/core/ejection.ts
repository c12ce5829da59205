// Which replica is left alone for a while because it stands out against its siblings: it fails where they answer, or it
// is slow where they are not. Envoy's outlier detection, with the siblings' median in place of a deviation from
// the mean, which among two to eight servers says little. Asked about once a second; whoever asks carries it out.

import type { RecentCalls, Standing } from './standing.ts'
import type { Chance } from './types.ts'

export interface Sibling {
  readonly name: string
  readonly standing: Standing
}

/** `eject`: by `standing.eject(forMs, now)`; `return`: its time is over, by `standing.returned(now)`. */
export type Verdict<S extends Sibling> =
  | { readonly do: 'eject'; readonly sibling: S; readonly forMs: number; readonly because: string }
  | { readonly do: 'return'; readonly sibling: S; readonly because: string }

/** Below as many calls within the last minute nothing is known of a server, neither good nor bad. */
const MINIMUM_CALLS = 20
/** How much larger the share that fails must be than that of the siblings. */
const FAILS_MORE = 0.1
/** And how many standard deviations beyond what chance would make of the siblings' share. */
const DEVIATIONS = 3
/** And in how many seconds: a restart tears many statements in one, and is over. */
const FAILED_SECONDS = 3
/**
 * How many times slower than its siblings in the same zone: one that is farther away is not ill. At three times the rest
 * of a busy set had to do what the slow one still did, and the slowest reads became slower than before.
 */
const SLOWER = 5

/** Times the number of ejections; Envoy's defaults. */
const BASE_MS = 30_000
const LONGEST_MS = 300_000
/** Added at most, as a share: without it all processes would come back in the same moment. */
const JITTER = 0.2

/** What a sibling has shown of late. */
interface View<S extends Sibling> extends RecentCalls {
  readonly sibling: S
  readonly failedShare: number
  /** Compared with what its statements usually take anywhere. */
  readonly slowness: number
  /** It has been here for longer than a cold cache lasts, which must be given reads to become warm. */
  readonly warm: boolean
}

/** Of the replicas that can be reached: who is to go and who comes back, and why. A third may be away, one at least. */
export function reviewOutliers<S extends Sibling>(siblings: readonly S[], now: number, chance: Chance): Verdict<S>[] {
  const verdicts: Verdict<S>[] = siblings
    .filter(({ standing }) => standing.isDueBack(now))
    .map((sibling) => ({ do: 'return', sibling, because: 'its time is over' }))
  const present = siblings.filter(({ standing }) => !standing.isEjected(now))
  const mayGo = Math.max(1, Math.floor(siblings.length / 3)) - (siblings.length - present.length)
  let known = present.map((sibling) => viewOf(sibling, now)).filter(({ calls }) => calls >= MINIMUM_CALLS)
  for (let gone = 0; gone < mayGo; gone++) {
    const outlier = worstOf(known)
    if (outlier === null) break
    const { sibling, because } = outlier
    verdicts.push({
      do: 'eject',
      sibling,
      forMs: ejectionMs(sibling.standing.timesEjected(now) + 1, chance()),
      because,
    })
    known = known.filter((view) => view.sibling !== sibling)
  }
  return verdicts
}

/** How long for the n-th time: 30 s, 60 s … 5 min, and up to a fifth more. */
export function ejectionMs(times: number, chance: number): number {
  return Math.min(LONGEST_MS, BASE_MS * times) * (1 + JITTER * chance)
}

function viewOf<S extends Sibling>(sibling: S, now: number): View<S> {
  const { standing } = sibling
  const recent = standing.recent(now)
  const failedShare = recent.failed / Math.max(1, recent.calls)
  return { ...recent, sibling, failedShare, slowness: standing.pace.recent(now), warm: standing.ramp(now) === 1 }
}

/** The one that fails most beyond the others; if none does, the slowest beyond them; if none is, null. */
function worstOf<S extends Sibling>(views: readonly View<S>[]): { sibling: S; because: string } | null {
  const byFailures = views.toSorted((a, b) => b.failedShare - a.failedShare)
  const byPace = views.toSorted((a, b) => b.slowness - a.slowness)
  return firstBecause(byFailures, views, whyFailing) ?? firstBecause(byPace, views, whySlow)
}

function firstBecause<S extends Sibling>(
  worstFirst: readonly View<S>[],
  views: readonly View<S>[],
  why: (view: View<S>, others: readonly View<S>[]) => string | null,
): { sibling: S; because: string } | null {
  for (const view of worstFirst) {
    const because = why(
      view,
      views.filter((other) => other !== view),
    )
    if (because !== null) return { sibling: view.sibling, because }
  }
  return null
}

function whyFailing<S extends Sibling>(view: View<S>, others: readonly View<S>[]): string | null {
  const { calls, failed, failedShare, failedSeconds } = view
  // Nobody stands out alone.
  if (others.length === 0 || failedSeconds < FAILED_SECONDS) return null
  const usual = median(others.map((other) => other.failedShare))
  const byChance = calls * usual + DEVIATIONS * Math.sqrt(calls * usual * (1 - usual) + 1)
  if (failedShare - usual < FAILS_MORE || failed < byChance) return null
  return `${failed} of its ${calls} statements failed, of its siblings' ${Math.round(100 * usual)} %`
}

function whySlow<S extends Sibling>({ sibling, slowness, warm }: View<S>, others: readonly View<S>[]): string | null {
  const { zone } = sibling.standing.traits
  const near = others.filter((other) => other.sibling.standing.traits.zone === zone)
  if (near.length === 0 || !warm) return null
  const times = slowness / median(near.map((other) => other.slowness))
  return times < SLOWER ? null : `it takes ${times.toFixed(1)} times as long as its siblings`
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = (sorted.length - 1) / 2
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2
}
