// What is decided about a statement from its text alone, rule by rule, and the tricks that must not deceive it.

import { describe, expect, test } from 'vitest'
import { factsOf } from '../../src/sql/facts.ts'

describe('a read may run on a replica', () => {
  test.each([
    'select 1',
    'select 1;',
    ';select 1;;',
    'SELECT * FROM orders',
    '(select 1)',
    '((select 1) union all (select 2)) order by 1',
    'select * from orders o join customers c using (id) where o.total > $1',
    'select * from orders natural left join customers',
    'with x as (select 1) select * from x',
    'with recursive x(n) as (values (1) union all select n + 1 from x where n < 5) select * from x',
    'with x as not materialized (select 1), y (a, b) as materialized (select 1, 2) select * from x, y',
    'with recursive t(a) as (select 1) search depth first by a set s cycle a set c using p select * from t',
    'values (1, 2), (3, 4)',
    'table orders',
    'select lower(name), pg_catalog.upper(name), "length"(name) from customers',
    'select count(*) filter (where a > 1) over (partition by (b) order by (c)) from t',
    'select percentile_cont(0.5) within group (order by a) from t',
    'select row_number() over w from t window w as (order by id)',
    'select rank() over(order by a), sum(b) over(partition by c) from t',
    'select a from t where a in (1, 2) and exists (select 1 from u) and not (b or c)',
    'select a from t where a = any (array[1, 2]) or a = all (select 1) or row(1, 2) = (3, 4)',
    'select coalesce(a, b), greatest(1, 2), nullif(a, 1), cast(a as numeric(10, 2)) from t',
    'select a::numeric(10, 2), b::varchar(3), c::pg_catalog.bpchar(3), d::character varying (4) from t',
    'select a::double precision, b::timestamp(3) with time zone, c::geometry(Point, 4326) from t',
    "select numeric(10, 2) '1.5', timestamp(3) with time zone 'now', interval(3) '1 s', char(3) 'abc'",
    "select interval '1' day to second (3)",
    'select extract(epoch from a), substring(b from 1 for 2), trim(both from c), position(a in b) from t',
    'select overlay(a placing b from 1 for 2), normalize(a, nfc) from t',
    'select xmlelement(name a, xmlattributes(b as c), d), xmlforest(a as b) from t',
    "select jt.* from t, json_table(t.j, '$[*]' columns (id for ordinality, a text path '$.a')) as jt",
    "select * from xmltable('/a' passing x columns a int path 'a', b numeric(10, 2) path 'b')",
    'select * from generate_series(1, 3) with ordinality as t(a, b)',
    'select * from generate_series(1, 3) t(a)',
    'select * from (values (1, 2)) v(a, b)',
    'select * from rows from (generate_series(1, 2), unnest(array[1])) as t(a, b)',
    'select * from json_to_record($1) as x(a int, b varchar(3), c numeric(10, 2))',
    'select * from t tablesample bernoulli (10) repeatable (1)',
    'select * from t, lateral (select * from u where u.id = t.id) v',
    'select a from t group by grouping sets ((a), rollup (a, b), cube (c, d))',
    'select a from t group by a, rollup (b)',
    'select distinct on (a) a, b from t order by a, b',
    'select a from t order by a using > limit 1 offset (2)',
    'select a from t fetch first (3) rows with ties',
    'select a from t for read only',
    "select a at time zone ('UTC'), b at time zone 'UTC' from t",
    "select a like (b || '%'), a not like (b), a ilike (b), a not ilike (b) from t",
    'select (a, b) overlaps (c, d), a operator(pg_catalog.+) b, a collate pg_catalog."default" from t',
    'select a as update, b as into, c as "from", t.delete, t.insert from t',
    'select (t).into, (t).update from t',
    'select \'for update; nextval(1)\', $$ insert into t $$, "delete" from t -- for update',
    "select * from t where a like 'x\\_y' escape '\\'",
    'select /* insert /* into */ nextval(1) */ 1',
    'select current_date, current_timestamp(3), localtime, current_user, now(), random(), gen_random_uuid()',
    'select clock_timestamp(), timeofday(), uuidv7(), pg_sleep(0)',
    'select a is distinct from b from t',
    'select case when a then b else (c) end from t',
    'select null like (a), true ilike (b), current_user like (c), a[1] ilike (b), "a" ilike (b), 1 ilike (b) from t',
    'select a from t join (u join v on true) on null join (w cross join x) on false',
    'select a from t fetch next (1) row only',
    'select a from t tablesample system (10)',
    'select a from t group by distinct rollup (a), cube (b), grouping sets (cube (c), rollup (d))',
    'select a from t group by all cube (a)',
    'select a::bit varying(3), b::national character varying (3), c::nchar varying(3), cast(d as char varying(3)) from t',
    'select a from json_to_record($1) as x(a character varying(3), b bit varying (3))',
    "select interval '1' hour to second (3), interval '1' minute to second (3)",
    "select a::timestamp with time zone, timestamp with time zone 'now' from t",
    'select count(distinct a), array_agg(a order by b desc) from t',
  ])('%s', (sql) => {
    expect(factsOf(sql)).toMatchObject({
      because: 'read',
      safeOnReplica: true,
      retrySafe: true,
      stateful: false,
      writes: false,
      lockWaiter: false,
      multiple: false,
      preparable: true,
    })
  })
})

