// Whoever wants to leave something to the next caller may try. After each trick all connections of the pool are taken
// at the same moment, and each must look like one that nobody has used: the same settings and roles, no lock, no
// channel, no cursor, no prepared statement, nothing temporary, no transaction. The names of the tricks say what is
// tried; what none of them may do is asked of the server in session-fingerprint.ts.

import { CompiledQuery, Kysely, sql } from 'kysely'
import { Client } from 'pg'
import { Registry } from 'prom-client'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test, vi } from 'vitest'
import { SmartPgDialect } from '../../src/index.ts'
import type { HookConnection, SmartPgOptions } from '../../src/index.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { metric, open } from './dialects.ts'
import { fingerprints, ofAll } from './session-fingerprint.ts'

interface Tables {
  harvest: { n: number; text: string | null }
}
type Db = Kysely<Tables>

/** What a trick finds there. None of it is noticed by who does not ask for it. */
const GROUND = `
  create table harvest (n int, text text);
  create table tricked (n serial, text text);
  create function stain(value text default 'stained') returns text language sql as
    $$ select set_config('app.tenant', value, false) $$;
  create function stain_settings() returns text language plpgsql as
    $$ begin set work_mem = '77MB'; set search_path = nowhere; return 'done'; end $$;
  create function stain_at_planning() returns text immutable language plpgsql as
    $$ begin perform set_config('app.tenant', 'planned', false); return 'done'; end $$;
  create function stain_rows() returns setof int language plpgsql as
    $$ begin perform set_config('app.tenant', 'rows', false); return query select 1; end $$;
  create function listen_quietly() returns void language plpgsql as $$ begin execute 'listen news'; end $$;
  create function lock_quietly() returns void language plpgsql as $$ begin perform pg_advisory_lock(7); end $$;
  create function make_quietly() returns void language plpgsql as
    $$ begin create temp table if not exists made_quietly (n int); end $$;
  create procedure stain_by_call() language plpgsql as
    $$ begin perform set_config('app.tenant', 'called', false); commit; set work_mem = '77MB'; end $$;
  create function stain_step(state text, value text) returns text language sql as
    $$ select set_config('app.tenant', value, false) $$;
  create aggregate stain_all (text) (sfunc = stain_step, stype = text);
  create schema other;
  create function other.lower(value text) returns text language sql as
    $$ select set_config('app.tenant', value, false) $$;`
const run = (db: Db, text: string): Promise<unknown> => sql.raw(text).execute(db)

type Trick = (db: Db, outside: Client) => Promise<unknown>

/** One statement of its own; the second time it has a name. */
const alone =
  (text: string): Trick =>
  async (db) => {
    for (let n = 0; n < 2; n++) await run(db, text)
  }

/** Statements of one caller of `db.connection()`, who takes no notice of what fails. */
const onConnection =
  (...texts: string[]): Trick =>
  (db) =>
    db.connection().execute(async (one) => {
      for (const text of texts) await run(one, text).catch(() => undefined)
    })

/** Statements in a transaction of Kysely's, whatever becomes of it. */
const inTransaction =
  (...texts: string[]): Trick =>
  async (db) => {
    await db
      .transaction()
      .execute(async (trx) => {
        for (const text of texts) await run(trx, text)
      })
      .catch(() => undefined)
  }

const failing =
  (text: string): Trick =>
  (db) =>
    expect(run(db, text)).rejects.toThrow()

/** Leaves in the middle: the server is at work when the signal aborts. */
const aborted =
  (text: string, inflightQueryAbortStrategy: 'cancel query' | 'kill session' | 'ignore query'): Trick =>
  async (db, outside) => {
    const abort = new AbortController()
    const options = { signal: abort.signal, inflightQueryAbortStrategy }
    const left = expect(db.executeQuery(sql.raw(text).compile(db), options)).rejects.toThrow('gone')
    const active = `select pid from pg_stat_activity where query = $1 and state = 'active' and wait_event = 'PgSleep'`
    await expect.poll(() => outside.query(active, [text]), { interval: 2 }).toMatchObject({ rowCount: 1 })
    abort.abort(new Error('gone'))
    await left
  }

