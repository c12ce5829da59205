// The lists of functions say one thing about each name, and nothing dangerous is among the reads.

import { describe, expect, test } from 'vitest'
import {
  AGGREGATES,
  CALLED_BY_DOT,
  effectOf,
  HARMLESS_VOLATILE_FUNCTIONS,
  READ_FUNCTIONS,
  STAYING_FUNCTIONS,
  UNKNOWN_EFFECT,
} from '../../src/sql/functions.ts'

test('no name stands in two lists', () => {
  for (const name of STAYING_FUNCTIONS.keys()) {
    expect(READ_FUNCTIONS.has(name) || HARMLESS_VOLATILE_FUNCTIONS.has(name), name).toBe(false)
  }
  for (const name of HARMLESS_VOLATILE_FUNCTIONS) expect(READ_FUNCTIONS.has(name), name).toBe(false)
  for (const name of CALLED_BY_DOT) expect(STAYING_FUNCTIONS.has(name), name).toBe(true)
  for (const name of AGGREGATES) expect(READ_FUNCTIONS.has(name), name).toBe(true)
})

test('a function of a schema of one’s own is unknown, whatever it is called', () => {
  expect(effectOf('lower').anywhere).toBe(true)
  expect(effectOf('pg_catalog.lower').anywhere).toBe(true)
  expect(effectOf('app.lower')).toBe(UNKNOWN_EFFECT)
  expect(effectOf('LOWER')).toBe(UNKNOWN_EFFECT)
  expect(effectOf('')).toBe(UNKNOWN_EFFECT)
  expect(effectOf('constructor')).toBe(UNKNOWN_EFFECT)
  expect(effectOf('__proto__')).toBe(UNKNOWN_EFFECT)
})

describe('never on a replica', () => {
  test.each([
    ...['nextval', 'setval', 'currval', 'lastval', 'txid_current', 'pg_current_xact_id', 'pg_notify'],
    ...['pg_advisory_lock', 'pg_advisory_xact_lock', 'pg_try_advisory_lock', 'pg_advisory_unlock_all'],
    ...['pg_create_logical_replication_slot', 'pg_create_physical_replication_slot', 'pg_drop_replication_slot'],
    ...['pg_reload_conf', 'pg_rotate_logfile', 'pg_stat_reset', 'pg_stat_reset_shared', 'pg_wal_replay_pause'],
    ...['pg_wal_replay_resume', 'pg_promote', 'pg_terminate_backend', 'pg_cancel_backend', 'pg_export_snapshot'],
    ...['setseed', 'set_config', 'pg_stat_get_live_tuples', 'pg_backend_pid', 'inet_server_addr'],
    ...['pg_is_in_recovery', 'pg_walfile_name', 'lo_create', 'lo_get', 'query_to_xml', 'cursor_to_xml', 'ts_stat'],
    ...['ts_rewrite', 'dblink', 'dblink_exec', 'pg_read_file', 'pg_ls_dir', 'currtid2', 'has_table_privilege'],
  ])('%s', (name) => {
    expect(effectOf(name).anywhere).toBe(false)
  })
})
