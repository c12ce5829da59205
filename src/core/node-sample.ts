// What a server answers when it is asked what it is and how far it has come: one question for every role, since nobody
// knows the role before the answer.

import { parseLsn } from './freshness.ts'
import type { ReplicaSample } from './freshness.ts'
import {
  HIDES_LOG,
  PRIMARY_TIMELINE,
  RECOVERING,
  SERVER,
  SYSTEM_IDENTIFIER,
  identityOf,
  textOf,
  timelineOf,
} from './identity.ts'
import type { Row } from './types.ts'

export interface NodeSample extends ReplicaSample {
  /** When its postmaster was started: two addresses with the same one are one server. */
  readonly server: string | null
  readonly systemIdentifier: string | null
  /** Of a primary; null on a standby, and where the server does not tell. */
  readonly timeline: number | null
  /** Of a primary. */
  readonly insertLsn: bigint | null
  /** Of a standby, where the role may see it (pg_monitor). */
  readonly receivedTimeline: number | null
  /** Bytes, as far as the server says them. */
  readonly walBlockSize: number
  readonly walSegmentSize: number
}

const ONLY_STANDBY = `${RECOVERING} and not ${HIDES_LOG}`

/** Rights of an ordinary role suffice. */
export const NODE_SQL = `select ${SERVER} as server, ${RECOVERING}::text as recovering,
  ${SYSTEM_IDENTIFIER} as system, ${PRIMARY_TIMELINE} as timeline,
  case when not ${RECOVERING} and not ${HIDES_LOG} then pg_catalog.pg_current_wal_insert_lsn() end::text as lsn,
  case when ${ONLY_STANDBY} then pg_catalog.pg_last_wal_receive_lsn() end::text as received,
  case when ${ONLY_STANDBY} then pg_catalog.pg_last_wal_replay_lsn() end::text as replayed,
  case when ${ONLY_STANDBY} then exists (select from pg_catalog.pg_stat_wal_receiver) end::text as receiving,
  case when ${ONLY_STANDBY} then (select to_hex(received_tli) from pg_catalog.pg_stat_wal_receiver) end as received_timeline,
  current_setting('wal_block_size') as block, pg_size_bytes(current_setting('wal_segment_size'))::text as segment`

/** `at`: when it answered. */
export function sampleOf(row: Row, at: number): NodeSample {
  const { server, systemIdentifier, standby, timeline } = identityOf(row)
  return {
    server,
    systemIdentifier,
    inRecovery: standby === true,
    timeline,
    insertLsn: lsnOf(row['lsn']),
    walReceiver: row['receiving'] === 'true',
    receiveLsn: lsnOf(row['received']),
    replayLsn: lsnOf(row['replayed']),
    receivedTimeline: timelineOf(row['received_timeline']),
    walBlockSize: sizeOf(row['block'], 8192),
    walSegmentSize: sizeOf(row['segment'], 16 * 1024 * 1024),
    at,
  }
}

export function lsnOf(value: unknown): bigint | null {
  const text = textOf(value)
  try {
    return text === null ? null : parseLsn(text)
  } catch {
    return null
  }
}

export function sizeOf(value: unknown, usual: number): number {
  const size = typeof value === 'string' ? Number(value) : NaN
  return Number.isSafeInteger(size) && size > 0 ? size : usual
}