const settings: Record<string, Trick> = {
  SET: onConnection("set work_mem = '77MB'", 'set search_path = nowhere', "set statement_timeout = '1h'"),
  'SET, without db.connection()': alone("set work_mem = '77MB'"),
  'SET of a timeout so short that nothing else ends in time': onConnection('set statement_timeout = 1'),
  'SET of timeouts that end the session by themselves': onConnection(
    "set idle_session_timeout = '5ms'",
    "set idle_in_transaction_session_timeout = '5ms'",
    "set transaction_timeout = '5ms'",
  ),
  'SET LOCAL outside of a transaction': alone("set local work_mem = '77MB'"),
  'SET of a setting whose name begins with local.': alone("set local.tenant = 'a'"),
  'SET of a setting that is called "set"': alone("set app.tenant to 'set'"),
  'SET SESSION': alone("set session work_mem = '77MB'"),
  'SET lock_timeout': alone("set lock_timeout = '1ms'"),
  'SET client_encoding': alone("set client_encoding = 'LATIN1'"),
  'SET NAMES': alone("set names 'SQL_ASCII'"),
  'SET TIME ZONE': alone("set time zone 'Asia/Kathmandu'"),
  'SET standard_conforming_strings': alone('set standard_conforming_strings = off'),
  'SET session_replication_role': alone('set session_replication_role = replica'),
  'SET default_transaction_read_only': alone('set default_transaction_read_only = on'),
  'SET transaction_read_only': alone('set transaction_read_only = on'),
  'SET TRANSACTION': alone('set transaction isolation level serializable'),
  'SET SESSION CHARACTERISTICS': alone('set session characteristics as transaction isolation level serializable, read only'),
  'SET XML OPTION': alone('set xml option document'),
  'SET SEED': alone('set seed to 0.5'),
  'SET ROLE': alone('set role pg_read_all_data'),
  'SET ROLE, quoted': alone('set "role" to pg_read_all_data'),
  'SET SESSION AUTHORIZATION': alone('set session authorization pg_read_all_data'),
  'SET SESSION AUTHORIZATION and then SET ROLE': onConnection(
    'set session authorization pg_monitor',
    'set role pg_monitor',
  ),
  'SET SESSION AUTHORIZATION in a transaction that was rolled back': inTransaction(
    'set session authorization pg_monitor',
    'select 1/0',
  ),
  'RESET of what was set at the start': alone('reset all'),
  'RESET of one': alone('reset app.init'),
  'SET … TO DEFAULT': alone('set app.init to default'),
  'DISCARD ALL': alone('discard all'),
  'ALTER SYSTEM': alone('alter system reset work_mem'),
  'SHOW and nothing else': alone('show all'),
  LOAD: alone("load 'plpgsql'"),
  'several statements': alone("select 1; set work_mem = '77MB'; select 2"),
  'several statements of which the last fails': failing("begin; set work_mem = '77MB'; commit; select 1/0"),
  'several statements with an end of their own in between': failing(
    "set work_mem = '77MB'; commit; set search_path = nowhere; select 1/0",
  ),
} // prettier-ignore

const setConfig = `set_config('app.tenant', 'a', false)`

