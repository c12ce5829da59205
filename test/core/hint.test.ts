// What `db.onReplica()` may send to a replica: reads that somebody vouches for, and nothing of which it is known that it
// writes, locks or changes its session.

import { describe, expect, test } from 'vitest'
import { cannotTravel, mayTravel } from '../../src/core/hint.ts'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Facts, FactsReason } from '../../src/core/types.ts'
import { factsOf } from '../../src/sql/facts.ts'

describe('travels, for its caller vouches for it', () => {
  test.each([
    ['a read', 'select * from orders'],
    ['a read of nothing', ''],
    ['a plan', 'explain insert into orders values (1)'],
    ['a read that is run and explained', 'explain analyze select * from orders'],
    ['a function that nobody knows', 'select monthly_report(1)'],
    ['a function that nobody knows, of a schema', 'select * from app.monthly_report(1)'],
    ['the system catalog', 'select relname from pg_catalog.pg_class'],
    ['information_schema', 'select * from information_schema.tables'],
    ['statistics of the server', 'select * from pg_stat_activity'],
    ['what each server answers for itself', 'select pg_is_in_recovery(), current_setting($1)'],
    ['SHOW', 'show server_version'],
    ['a table of migrations', 'select * from kysely_migration'],
    ['a name in Unicode escapes', 'select * from U&"d\\0061t\\+000061"'],
  ])('%s', (_, sql) => {
    expect(mayTravel(factsOf(sql))).toBe(true)
  })

  test('a table that the catalog does not have may be a new one: the server will say', () => {
    expect(mayTravel({ ...READ_FACTS, safeOnReplica: false, because: 'temporary table' })).toBe(true)
  })
})

describe('stays, whoever vouches for it', () => {
  test.each<[string, FactsReason]>([
    ['insert into orders values (1)', 'write'],
    ['update orders set paid = true', 'write'],
    ['with gone as (delete from orders returning *) select * from gone', 'write'],
    ['explain analyze delete from orders', 'write'],
    ['copy orders from stdin', 'write'],
    ['notify orders', 'write'],
    ['create table orders (id int)', 'ddl'],
    ['vacuum', 'ddl'],
    ['select * into kept from orders', 'makes a table'],
    ['select * from orders for update', 'locks rows'],
    ['lock table orders', 'locks rows'],
    ['begin', 'transaction'],
    ['commit', 'transaction'],
    [`set search_path = 'app'`, 'session'],
    ['listen orders', 'session'],
    ['prepare one as select 1', 'session'],
    ['select * from pg_temp.kept', 'temporary table'],
    ['select 1; select 2', 'several statements'],
    ['select 1; delete from orders', 'several statements'],
    [`select 'unfinished`, 'unclear text'],
    ['call settle_accounts()', 'not recognised'],
    [`do $$ begin delete from orders; end $$`, 'not recognised'],
    [`select nextval('orders_id_seq')`, 'function stays on the primary'],
    ['select pg_advisory_lock(1)', 'function stays on the primary'],
    ['select pg_advisory_xact_lock(1)', 'function stays on the primary'],
    [`select set_config('search_path', 'app', false)`, 'function stays on the primary'],
    ['select pg_promote()', 'function stays on the primary'],
    ['select pg_notify($1, $2)', 'function stays on the primary'],
    // What stands beside it makes it no better.
    ['select pg_promote(), monthly_report(1)', 'function stays on the primary'],
    ['select pg_terminate_backend(pid) from pg_stat_activity', 'system catalog'],
    ['select pg_advisory_lock(oid::int) from pg_class', 'system catalog'],
    ['select setseed(0.5) from pg_class', 'system catalog'],
    ['select nextval($1) from kysely_migration', 'migration table'],
    ['select nextval($1) from U&"d\\0061t\\+000061"', 'unicode name'],
  ])('%s', (sql, because) => {
    const facts = factsOf(sql)
    expect(facts.because).toBe(because)
    expect(mayTravel(facts)).toBe(false)
  })

  test('a table without a log, whose rows no replica has', () => {
    expect(mayTravel({ ...READ_FACTS, safeOnReplica: false, because: 'unlogged table' })).toBe(false)
  })

  test.each<keyof Facts>(['writes', 'stateful', 'lockWaiter'])('a known function that has the fact %s', (fact) => {
    const harmless: Facts = { ...READ_FACTS, safeOnReplica: false, because: 'function stays on the primary' }
    expect(mayTravel(harmless)).toBe(true)
    expect(mayTravel({ ...harmless, [fact]: true })).toBe(false)
  })
})

test('who is refused is told what, why, and that nothing was sent; of a literal nothing is told', () => {
  const error = cannotTravel(factsOf(`update accounts set iban = 'DE02' where id = 7`))
  expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send', retryable: false })
  expect(error.message).toBe('UPDATE accounts cannot run on a replica: write.')
  expect(error.hint).toContain('Nothing was sent.')
  expect(`${error.message}${error.hint}`).not.toMatch(/DE02|7/)
})