describe('a plan may be asked of a replica', () => {
  test.each([
    'explain select 1',
    'explain verbose select 1',
    'explain (costs off, format json) select * from orders',
    'explain (select 1)',
    'explain insert into orders values (1)',
    'explain (verbose) update orders set a = 1 returning *',
    'explain delete from orders using customers where a = b',
    'explain merge into t using s on a = b when matched then delete',
    "explain select nextval('s')",
    'explain select * from orders for update',
    'explain with x as (delete from t returning *) select * from x',
  ])('%s', (sql) => {
    expect(factsOf(sql)).toMatchObject({
      because: 'plan',
      safeOnReplica: true,
      writes: false,
      stateful: false,
      preparable: false,
      tablesWritten: [],
    })
  })

  test('EXPLAIN ANALYZE runs the statement and is judged as the statement itself', () => {
    expect(factsOf('explain analyze select 1')).toMatchObject({ safeOnReplica: true, because: 'read' })
    for (const options of ['analyze', 'analyse verbose', '(analyze)', '(costs off, analyze true)', '(analyse)']) {
      expect(factsOf(`explain ${options} insert into t values (1)`)).toMatchObject({
        safeOnReplica: false,
        writes: true,
        lockWaiter: true,
        tablesWritten: ['t'],
      })
    }
  })

  test.each([
    'explain ("analyze") delete from t',
    'explain (U&"analyze") delete from t',
    'explain (debug) select 1',
    'explain (costs (off)) select 1',
    'explain execute q',
    'explain analyze execute q',
    'explain create table t as select 1',
    'explain verbose analyze delete from t',
    'explain (select 1',
    'explain',
    'explain with x as (select 1)',
  ])('%s is not recognised', (sql) => {
    expect(factsOf(sql)).toMatchObject({ safeOnReplica: false, stateful: true, writes: true, kind: 'unknown' })
  })

  test('the last word on ANALYZE counts', () => {
    expect(factsOf('explain (analyze off) delete from t')).toMatchObject({ because: 'plan', safeOnReplica: true })
    expect(factsOf('explain (analyze, analyze false) delete from t')).toMatchObject({ because: 'plan' })
    expect(factsOf('explain (analyze off, analyze) delete from t')).toMatchObject({ because: 'write' })
    expect(factsOf('explain (analyze true) delete from t')).toMatchObject({ because: 'write' })
    // A number says it as well, and is not read here.
    expect(factsOf('explain (analyze 0) delete from t')).toMatchObject({ because: 'write' })
  })

  test('a plan over temporary tables needs the session that has them', () => {
    expect(factsOf('explain select * from pg_temp.t')).toMatchObject({ safeOnReplica: false, stateful: true })
  })

  test('an unknown function keeps the plan on the primary, because the planner may call it', () => {
    expect(factsOf('explain select f(1)')).toMatchObject({ safeOnReplica: false, because: 'unknown function' })
    expect(factsOf("explain select nextval('s'), f(1)")).toMatchObject({ because: 'unknown function', writes: true })
  })
})