/** Wherever a query takes an expression. Each of them sets it, which is asked of a session of its own first. */
const anywhere = [
  `select ${setConfig}`,
  `select PG_CATALOG . "set_config" /* ( */ -- (\n ('app.tenant', 'a', false)`,
  `select "pg_catalog"."set_config"('app.tenant', 'a', false)`,
  String.raw`select U&"set\005fconfig"('app.tenant', 'a', false)`,
  `select * from ${setConfig} as a`,
  `select * from ${setConfig} with ordinality as t (a, b)`,
  `select * from rows from (${setConfig}, generate_series(1, 2)) as a`,
  `select from generate_series(1, 2) as g, lateral (select ${setConfig}) as a`,
  `select from generate_series(1, 2) as g (n) left join ${setConfig} as b on true`,
  `select from generate_series(1, 2) as g cross join lateral ${setConfig}`,
  `with set_config (a) as (select 1) select pg_catalog.${setConfig} from set_config`,
  `with a as materialized (select ${setConfig}) select * from a`,
  `with a as (insert into tricked (text) values (${setConfig}) returning text) select text from a`,
  `with recursive r (n) as (select 1 union all select n + 1 from r where n < length(${setConfig}) + 1) select * from r`,
  `values (1, ${setConfig}), (2, 'b') order by 1`,
  `select from generate_series(1, 2) where ${setConfig} = 'b'`,
  `select 1 order by ${setConfig}`,
  `select 1 limit length(${setConfig})`,
  `select 1 offset length(${setConfig})`,
  `select 1 fetch first (length(${setConfig})) rows only`,
  `select count(*) from harvest having ${setConfig} is not null`,
  `select count(*) from generate_series(1, 2) as g group by rollup (${setConfig})`,
  `select count(*) from generate_series(1, 2) as g group by grouping sets ((${setConfig}))`,
  `select distinct on (${setConfig}) 1`,
  `select 'b' union select ${setConfig}`,
  `select 'b' except all select ${setConfig}`,
  `select case when true then ${setConfig} else 'b' end`,
  `select case ${setConfig} when 'a' then 1 end`,
  `select count(*) filter (where ${setConfig} = 'a') from generate_series(1, 2)`,
  `select sum(g) over (order by ${setConfig}) from generate_series(1, 2) as g`,
  `select sum(g) over w from generate_series(1, 2) as g window w as (order by ${setConfig})`,
  `select array[${setConfig}]`,
  `select array(select ${setConfig})`,
  `select (array['b'])[length(${setConfig})]`,
  `select ((select ((${setConfig}))))`,
  `select row(${setConfig})`,
  `select 1 where exists (select ${setConfig} offset 0)`,
  `select 1 is distinct from length(${setConfig})`,
  `select 'a' in ('b', ${setConfig})`,
  `select 'a' = any (array[${setConfig}])`,
  `select 'a' between ${setConfig} and 'b'`,
  `select 'a' similar to ${setConfig}`,
  `select not (${setConfig} is null)`,
  `select ${setConfig}::varchar(3)`,
  `select cast(${setConfig} as text)`,
  `select ${setConfig} collate "C"`,
  `select coalesce(null, ${setConfig})`,
  `select nullif(${setConfig}, 'b')`,
  `select greatest(${setConfig}, 'b')`,
  `select extract(year from now() + length(${setConfig}) * interval '1 s')`,
  `select trim(both ${setConfig} from 'a')`,
  `select position(${setConfig} in 'a')`,
  `select overlay('aaa' placing ${setConfig} from 1)`,
  `select substring('aaa' from length(${setConfig}))`,
  `select now() at time zone ('UTC' || left(${setConfig}, 0))`,
  `insert into tricked (text) values ('b'), (${setConfig})`,
  `insert into tricked (text) select ${setConfig}`,
  `insert into tricked (n, text) overriding user value values (1, ${setConfig})`,
  `insert into tricked as x (text) values ('b') on conflict do nothing returning ${setConfig}`,
  `update tricked set text = ${setConfig}`,
  `update tricked set text = 'b' from ${setConfig} as a`,
  `update tricked set (n, text) = (select 1, ${setConfig})`,
  `delete from tricked where text = ${setConfig}`,
  `delete from tricked using ${setConfig} as a`,
  `explain analyze select ${setConfig}`,
  `explain (costs off, "analyze" true) select ${setConfig}`,
  `explain (analyze, costs off) with a as (select ${setConfig}) select * from a`,
  `explain analyze insert into tricked (text) values (${setConfig})`,
  `create table made as select ${setConfig} as a`,
  `create materialized view made_too as select stain() as a; set app.tenant = 'a'`,
  `select ${setConfig} as a into made_by_into`,
  `do $$ begin perform ${setConfig}; end $$`,
  `select stain('a')`,
  `select "public"."stain"('a')`,
  `select * from stain('a')`,
  `select other.lower('a')`,
  `select stain_all('a')`,
  `select stain_all('a') over ()`,
]

