// How far the log had to be when a write was committed: whoever has replayed that shows the write. A token is a position
// and the timeline it belongs to, because after a failover the same numbers mean something else. It travels between
// processes as text, in a cookie or a header.

import { ConfigError } from './errors.ts'
import { parseLsn, settleLsn } from './freshness.ts'
import { RECOVERING, timelineOf } from './identity.ts'
import { lsnOf, sizeOf } from './node-sample.ts'
import { READ_FACTS } from './statements.ts'
import type { Row, Statement } from './types.ts'

export interface WriteToken {
  readonly timeline: number
  readonly lsn: bigint
}

/** What is known of the timeline that the primary is on. */
export interface CurrentTimeline {
  /** 0: unknown. */
  readonly timeline: number
  /** The primary's position when it was first seen on it, settled (`settleLsn`); null: unknown. */
  readonly beganAt: bigint | null
}

/** `1-16-B374D848`: letters, digits and hyphens are safe in a cookie, a header and a URL. */
export function formatToken({ timeline, lsn }: WriteToken): string {
  return `${timeline}-${(lsn >> 32n).toString(16)}-${(lsn & 0xffff_ffffn).toString(16)}`.toUpperCase()
}

/** As `formatToken` writes it and no other way. Throws ConfigError. `path` says where it was handed in. */
export function parseToken(text: unknown, path = 'session(token)'): WriteToken {
  const parts = typeof text === 'string' ? WRITTEN.exec(text) : null
  const timeline = Number(parts?.[1])
  if (parts === null || timeline > LAST_TIMELINE) {
    const expected = 'what currentToken() gave, such as 1-16-B374D848'
    throw new ConfigError([{ path, received: shown(text), expected }])
  }
  return { timeline, lsn: parseLsn(`${parts[2]}/${parts[3]}`) }
}

const WRITTEN = /^([1-9]\d{0,9})-(0|[1-9A-F][\dA-F]{0,7})-(0|[1-9A-F][\dA-F]{0,7})$/
/** Ten digits, twice eight, and two hyphens. */
const LONGEST = 28
const LAST_TIMELINE = 0xffff_ffff

/** It comes from outside and may be anything, of any size. */
function shown(text: unknown): string {
  if (typeof text !== 'string') return text === null ? 'null' : typeof text
  return text.length <= LONGEST ? `'${text}'` : `text of ${text.length} characters`
}

/**
 * How far the primary's log is, and on which timeline; it rides behind a write, when that has ended. The insert position,
 * because with synchronous_commit off the written one lies before a commit that has been answered. A server that has
 * become a standby answers with nulls. It may be named, since it runs as often as writes do.
 */
export const POSITION: Statement = {
  sql: `select lsn::text as lsn, substr(pg_catalog.pg_walfile_name(lsn), 1, 8) as timeline,
  current_setting('wal_block_size') as block, pg_size_bytes(current_setting('wal_segment_size'))::text as segment
  from (select case when not ${RECOVERING} then pg_catalog.pg_current_wal_insert_lsn() end as lsn) as here`,
  parameters: [],
  facts: { ...READ_FACTS, safeOnReplica: false, preparable: true },
}

/** From the answer to `POSITION`; null when the server is no primary, or does not tell. */
export function positionOf(row: Row): WriteToken | null {
  const timeline = timelineOf(row['timeline'])
  const lsn = lsnOf(row['lsn'])
  if (timeline === null || lsn === null) return null
  return { timeline, lsn: settleLsn(lsn, sizeOf(row['block'], 8192), sizeOf(row['segment'], 16 * 1024 * 1024)) }
}

/** The one that asks for more. */
export function newerToken(one: WriteToken, other: WriteToken): WriteToken {
  if (one.timeline !== other.timeline) return one.timeline > other.timeline ? one : other
  return one.lsn >= other.lsn ? one : other
}

/**
 * Whether a replica of the current timeline that has replayed up to `replayLsn` shows the write. What an older timeline
 * has left behind lies before the position at which the current one was first seen: whoever has replayed that shows it,
 * or nobody ever will. Of a newer timeline somebody has told who has seen a failover that we have not: nobody here can
 * know.
 */
export function satisfied(token: WriteToken, replayLsn: bigint | null, current: CurrentTimeline): boolean {
  if (replayLsn === null || token.timeline > current.timeline) return false
  if (token.timeline === current.timeline) return replayLsn >= token.lsn
  return current.beganAt !== null && replayLsn >= current.beganAt
}