describe('a read that stays on the primary', () => {
  test.each([
    ['select * from t for update', 'locks rows'],
    ['select * from t for no key update', 'locks rows'],
    ['select * from t for share of t nowait', 'locks rows'],
    ['select * from t for key share skip locked', 'locks rows'],
    ['select * from (select * from t for update) x', 'locks rows'],
    ['with x as (select * from t for share) select * from x', 'locks rows'],
    ['select * from t for/* */update', 'locks rows'],
    ['SELECT * FROM t LIMIT 1 FOR UPDATE', 'locks rows'],
    ['select * from pg_class', 'system catalog'],
    ['select * from "pg_class"', 'system catalog'],
    ['table pg_class', 'system catalog'],
    ['select * from pg_catalog.pg_class', 'system catalog'],
    ['select * from pg_catalog . pg_class', 'system catalog'],
    ['select * from db.pg_catalog.pg_class', 'system catalog'],
    ['select * from t, pg_stat_activity', 'system catalog'],
    ['select * from (pg_locks join t on true)', 'system catalog'],
    ['select * from t where a in (table pg_settings)', 'system catalog'],
    ['select * from INFORMATION_SCHEMA.tables', 'system catalog'],
    ['select * from "kysely_migration"', 'migration table'],
    ['select * from app.kysely_migration_lock', 'migration table'],
    ['select * from U&"d\\0061ta"', 'unicode name'],
    ['select * from U&"pg_cl\\0061ss"', 'unicode name'],
    ['select * from pg_temp.t', 'temporary table'],
    ['select * from pg_temp_3.t', 'temporary table'],
    ['select pg_is_in_recovery()', 'function stays on the primary'],
    ['select pg_backend_pid()', 'function stays on the primary'],
    ["select current_setting('x')", 'function stays on the primary'],
    ["select to_regclass('t')", 'function stays on the primary'],
    ['select pg_stat_get_live_tuples(1)', 'function stays on the primary'],
    ['select version()', 'function stays on the primary'],
    ["select nextval('s')", 'function stays on the primary'],
    ["select PG_CATALOG.NEXTVAL('s')", 'function stays on the primary'],
    ['select pg_catalog."nextval"(1)', 'function stays on the primary'],
    ["select 1 from t where a = (select nextval('s'))", 'function stays on the primary'],
    ['select txid_current()', 'function stays on the primary'],
    ['select pg_walfile_name($1)', 'function stays on the primary'],
    ['select * from pg_ls_waldir()', 'unknown function'],
    ['select my_function(1)', 'unknown function'],
    ['select app.lower(a) from t', 'unknown function'],
    ['select "Lower"(a) from t', 'unknown function'],
    ['select "pg_catalog.lower"(a) from t', 'unknown function'],
    ['select db.pg_catalog.lower(a) from t', 'system catalog'],
    ['select U&"lower"(a) from t', 'unicode name'],
    ['select lo\u212Aer(a), l\u00f6wer(a) from t', 'unknown function'],
    ['select lower\u00a0(a) from t', 'unknown function'],
    ['select treat(a as b) from t', 'unknown function'],
    ["select query_to_xml('delete from t', true, true, '')", 'unknown function'],
    ["select dblink('delete from t')", 'unknown function'],
    ['select lo_get(1), my_function()', 'function stays on the primary'],
    ['select a operator(app.+) b from t', 'unknown function'],
    ['select * from t tablesample my_method(1)', 'unknown function'],
    ["select table_to_xml('t', true, true, '')", 'function stays on the primary'],
  ])('%s: %s', (sql, because) => {
    expect(factsOf(sql)).toMatchObject({ safeOnReplica: false, retrySafe: false, because })
  })
})

test.each([
  'select (0.5::float8).setseed',
  'select (array[0.5])[1].setseed',
  'select $1.setseed',
  'select s.setseed from unnest(array[0.5::float8]) s',
  "select ('plate'::regclass).nextval",
  'select x from t where (t.oid).lo_unlink = 1',
  'select (1).pg_advisory_lock',
])('a function is called without parentheses, too, behind a dot: %s', (sql) => {
  expect(factsOf(sql).safeOnReplica).toBe(false)
})

test.each(['select setseed from t', 'select t.version, (t).name, t.now from t', 'select setseed.a from setseed'])(
  'a column is no function: %s',
  (sql) => {
    expect(factsOf(sql)).toMatchObject({ safeOnReplica: true, functions: [] })
  },
)

test.each(['delete', 'insert', 'update', 'merge'])('%s before a parenthesis is somebody’s function', (name) => {
  expect(factsOf(`select ${name}(a, 'b') from t`)).toMatchObject({
    because: 'unknown function',
    functions: [name],
    tablesWritten: [],
  })
})