const calls: Record<string, Trick> = {
  'set_config in COPY TO': onConnection(`copy (select ${setConfig}) to stdout`),
  'set_config in DECLARE and FETCH': onConnection('begin', `declare c cursor for select ${setConfig}`, 'fetch c', 'commit'),
  'set_config in a cursor WITH HOLD': onConnection('begin', `declare c cursor with hold for select ${setConfig}`, 'commit'),
  'set_config in PREPARE and EXECUTE': onConnection(`prepare plan as select ${setConfig}`, 'execute plan'),
  'SET in DO': alone(`do $body$ begin set work_mem = '77MB'; end $body$ language plpgsql`),
  'set_config through the builder': (db) =>
    db.selectNoFrom((eb) => eb.fn('set_config', [eb.val('app.tenant'), eb.val('b'), eb.lit(false)]).as('s')).execute(),
  'set_config through the builder, with a schema': (db) =>
    db.selectNoFrom((eb) => eb.fn('pg_catalog.set_config', [eb.val('app.tenant'), eb.val('b'), eb.lit(false)]).as('s')).execute(),
  'set_config with parameters, in a batch': (db) =>
    db.batch([sql`select set_config(${'app.tenant'}, ${'b'}, false)`, sql`select 1`]),
  'set_config in a stream that is left in the middle': async (db) => {
    const rows = db.selectFrom(sql<{ s: string }>`(select ${sql.raw(setConfig)} as s from generate_series(1, 9))`.as('t')).select('s')
    for await (const _ of rows.stream(1)) break
  },
  'set_config of a role': alone("select set_config('role', 'pg_read_all_data', false)"),
  'set_config of the session authorization': alone("select set_config('session_authorization', 'pg_read_all_data', false)"),
  'set_config that is local, in a transaction that ends by itself': alone("select set_config('app.tenant', 'a', true)"),
  setseed: alone('select setseed(0.5)'),
  'a function of the user with SET inside': alone('select stain_settings()'),
  'a function of the user that runs at planning': alone('explain select stain_at_planning()'),
  'a function of the user that runs at planning of PREPARE': onConnection('prepare p as select stain_at_planning()'),
  'a function of the user that gives rows': alone('select * from stain_rows()'),
  'a function of the user in temporary clothes': onConnection(
    `create function pg_temp.lower(text) returns text language sql as $$ select set_config('app.tenant', 'temp', false) $$`,
    "select pg_temp.lower('x')",
  ),
   'a procedure that commits in between': alone('call stain_by_call()'),
} // prettier-ignore

const hidden: Record<string, Trick> = {
  'behind a comment within a comment': alone(`/* /* */ select 1; */ set work_mem = '77MB'`),
  'behind a comment that looks closed': alone(`/* '*/ set work_mem = '77MB' /*' */`),
  'behind a line comment that ends with the line': alone(`-- select 1;\rset work_mem = '77MB'`),
  'behind a semicolon in a string': alone(`select ';'; set work_mem = '77MB'`),
  'behind a semicolon in dollar quotes': alone(`select $a$;$b$;$a$; set work_mem = '77MB'`),
  'behind a semicolon in a name': alone(`select 1 as ";"; set work_mem = '77MB'`),
  'behind an escaped quote': alone(String.raw`select E'\''; set work_mem = '77MB' --'`),
  'behind a doubled quote': alone(`select ''''; set work_mem = '77MB' --'`),
  'behind a backslash that is none': alone(String.raw`select '\'; set work_mem = '77MB' --'`),
  'behind an escaped string': alone(String.raw`select U&'\0027'; set work_mem = '77MB' --'`),
  'behind a string over two lines': alone(`select 'a'\n'b'; set work_mem = '77MB'`),
  'behind a parenthesis in a string': alone(`select '('; set work_mem = '77MB'`),
  'behind a parenthesis in brackets': alone(`select (array[1])[1]; set work_mem = '77MB'`),
  'behind a body in BEGIN ATOMIC': onConnection(
    `create or replace function atomic() returns text language sql begin atomic; select 1; select '2'; end; set work_mem = '77MB'`,
  ),
  'behind an empty statement': alone(`;;; set work_mem = '77MB';;`),
  'in odd capitals and white space': alone(`\f\v\t sEt\n\n\twOrK_mEm\f= '77MB'`),
  'behind a byte order mark or not at all': onConnection(`\uFEFFset work_mem = '77MB'`),
  'behind a parameter that is none': alone(`select $$1$$; set work_mem = '77MB'`),
  'behind an operator that begins a comment': alone(`select 1 --+ 2;\n; set work_mem = '77MB'`),
  'with a word that a number swallows': onConnection(`select 1set work_mem`, `select 1;set work_mem = '77MB'`),
  'behind a thousand statements': alone(`${'select 1;'.repeat(1_200)} set work_mem = '77MB'`),
  'behind a text of a hundred kilobytes': alone(`select '${'x'.repeat(100_000)}'; set work_mem = '77MB'`),
  'as the value of a setting that is not one': onConnection(`set app.tenant = 'a'; set local app.other = 'b'`),
} // prettier-ignore

