// Who is the primary. Nobody is appointed here: whoever promotes a standby does it on the server, and this is how it is
// found out, by what the nodes have answered. A promotion begins a new timeline, so of two servers that accept writes
// the one with the higher timeline is right, and the other is a primary that nobody has told.

import type { NodeSample } from './node-sample.ts'

export interface NodeView {
  readonly name: string
  /** It answered when it was asked last. */
  readonly reachable: boolean
  /** What it answered last; null: it never has. */
  readonly sample: NodeSample | null
}

/** What is known of the cluster from before. */
export interface Known {
  /** The primary's; 0 before any is known. */
  readonly timeline: number
  readonly systemIdentifier: string | null
}

/** Why the one that was primary is none, or may not be. */
type Loss = 'in recovery' | 'of another cluster' | 'on an old timeline' | 'unreachable'

export type ElectionReason =
  | 'answers'
  | 'split brain: another server of the same timeline accepts writes'
  | 'unreachable, and no other is primary'
  | 'found'
  | 'the primary is in recovery'
  | 'the primary is of another cluster'
  | 'higher timeline'
  | 'the primary is unreachable'
  | 'in recovery, and no other is primary'
  | 'of another cluster, and no other is primary'
  | 'on an old timeline, and no other is primary'
  | 'no server accepts writes'

export type RefusalReason = 'another cluster' | 'old timeline' | 'second primary'

export interface Election {
  /** Its name; null: nobody is. */
  readonly primary: string | null
  readonly is: 'same' | 'other' | 'none'
  readonly because: ElectionReason
  /** Of the primary, or what was known before; never lower than that. null: nobody has told any. */
  readonly timeline: number | null
  /** A promotion has happened since: positions in the log from before mean nothing any more. */
  readonly timelineMoved: boolean
  /** Of the cluster; null while nobody has told it. */
  readonly systemIdentifier: string | null
  /** Nodes that nothing may be sent to, and why. */
  readonly refused: ReadonlyMap<string, RefusalReason>
}

/** A node that answers and accepts writes. */
interface Writable {
  readonly name: string
  readonly sample: NodeSample
}

/** `current` is the one that was primary until now, null when none was. The order of `nodes` is no matter. */
export function elect(nodes: readonly NodeView[], current: string | null, known: Known): Election {
  const before = nodes.find(({ name }) => name === current) ?? null
  const cluster = clusterOf(nodes, before, known)
  const ours = nodes.filter((node) => !isStranger(node, cluster))
  const newest = newestTimeline(ours, known)
  const isOld = ({ sample: { timeline } }: Writable): boolean => timeline !== null && timeline < newest
  const writable = ours.filter(acceptsWrites)
  const candidates = writable.filter((one) => !isOld(one))
  const chosen = choose(candidates, current, known)
  const refused = new Map<string, RefusalReason>()
  for (const node of nodes) if (isStranger(node, cluster)) refused.set(node.name, 'another cluster')
  for (const one of writable) {
    if (isOld(one)) refused.set(one.name, 'old timeline')
    else if (chosen !== null && areTwo(one, chosen)) refused.set(one.name, 'second primary')
  }
  const timeline = Math.max(known.timeline, chosen?.sample.timeline ?? 0)
  return {
    ...outcome(chosen, before, refused),
    timeline: timeline === 0 ? null : timeline,
    timelineMoved: known.timeline > 0 && timeline > known.timeline,
    systemIdentifier: cluster,
    refused,
  }
}

/** Whose cluster this is: as known, else that of the primary until now, else of the first that accepts writes. */
function clusterOf(nodes: readonly NodeView[], before: NodeView | null, known: Known): string | null {
  const cluster = known.systemIdentifier ?? systemOf(before)
  if (cluster !== null) return cluster
  const telling = nodes.filter(acceptsWrites).filter(({ sample }) => sample.systemIdentifier !== null)
  return first(telling)?.sample.systemIdentifier ?? null
}

function systemOf(node: NodeView | null): string | null {
  return node?.sample?.systemIdentifier ?? null
}

/** A server that does not tell whose it is may be ours. */
function isStranger(node: NodeView, cluster: string | null): boolean {
  const own = systemOf(node)
  return own !== null && cluster !== null && own !== cluster
}

function acceptsWrites(node: NodeView): node is NodeView & Writable {
  return node.reachable && node.sample !== null && !node.sample.inRecovery
}

/** A standby that follows a newer one has heard of a primary that cannot be seen from here; and what was once is. */
function newestTimeline(ours: readonly NodeView[], { timeline: known }: Known): number {
  let newest = known
  for (const { sample } of ours) newest = Math.max(newest, sample?.timeline ?? 0, sample?.receivedTimeline ?? 0)
  return newest
}

/** All of them are on the newest timeline, or do not tell theirs. */
function choose(candidates: readonly Writable[], current: string | null, known: Known): Writable | null {
  const best = first(candidates)
  const stays = candidates.find(({ name }) => name === current) ?? null
  if (stays === null || best === null || stays.sample.timeline !== null) return stays ?? best
  // It does not tell, or no longer: it is on the timeline that is known, unless none is.
  return known.timeline > 0 && (best.sample.timeline ?? 0) > known.timeline ? best : stays
}

/** The highest timeline, and of equals the first by name, so that all processes take the same one. */
function first(candidates: readonly Writable[]): Writable | null {
  return candidates.reduce<Writable | null>((best, one) => (best === null || comesFirst(one, best) ? one : best), null)
}

/** One that does not tell its timeline comes last. */
function comesFirst(one: Writable, other: Writable): boolean {
  const ahead = (one.sample.timeline ?? 0) - (other.sample.timeline ?? 0)
  return ahead === 0 ? one.name < other.name : ahead > 0
}

/** Two servers, and not two addresses of one. */
function areTwo({ sample: { server: one } }: Writable, { sample: { server: other } }: Writable): boolean {
  return one !== null && other !== null && one !== other
}

function outcome(
  chosen: Writable | null,
  before: NodeView | null,
  refused: ReadonlyMap<string, RefusalReason>,
): Pick<Election, 'primary' | 'is' | 'because'> {
  if (chosen !== null && chosen.name === before?.name) {
    const split = [...refused.values()].includes('second primary')
    return { primary: chosen.name, is: 'same', because: split ? SPLIT_BRAIN : 'answers' }
  }
  const loss = before === null ? null : lossOf(before, refused.get(before.name))
  if (chosen !== null) return { primary: chosen.name, is: 'other', because: loss === null ? 'found' : INSTEAD[loss] }
  if (before === null || loss === null) return { primary: null, is: 'none', because: 'no server accepts writes' }
  const because = `${loss}, and no other is primary` as const
  // Unreachable from here need not be gone: whoever is sent there sees for himself.
  return because === 'unreachable, and no other is primary'
    ? { primary: before.name, is: 'same', because }
    : { primary: null, is: 'none', because }
}

const SPLIT_BRAIN = 'split brain: another server of the same timeline accepts writes'

const INSTEAD = {
  'in recovery': 'the primary is in recovery',
  'of another cluster': 'the primary is of another cluster',
  'on an old timeline': 'higher timeline',
  unreachable: 'the primary is unreachable',
} as const satisfies Record<Loss, ElectionReason>

function lossOf({ reachable, sample }: NodeView, refusal: RefusalReason | undefined): Loss {
  if (refusal === 'another cluster') return 'of another cluster'
  if (!reachable || sample === null) return 'unreachable'
  return sample.inRecovery ? 'in recovery' : 'on an old timeline'
}