describe('a call is not mistaken for a name', () => {
  test.each([
    'select distinct on (a) f(b) from t',
    'select distinct on (a) over(b) from t',
    'select distinct on (a) filter(b) from t',
    'select 1 operator(pg_catalog.+) f(2)',
    'select a from t order by f(b)',
    'select a from t group by f(b)',
    'select a from t group by (cube(b)), f(c)',
    'select a from t limit f(1)',
    'select a at time zone f(b) from t',
    'select a from t, f(b)',
    'select a from f(b)',
    'select a from t cross join lateral f(b)',
    'select a from t join f(b) on true',
    'select a from t join u on f(b)',
    'select a from t join u on join(1)',
    'select a from t join u on a = join(1)',
    'select a from t join u on join(1) and true',
    'select a from t where join(1)',
    'select a from t, join(1)',
    'select a from t having join(1)',
    'select a from t limit join(1)',
    'select a from t offset join(1)',
    'select a from t order by join(1)',
    'select a from t where a like f(b)',
    'select ilike(a, b) from t where ilike(a, b)',
    'select a from t where not ilike(a, b)',
    'select a at time zone zone(b) from t',
    'select conflict(1), repeatable(1), varying(1), second(1), first(1), next(1), sets(1), bernoulli(1), rollup(1)',
    'select by(1)',
    'select rows(1)',
    'select a from t group by a, (rollup(b))',
    'select a similar to second(b) from t',
    'select a from t x tablesample f(1)',
    'select a from t tablesample "Bernoulli"(1)',
    'select a + all (array[1]) , f(1) from t',
    'with a as (select 1), b as (select f(1)) select 1',
    'select a within, group_concat(b) from t',
    'select a from t left join f(b) as x(c, d) on true',
    'select a from rows from (f(1), generate_series(1, 2)) as t(a, b)',
    'select a from t join u on t.tags @> array[u.a, f(u.b)] and g(u.c)',
    'select a from t where b in (f(c))',
    'select a from t where b = any (f(c))',
    'select cast(f(a) as numeric(10, 2)) from t',
    'select f(a)::numeric(10, 2) from t',
    'select coalesce(f(a), 1) from t',
    'select extract(epoch from f(a)) from t',
    'select xmlelement(name a, f(b))',
    'select sum(f(a)) over (partition by f(b)) from t',
    'select count(*) filter (where f(a)) from t',
    'select case when f(a) then 1 end from t',
    'select a from t where not f(b)',
    'select a from t where b like f(c)',
    'select a from t where b between f(c) and d',
    'select a from t union select f(b) from u',
    'with x as (select f(1)) select * from x',
    'with x as materialized (select f(1)) select * from x',
    'with x (a) as (select f(1)) select * from x',
    'values (f(1))',
    'select f (1)',
    'select f/* */(1)',
    'select f\n--\n(1)',
    'select array(select f(1))',
    'select array[f(1)]',
    'select (array[1])[f(1)]',
    'select * from (select f(1)) x(a)',
    'select * from (values (f(1))) v(a)',
    "select * from json_table(f(1), '$' columns (a text path '$'))",
    "select * from json_table('1', '$' columns (a text path '$' default f(1) on empty))",
    "select * from json_table(columns(1), '$' columns (a text path '$'))",
    "select json_object('a' value f(1))",
    'select * from t as x, f(1)',
    'select * from t x, f(1)',
    'select set(1)',
    'select over(1)',
    'select cube(1)',
    'select zone(1)',
    'select columns(1)',
    'select system(1)',
    'select join(1)',
    'select "coalesce"(1)',
    'select "in"(1)',
    'select app.coalesce(1)',
    'select *, f(1) from t',
    'select -f(1)',
    'select a from t for read only offset f(1)',
    'select (select f(1))',
    'select ((((f(1)))))',
    'select variadic_call(variadic f(1))',
  ])('%s', (sql) => {
    expect(factsOf(sql)).toMatchObject({
      because: 'unknown function',
      safeOnReplica: false,
      stateful: true,
      writes: true,
      lockWaiter: true,
    })
  })
})

describe('a write', () => {
  test.each([
    ['insert into orders (id, total) values ($1, $2)', 'write_simple', ['orders'], []],
    ['insert into orders default values', 'write_simple', ['orders'], []],
    [
      'insert into orders as o (a) values (1) on conflict (a) do update set a = 1, b = 2',
      'write_simple',
      ['orders'],
      [],
    ],
    ['insert into orders values (1), (2)', 'write_bulk', ['orders'], []],
    ['insert into orders values (1, 2, (select max(a) from t)) returning a, b', 'write_simple', ['orders'], ['t']],
    ['insert into orders (a) select a from old', 'write_bulk', ['orders'], ['old']],
    ['insert into orders (select a from old)', 'write_bulk', ['orders'], ['old']],
    ['insert into orders table old', 'write_bulk', ['orders'], ['old']],
    ['insert into orders with x as (select 1) select * from x', 'write_bulk', ['orders'], []],
    ['with x as (select 1 from old) insert into orders select * from x', 'write_bulk', ['orders'], ['old']],
    ['update orders set a = 1, b = 2 where c', 'write_simple', ['orders'], []],
    ['update only orders as o set (a, b) = (1, 2) from customers c, t', 'write_simple', ['orders'], ['customers', 't']],
    ['update only (orders) set a = 1', 'write_simple', ['orders'], []],
    ['delete from orders where id = $1', 'write_simple', ['orders'], []],
    [
      'delete from only orders o using customers c join t using (id) where true',
      'write_simple',
      ['orders'],
      ['customers', 't'],
    ],
    [
      'merge into orders o using new n on o.id = n.id when matched then update set a = 1 when not matched then insert (a, b) values (1, 2)',
      'write_simple',
      ['orders'],
      ['new'],
    ],
    ['with gone as (delete from orders returning *) select * from gone', 'write_simple', ['orders'], []],
    [
      'with a as (insert into log select * from t returning *), b as (update u set x = 1) select * from a',
      'write_simple',
      ['log', 'u'],
      ['t'],
    ],
  ])('%s', (sql, kind, tablesWritten, tablesRead) => {
    expect(factsOf(sql)).toMatchObject({
      because: 'write',
      kind,
      tablesWritten,
      tablesRead,
      safeOnReplica: false,
      writes: true,
      lockWaiter: true,
      stateful: false,
      preparable: true,
    })
  })

  test('with a function that nobody knows it may leave something in the session', () => {
    expect(factsOf('insert into t values (lower($1), now())').stateful).toBe(false)
    expect(factsOf("insert into t values (nextval('s'))").stateful).toBe(false)
    expect(factsOf('insert into t values (f($1))').stateful).toBe(true)
    expect(factsOf('update t set a = app.lower(b)').stateful).toBe(true)
  })

  test('the words of a write in a read are enough to keep it on the primary', () => {
    for (const word of ['insert', 'update', 'delete', 'merge']) {
      expect(factsOf(`select a ${word} from t`)).toMatchObject({ safeOnReplica: false, writes: true })
    }
  })
})