const things: Record<string, Trick> = {
  'a temporary table': onConnection('create temp table mine as select 1 as n'),
  'a temporary table, without db.connection()': onConnection('create temporary table if not exists mine (n int)'),
  'a temporary table by its schema': onConnection('create table pg_temp.mine (n int)'),
  'a temporary table by SELECT INTO': onConnection('select 1 as n into temporary table mine'),
  'a temporary table in front of a real one': onConnection('create temp table harvest as select generate_series(1, 9) as n'),
  'a temporary table through the schema builder': (db) =>
    db.schema.createTable('mine').temporary().addColumn('n', 'integer').execute(),
  'a temporary table that a function makes': alone('select make_quietly()'),
  'a temporary table that is emptied at COMMIT': onConnection('create temp table mine (n int) on commit delete rows'),
  'a temporary view': onConnection('create temp view mine as select 1 as n'),
  'a temporary view in front of a real table': onConnection('create temp view harvest as select 7 as n, null as text'),
  'a temporary sequence': onConnection('create temp sequence mine', "select nextval('mine')"),
  'a temporary type': onConnection('create type pg_temp.mine as (a int)'),
  'a temporary operator': onConnection(
    'create operator pg_temp.=== (leftarg = int, rightarg = int, function = pg_catalog.int4eq)',
  ),
  'an advisory lock': alone('select pg_advisory_lock(42)'),
  'a shared advisory lock': alone('select pg_try_advisory_lock_shared(42, 1)'),
  'an advisory lock that is not given back as often as it was taken': onConnection(
    'select pg_advisory_lock(42), pg_advisory_lock(42)',
    'select pg_advisory_unlock(42)',
  ),
  'an advisory lock that a function takes': alone('select lock_quietly()'),
  'an advisory lock in a transaction that is rolled back': inTransaction('select pg_advisory_lock(42)', 'select 1/0'),
  'an advisory lock through the builder': (db) =>
    db.selectNoFrom((eb) => eb.fn('pg_advisory_lock', [eb.val(43)]).as('l')).execute(),
  LISTEN: alone('listen news'),
  'LISTEN in a function': alone('select listen_quietly()'),
  'LISTEN in DO': alone(`do $$ begin execute 'listen news'; end $$`),
  'LISTEN in a transaction': inTransaction('listen news'),
  PREPARE: onConnection('prepare plan as select 1'),
  'PREPARE under a name like ours': onConnection('prepare s_0123456789abcdef0123456789abcdef as select 1'),
  'PREPARE in a transaction that is rolled back': inTransaction('prepare plan as select 1', 'select 1/0'),
  'a cursor WITH HOLD': onConnection('begin', 'declare held cursor with hold for select 1', 'commit'),
  'a cursor in an open transaction': onConnection('begin', 'declare held cursor for select 1'),
  'a large object left open': onConnection('begin', "select lo_open(lo_create(0), x'60000'::int)"),
  'a large object left open, without a transaction': alone("select lo_open(lo_create(0), x'60000'::int)"),
} // prettier-ignore

const transactions: Record<string, Trick> = {
  'BEGIN, left open': onConnection('begin', "insert into harvest values (-1, 'open')"),
  'BEGIN, without db.connection()': alone('begin'),
  'START TRANSACTION': alone('start transaction isolation level serializable, read only'),
  'BEGIN behind a select': alone("select 1; begin; insert into harvest values (-2, 'open')"),
  'BEGIN behind a COMMIT': alone("commit; begin; insert into harvest values (-3, 'open')"),
  'BEGIN and a failure': onConnection('begin', 'select 1/0'),
  'BEGIN and a failure in one text': failing('begin; select 1/0'),
  'BEGIN in DO': (db) => expect(run(db, `do $$ begin execute 'begin'; end $$`)).rejects.toThrow(),
  'COMMIT AND CHAIN': onConnection('begin isolation level serializable', 'commit and chain', 'insert into harvest values (-4)'),
  'ROLLBACK AND CHAIN': onConnection('begin read only', 'rollback and chain'),
  'ROLLBACK AND CHAIN in a transaction of Kysely’s': inTransaction("set work_mem = '77MB'", 'rollback and chain', 'insert into tricked (text) values (1)'),
  'COMMIT AND CHAIN in a transaction of Kysely’s, and then SET': inTransaction('commit and chain', "set work_mem = '77MB'"),
  'COMMIT in a transaction of Kysely’s, and then SET': inTransaction('commit', "set work_mem = '77MB'"),
  'COMMIT in a transaction of Kysely’s, and then BEGIN': inTransaction('commit', 'begin', 'insert into harvest values (-5)', 'select 1/0'),
  'PREPARE TRANSACTION in a transaction of Kysely’s': inTransaction("set work_mem = '77MB'", "prepare transaction 'kept'"),
  'a savepoint that is never released': onConnection('begin', 'savepoint a', 'savepoint b', 'insert into harvest values (-6)'),
  'a savepoint to which nobody goes back after a failure': onConnection('begin', 'savepoint a', 'select 1/0'),
  'SET, and a way back to before it': onConnection('begin', 'savepoint a', "set work_mem = '77MB'", 'rollback to a', 'commit'),
  'SET, and a way back to behind it': onConnection('begin', "set work_mem = '77MB'", 'savepoint a', 'select 1/0', 'rollback to a', 'commit'),
  'SET LOCAL in a transaction that goes on': onConnection('begin', "set local work_mem = '77MB'"),
  'SET CONSTRAINTS': onConnection('begin', 'set constraints all deferred'),
  'LOCK TABLE': onConnection('begin', 'lock table tricked in access exclusive mode'),
  'a transaction that nobody waited for': (db) =>
    db.connection().execute(async (one) => {
      await run(one, 'select 1')
      void run(one, 'begin; insert into harvest values (-7)').catch(() => undefined)
    }),
  'a controlled transaction that is forgotten but for its ROLLBACK': async (db) => {
    const trx = await db.startTransaction().execute()
    await run(trx, "set work_mem = '77MB'")
    await trx.rollback().execute()
  },
} // prettier-ignore