describe('SELECT INTO makes a table', () => {
  test.each(['select a into b from t', 'select a into unlogged b from t', 'select a into table b from t'])(
    '%s',
    (sql) => {
      expect(factsOf(sql)).toMatchObject({
        kind: 'ddl',
        because: 'makes a table',
        tablesWritten: ['b'],
        tablesRead: ['t'],
        stateful: false,
        preparable: false,
      })
    },
  )

  test.each(['select a into temp b from t', 'select a into local temporary table b from t', 'select 1 into pg_temp.b'])(
    '%s leaves it in the session',
    (sql) => {
      expect(factsOf(sql)).toMatchObject({ stateful: true, safeOnReplica: false })
    },
  )

  test('behind a column that is called as', () => {
    expect(factsOf('select (x).as into b from t')).toMatchObject({ safeOnReplica: false, because: 'makes a table' })
  })
})

test('COPY names its table and stays on a session of its own', () => {
  expect(factsOf('copy app.orders (a, b) from stdin')).toMatchObject({
    kind: 'write_bulk',
    because: 'write',
    tablesWritten: ['app.orders'],
    tablesRead: [],
    stateful: true,
  })
  expect(factsOf('copy orders from stdin').tablesWritten).toEqual(['orders'])
  expect(factsOf('copy orders (a) to stdout')).toMatchObject({
    kind: 'unknown',
    tablesRead: ['orders'],
    tablesWritten: [],
  })
  expect(factsOf('copy (select 1) to stdout')).toMatchObject({ kind: 'unknown', tablesRead: [], tablesWritten: [] })
})

test('a text that servers may read differently is unknown, and counts as several statements only when it shows', () => {
  expect(factsOf("select * from t where path like 'C:\\dir\\' and a = $1")).toMatchObject({
    because: 'unclear text',
    safeOnReplica: false,
    stateful: true,
    preparable: false,
    multiple: false,
    summary: 'SELECT',
  })
  expect(factsOf("select 1; select 'open").multiple).toBe(true)
})

describe('structure', () => {
  test.each([
    ['create table orders (a int default f(1), b varchar(3))', 'CREATE TABLE orders', ['orders']],
    ['create table if not exists app.orders (a int)', 'CREATE TABLE app.orders', ['app.orders']],
    ['create unique index concurrently if not exists i on only orders (lower(a))', 'CREATE INDEX orders', ['orders']],
    ['create or replace view v as select * from t', 'CREATE VIEW v', ['v']],
    ['alter table if exists only orders add column a int', 'ALTER TABLE orders', ['orders']],
    ['drop table if exists orders, "Customers" cascade', 'DROP TABLE orders Customers', ['orders', 'Customers']],
    ['drop index i', 'DROP INDEX', []],
    ['truncate table orders', 'TRUNCATE TABLE orders', ['orders']],
    ['truncate orders, app.customers', 'TRUNCATE orders app.customers', ['orders', 'app.customers']],
    ['truncate table only orders restart identity', 'TRUNCATE TABLE orders', ['orders']],
    ['refresh materialized view concurrently v', 'REFRESH VIEW v', ['v']],
    ["comment on table orders is 'it''s'", 'COMMENT TABLE orders', ['orders']],
    ['grant select on orders to someone', 'GRANT', []],
    ["create type mood as enum ('sad')", 'CREATE TYPE', []],
    ['vacuum orders', 'VACUUM', []],
    ['create table copy_of as select lower(a) from orders', 'CREATE TABLE copy_of orders', ['copy_of']],
  ])('%s', (sql, summary, tablesWritten) => {
    expect(factsOf(sql)).toMatchObject({
      kind: 'ddl',
      because: 'ddl',
      summary,
      tablesWritten,
      writes: true,
      lockWaiter: true,
      stateful: false,
      safeOnReplica: false,
      preparable: false,
    })
  })

  test.each([
    'create temp table t (a int)',
    'create temporary table t as select 1',
    'create local temp table t (a int)',
    'create or replace temp view v as select 1',
    'create temp sequence s',
    'create table pg_temp.t (a int)',
    'create function "pg_temp".f() returns int language sql as $$ select 1 $$',
    'create table t as select f(1)',
    'create table t as execute q',
    'create materialized view v as select app.f(1)',
    'create extension hstore',
  ])('%s leaves something in the session', (sql) => {
    expect(factsOf(sql)).toMatchObject({ kind: 'ddl', stateful: true })
  })
})

describe('transactions', () => {
  test.each([
    'begin',
    'BEGIN ISOLATION LEVEL SERIALIZABLE',
    'start transaction read only',
    'commit',
    'commit and chain',
    'end',
    'rollback',
    'abort',
    'rollback to savepoint a',
    'savepoint a',
    'release savepoint a',
    "prepare transaction 'x'",
    "commit prepared 'x'",
    "rollback prepared 'x'",
    'set transaction isolation level serializable',
    'set local work_mem = 1',
    'set local "my.setting" to 1',
    'set constraints all deferred',
    '/* trace */ begin;',
  ])('%s', (sql) => {
    expect(factsOf(sql)).toMatchObject({
      kind: 'transaction',
      because: 'transaction',
      safeOnReplica: false,
      writes: false,
      stateful: false,
      lockWaiter: false,
      preparable: false,
    })
  })
})

describe('what stays in the session', () => {
  test.each([
    'set work_mem = 1',
    'set session work_mem = 1',
    'set session characteristics as transaction read only',
    'set role someone',
    // Parameters of one's own, with a schema-like prefix that happens to be a keyword.
    'set local.x = 1',
    'set transaction.x = 1',
    'set constraints.x = 1',
    'set local to 1',
    'reset all',
    'discard all',
    'listen a',
    'unlisten *',
    'prepare q as select 1',
    'prepare transaction as select 1',
    'deallocate all',
    "load 'auto_explain'",
    'close all',
  ])('%s', (sql) => {
    expect(factsOf(sql)).toMatchObject({ because: 'session', stateful: true, safeOnReplica: false, writes: false })
  })

  test.each([
    'declare c cursor with hold for select 1',
    'fetch all from c',
    'move c',
    'execute q',
    'call p()',
    'do $$ begin end $$',
    'copy (select 1) to stdout',
    'copy t to stdout',
    'copy t (a, b) from stdin',
    'start replication slot s',
    'frobnicate the database',
    '(insert into t values (1)',
    '(set work_mem = 1)',
    '"select" 1',
    'U&"select" 1',
    '$1',
    '\uFEFFselect 1',
    'seLe\u212At 1',
    "select 'open",
    'select (1',
    'select 1)',
    'select 1\0',
  ])('%j is unknown, so it may leave anything', (sql) => {
    expect(factsOf(sql)).toMatchObject({
      stateful: true,
      safeOnReplica: false,
      retrySafe: false,
      writes: true,
      lockWaiter: true,
      preparable: false,
    })
  })

  test.each([
    ["select set_config('a', 'b', false)", { stateful: true, writes: false }],
    ['select setseed(0.5)', { stateful: true, writes: false }],
    ['select pg_advisory_lock(1)', { stateful: true, lockWaiter: true, writes: false }],
    ['select pg_try_advisory_lock_shared(1, 2)', { stateful: true, lockWaiter: true }],
    ['select pg_advisory_unlock_all()', { stateful: true }],
    ['select pg_advisory_xact_lock(1)', { stateful: false, lockWaiter: true, writes: false }],
    ["select nextval('s')", { stateful: false, lockWaiter: false, writes: true }],
    ["select currval('s'), lastval(), setval('s', 1)", { stateful: false, writes: true }],
    ["select pg_notify('a', 'b')", { stateful: false, writes: true }],
    ['select pg_reload_conf()', { stateful: false, writes: true }],
    // A temporary slot lives as long as the session that made it.
    ["select pg_create_logical_replication_slot('s', 'p', true)", { stateful: true, writes: true }],
    ['select pg_is_in_recovery()', { stateful: false, writes: false, lockWaiter: false }],
    ['show work_mem', { stateful: false, writes: false, lockWaiter: false, because: 'server answers for itself' }],
    ['lock table t', { stateful: false, writes: true, lockWaiter: true }],
    ['notify a', { stateful: false, writes: true }],
  ])('%s', (sql, expected) => {
    expect(factsOf(sql)).toMatchObject({ ...expected, safeOnReplica: false })
  })
})