const broken: Record<string, Trick> = {
  'a function that fails after it has set': failing("select stain(), 1/0"),
  'a function that fails after it has set, in a transaction': inTransaction('select stain_settings()', 'select 1/0'),
  'a function that sets, ends the transaction and fails': failing('call stain_by_call(); select 1/0'),
  'a statement that nobody waited for': (db) =>
    db.connection().execute(async (one) => {
      await run(one, 'select 1')
      void run(one, "select pg_sleep(0.01); set work_mem = '77MB'").catch(() => undefined)
    }),
  'a statement that is cancelled by a signal': aborted("set work_mem = '77MB'; commit; select pg_sleep(30)", 'cancel query'),
  'a statement whose session is killed by a signal': aborted("set work_mem = '77MB'; commit; select pg_sleep(30)", 'kill session'),
  'a statement that runs on after its signal': aborted("select pg_sleep(0.05); set work_mem = '77MB'", 'ignore query'),
  'a statement that cancels itself': failing("set work_mem = '77MB'; commit; select pg_cancel_backend(pg_backend_pid()), pg_sleep(30)"),
  'a statement that ends its own session': failing("set work_mem = '77MB'; commit; select pg_terminate_backend(pg_backend_pid()), pg_sleep(30)"),
  'a statement that runs into its own timeout': failing("set statement_timeout = '5ms'; commit; select pg_sleep(30)"),
  'a transaction that ends its own session': inTransaction("set work_mem = '77MB'", 'select pg_terminate_backend(pg_backend_pid()), pg_sleep(30)'),
} // prettier-ignore

/** What no reset undoes: the connection is closed. */
const lasting: Record<string, Trick> = {
  'set_config by an escaped name with an escape of its own': alone(
    `select U&"set!005fconfig" UESCAPE '!' ('app.tenant', 'a', false)`,
  ),
  'a temporary replication slot': onConnection(
    `select pg_create_physical_replication_slot('kept_by_' || pg_backend_pid(), true, true)`,
  ),
  'a replication origin': onConnection(
    `select pg_replication_origin_create('o' || pg_backend_pid())`,
    `select pg_replication_origin_session_setup('o' || pg_backend_pid())`,
  ),
}

const named = (kinds: Record<string, Record<string, Trick>>): { what: string; leave: Trick }[] =>
  Object.entries(kinds).flatMap(([kind, tricks]) =>
    Object.entries(tricks).map(([what, leave]) => ({ what: `${kind}: ${what}`, leave })),
  )
const all = named({ settings, calls, hidden, things, transactions, broken, lasting })

const max = 2
const pool = { min: 0, initial: max, minIdle: 0, max, acquireTimeout: '10s' } as const
/** What has to be there again after each reset. */
const session = {
  init: `set app.init = 'from init'; set datestyle = 'German'`,
  settings: { 'app.settled': 'from settings', statement_timeout: '31s', search_path: 'public, other' },
} as const

interface Mode {
  readonly name: string
  readonly options: Partial<SmartPgOptions>
  readonly tricks: typeof all
}
const modes: Mode[] =
  wire === 'pg'
    ? [{ name: "wire: 'pg'", options: { pool }, tricks: all }]
    : [
        { name: 'connections are shared', options: { pool }, tricks: all },
        {
          name: 'connections are not shared',
          options: { pool: { ...pool, lanes: false } },
          tricks: named({ settings, transactions }),
        },
        {
          name: 'writes share connections as well',
          options: { pool: { ...pool, pipelineWrites: true } },
          tricks: named({ settings }),
        },
      ]