describe('several statements in one text', () => {
  test('never run on a replica, even when each of them could', () => {
    expect(factsOf('select 1; select 2')).toMatchObject({
      because: 'several statements',
      multiple: true,
      safeOnReplica: false,
      stateful: false,
      writes: false,
      preparable: false,
      kind: 'read_simple',
    })
  })

  test('what holds for one of them holds for the text', () => {
    expect(factsOf('select 1; insert into t values (1)')).toMatchObject({
      multiple: true,
      writes: true,
      stateful: false,
      lockWaiter: true,
      kind: 'unknown',
      tablesWritten: ['t'],
    })
    expect(factsOf('select 1; set role x').stateful).toBe(true)
    expect(factsOf('select 1; frobnicate').stateful).toBe(true)
    expect(factsOf('select 1; select f()').stateful).toBe(true)
  })

  test('a BEGIN among them leaves the session inside a transaction', () => {
    expect(factsOf('begin; insert into t values (1)')).toMatchObject({ multiple: true, stateful: true })
  })

  test('semicolons in strings, comments, names and parentheses separate nothing', () => {
    expect(factsOf('select \';\' /* ; */, $$;$$, ";" from t -- ;').multiple).toBe(false)
    expect(factsOf('create rule r as on insert to t do also (delete from a; delete from b)').multiple).toBe(false)
  })

  test('a script of a thousand statements is unknown as a whole', () => {
    expect(factsOf('select 1;'.repeat(1_001))).toMatchObject({ multiple: true, stateful: true, writes: true })
  })

  test('no statement at all is harmless and goes nowhere in particular', () => {
    for (const sql of ['', ' ', ';', ' ; -- nothing\n;']) {
      expect(factsOf(sql)).toMatchObject({
        because: 'empty',
        verb: '',
        stateful: false,
        writes: false,
        safeOnReplica: false,
      })
    }
  })
})

describe('simple and complex reads', () => {
  test.each([
    'select * from t where a = 1',
    'select lower(a) from t order by b limit 1',
    'values (1)',
    'table t',
    'show a',
  ])('%s is simple', (sql) => {
    expect(factsOf(sql).kind).toBe('read_simple')
  })

  test.each([
    'select * from t join u on true',
    'select * from t, u',
    'select count(*) from t',
    'select a from t group by a',
    'select 1 union select 2',
    'table a intersect table b',
    'values (1) except values (2)',
    'select a from t having true',
    'select a from t join u using (b)',
    'with x as (select 1) select * from x',
    'select rank() over (order by a) from t',
    'select rank() over w from t window w as (order by a)',
    'select a, (select 1) from t',
    'select * from t where a in (select b from u)',
  ])('%s is complex', (sql) => {
    expect(factsOf(sql).kind).toBe('read_complex')
  })
})

describe('the tables of a read', () => {
  test.each([
    ['select * from orders', ['orders']],
    ['select * from App.Orders o, "Customers" as c', ['app.orders', 'Customers']],
    ['select * from "a.b", a.b', ['"a.b"', 'a.b']],
    ['select * from only orders, only (customers), t *, u', ['orders', 'customers', 't', 'u']],
    ['select * from (orders o join customers c on o.a in (c.b, c.d)) join t on true', ['orders', 'customers', 't']],
    ['select * from orders o join customers c on case when o.a then c.b end = 1, t', ['orders', 'customers', 't']],
    ['select * from orders join t on t.tags = array[orders.a, orders.b], u', ['orders', 't', 'u']],
    [
      'select * from (select * from a union select * from b) x, ((select 1 from c) union (select 2 from d)) y',
      ['a', 'b', 'c', 'd'],
    ],
    ['(select * from a) except (table b)', ['a', 'b']],
    ['select extract(day from a), trim(b from c), substring(d from e), f is distinct from g from t', ['t']],
    ['select * from unnest($1) u, generate_series(1, 2) g(a) join t on true', ['t']],
    ['select * from rows from (unnest($1), unnest($2)) r(a, b), t', ['t']],
    ["select * from xmltable('a' passing b columns c int path 'd') x, t", ['t']],
    ['with x as (select * from a) select * from x join b on true', ['a', 'b']],
    // A name of WITH is in sight after its own query, not inside it, unless it is recursive.
    ['with orders as (select * from orders where a) select * from orders', ['orders']],
    ['with recursive r as (select 1 union select 2 from r) select * from r', []],
    ['with x as (select 1), y as (select * from x, a) select * from y', ['a']],
    ['select * from (with x as (select 1) select * from x) z, x', ['x']],
    ['with x as (select 1) select * from app.x', ['app.x']],
    ['with recursive as (select 1) select * from recursive', []],
    ['with "X" as (select 1) select * from x', ['x']],
    ['select * from t where exists (select 1 from u where u.a = any (select b from v))', ['t', 'u', 'v']],
    ['select a from t for read only', ['t']],
    ['select a from t order by b, c', ['t']],
    ['select a from t group by b, c having d', ['t']],
    ['select a from t window w as (order by b, c), x as (order by d)', ['t']],
    ['select a from t x, u y for update of x, y', ['t', 'u']],
    [
      'select a from t natural left outer join u cross join v full join w on null join x on true',
      ['t', 'u', 'v', 'w', 'x'],
    ],
    ['select a from t join (u join v on true) on current_date is not null join (w) on false', ['t', 'u', 'v', 'w']],
    ['select a from generate_series(1, 2) with ordinality as g(a, b), t', ['t']],
    ['select a::timestamp with time zone, b from t', ['t']],
    ['insert into orders select a from u returning b, c', ['u']],
    ['insert into orders select a from u on conflict (b, c) do update set d = 1, e = 2', ['u']],
    ['update orders set a = b from u returning c, d', ['u']],
    ['with recursive t(a, b) as (select a, b from u) cycle a, b set c using d select * from t, v', ['u', 'v']],
    ['select rows, sets from rows, u', ['rows', 'u']],
    ['select join.a from u as join', ['u']],
    ['table u order by a, b', ['u']],
    ['select a from (table u) x', ['u']],
    ['delete from orders where a = (select b from u) returning c, d', ['u']],
    ['explain select * from t', ['t']],
    ['explain insert into t select * from u', ['u', 't']],
  ])('%s', (sql, tables) => {
    expect(factsOf(sql).tablesRead).toEqual(tables)
  })
})

test('a name given in parentheses is forgotten behind them, and may be given again', () => {
  const given = '(with c as (select 1) select * from c)'
  expect(factsOf(`select ${given}, (select 1), (select 2), ${given}`).tablesRead).toEqual([])
  expect(factsOf(`select ${given}, (select * from c), (select * from d)`).tablesRead).toEqual(['c', 'd'])
})

test('parentheses know nothing of those that were closed before them', () => {
  expect(factsOf(`select (select * from a), (nextval('plate_no'))`).functions).toEqual(['nextval'])
  expect(factsOf('select (select 1), extract(day from b), trim(from c)').tablesRead).toEqual([])
  expect(factsOf('select (select 1 from a), (select lower (b))').functions).toEqual(['lower'])
  expect(
    factsOf('select (with recursive c as (select 1) select 2), (with c as (select * from c) select 3)'),
  ).toMatchObject({ tablesRead: ['c'] })
  const gone = 'with x as (delete from a using b returning 1), y as (delete from c using d returning 1) select 1'
  expect(factsOf(gone)).toMatchObject({ tablesRead: ['b', 'd'], tablesWritten: ['a', 'c'] })
})

describe('the summary', () => {
  test.each([
    ['select * from orders join customers on true', 'SELECT orders customers'],
    ['insert into orders values (1)', 'INSERT orders'],
    ['with x as (select * from a) delete from b using x', 'DELETE b a'],
    ['update t set a = (select b from t)', 'UPDATE t'],
    ['explain select * from t', 'EXPLAIN SELECT t'],
    ['begin', 'BEGIN'],
    ['select 1', 'SELECT'],
    ['select 1; begin', 'SELECT; BEGIN'],
    ['hunter2', 'UNKNOWN'],
    ["'secret'", 'UNKNOWN'],
    ["select 'open", 'SELECT'],
    ['', 'UNKNOWN'],
    ['select * from "two\nlines"', 'SELECT two lines'],
  ])('%j is %s', (sql, summary) => {
    expect(factsOf(sql).summary).toBe(summary)
  })

  test('never holds a literal', () => {
    const secrets = ["'hunter2'", "E'hunter2'", '$$hunter2$$', '$a$hunter2$a$', "U&'hunter2'", "X'hunter2'"]
    for (const secret of secrets) {
      for (const sql of [`select ${secret} from t`, `insert into t values (${secret})`, `set x = ${secret}`, secret]) {
        expect(JSON.stringify(factsOf(sql))).not.toContain('hunter2')
      }
    }
  })

  test('is cut before it gets long', () => {
    const tables = Array.from({ length: 50 }, (_, at) => `table_${at}`)
    const { summary, tablesRead } = factsOf(`select * from ${tables.join(', ')}`)
    expect(tablesRead).toEqual(tables)
    expect(summary.length).toBeLessThanOrEqual(122)
    expect(summary).toMatch(/^SELECT table_0 table_1 .* …$/)
  })
})

test('a function whose name is written with Unicode escapes may be any function', () => {
  expect(factsOf('select U&"lower"(a)')).toMatchObject({ stateful: true, functions: ['U&"lower"'] })
})

test('the functions called are listed, with their schema when it was given', () => {
  expect(factsOf('select Lower(a), app.f(b), "F"(c), coalesce(d, now()) from t').functions).toEqual([
    'lower',
    'app.f',
    'F',
    'now',
  ])
})

test('the verb is the first keyword, and only ever a keyword', () => {
  expect(factsOf('((select 1))').verb).toBe('select')
  expect(factsOf('WITH x AS (select 1) delete from t').verb).toBe('with')
  expect(factsOf('-- c\nExplain select 1').verb).toBe('explain')
  expect(factsOf('hunter2').verb).toBe('')
})

const nested = (depth: number): string => `select ${'('.repeat(depth)}1${')'.repeat(depth)}`

test('parentheses deeper than anyone writes are left undecided', () => {
  expect(factsOf(nested(1_000)).safeOnReplica).toBe(true)
  expect(factsOf(nested(1_001))).toMatchObject({ because: 'unclear text', stateful: true })
})