describe.each(modes)('the next caller meets a session as new as a fresh one: $name', ({ options, tricks }) => {
  let database: Database
  let outside: Client
  let fresh: unknown
  let used: { db: Db; dialect: SmartPgDialect }

  const connected = (): typeof used => {
    const registry = new Registry()
    const dialect = new SmartPgDialect({
      wire,
      primary: database.url,
      applicationName: 'adversary',
      metrics: { registry },
      session,
      ...options,
    })
    return { dialect, db: new Kysely<Tables>({ dialect }) }
  }

  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    outside = new Client({ connectionString: database.url })
    await outside.connect()
    await outside.query(GROUND)
    const unused = connected()
    ;[fresh] = await fingerprints(unused.db, 1)
    await unused.db.destroy()
    used = connected()
    await used.dialect.ready()
  })
  afterAll(async () => {
    await used.db.destroy()
    await outside.end()
    await database.drop()
  })
  beforeEach(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined))
  afterEach(async ({ task }) => {
    vi.restoreAllMocks()
    if (task.result?.state !== 'fail') return
    // What was left must not fail those that come after.
    await used.db.destroy()
    used = connected()
  })

  const look = async (): Promise<void> => {
    let n = 0
    // What they write themselves is their own, and is kept.
    const write = (one: Db): Promise<unknown> => run(one, `insert into harvest values (${n++})`)
    expect(await fingerprints(used.db, max, write)).toEqual(Array.from({ length: max }, () => fresh))
    const { rows } = await outside.query('select n from harvest order by n')
    expect(rows).toEqual(Array.from({ length: max }, (_, i) => ({ n: i })))
    await expect.poll(() => metric(used.dialect, 'active_connections'), { interval: 2 }).toBe(0)
  }

  test.each(tricks)('$what', async ({ leave }) => {
    await outside.query('truncate harvest')
    await leave(used.db, outside)
    await look()
  })

  test('calls: set_config wherever a query takes an expression', async () => {
    const vain: string[] = []
    const leaks: string[] = []
    const asked = `select nullif(current_setting('app.tenant', true), '') as tenant`
    const tenants = (): Promise<unknown[]> =>
      ofAll(used.db, max, async (one) => (await sql.raw<{ tenant: unknown }>(asked).execute(one)).rows[0]!.tenant)
    for (const text of anywhere) {
      await outside.query('begin')
      await outside.query(text)
      const { rows } = await outside.query<{ tenant: unknown }>(asked)
      if (rows[0]!.tenant !== 'a') vain.push(text)
      await outside.query('rollback')
      await outside.query('discard all')
      await run(used.db, text)
      if ((await tenants()).some((tenant) => tenant !== null)) leaks.push(text)
    }
    expect(vain).toEqual([])
    expect(leaks).toEqual([])
    await outside.query('truncate harvest')
    await look()
  })
})

test('setseed: the next caller’s random numbers cannot be foretold', async () => {
  const url = inject('primaryUrl')
  const { db } = open<Tables>({ primary: url, pool: { ...pool, initial: 1, max: 1 } })
  await run(db, 'select setseed(0.25)')
  const next = await sql<{ n: number }>`select random() as n`.execute(db)
  const foretold = 'select random() as n from (select setseed(0.25) offset 0) as seeded'
  expect([next.rows[0]]).not.toEqual(await ask(url, foretold))
})

test('what session.init made for the session is there again after a reset', async () => {
  let runs = 0
  const init = async (connection: HookConnection): Promise<void> => {
    runs++
    await connection.executeQuery(CompiledQuery.raw('create temp table kept as select 7 as n'))
  }
  const { db } = open<Tables>({
    primary: inject('primaryUrl'),
    session: { init },
    pool: { ...pool, initial: 1, max: 1 },
  })
  await onConnection('drop table kept', 'create temp table kept as select 8 as n')(db, null as never)
  expect((await sql`select n from kept`.execute(db)).rows).toEqual([{ n: 7 }])
  expect(runs).toBe(2)
})

test.each([
  ['SET', "set work_mem = '77MB'"],
  ['a temporary table', 'create temp table mine (n int)'],
  ['an advisory lock', 'select pg_advisory_lock(42)'],
  ['several statements', 'select 1; listen news'],
])('where onCreateConnection had set it up, a session is not reset but closed: %s', async (_, text) => {
  const onCreateConnection = async (connection: HookConnection): Promise<void> => {
    await connection.executeQuery(CompiledQuery.raw("set app.tenant = 'from the hook'"))
  }
  const { db } = open<Tables>({
    primary: inject('primaryUrl'),
    onCreateConnection,
    pool: { ...pool, initial: 1, max: 1 },
  })
  const state = `select pg_backend_pid() as pid, current_setting('app.tenant') as tenant,
    current_setting('work_mem') as work_mem, to_regclass('pg_temp.mine') as mine,
    (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks,
    (select count(*)::int from pg_listening_channels()) as channels`
  const look = async (): Promise<Record<string, unknown>> =>
    (await sql.raw<Record<string, unknown>>(state).execute(db)).rows[0]!
  const { pid, ...clean } = await look()
  await run(db, text)
  const { pid: next, ...found } = await look()
  expect(next).not.toBe(pid)
  expect(found).toEqual(clean)
  expect(found['tenant']).toBe('from the hook')
})
