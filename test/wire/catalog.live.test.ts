// The questions to the catalog, asked of a real server by a role without any rights of its own, and what is made of
// the answers: on the standby that shows whether a statement was rightly sent there, and while definitions change.

import { randomBytes } from 'node:crypto'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest'
import { Catalog } from '../../src/core/catalog.ts'
import type { Row } from '../../src/core/types.ts'
import { builtInEffect, readCatalog } from '../../src/engine/catalog-reader.ts'
import { factsOf } from '../../src/sql/facts.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'

const role = `ordinary_${randomBytes(4).toString('hex')}`

let database: Database
let owner: Client
/** The connection that reads the catalog. */
let reader: Client
let standby: Client | null = null
let asked: string[] = []

const ask = async (sql: string): Promise<Row[]> => {
  asked.push(sql)
  return (await reader.query<Row>(sql)).rows
}

async function catalogNow(): Promise<Catalog> {
  const catalog = new Catalog({ readOnly: [], writing: [] }, builtInEffect)
  catalog.learn(await readCatalog(ask), catalog.version)
  return catalog
}

const connected = async (url: string, user: string, types?: object): Promise<Client> => {
  const as = new URL(url)
  as.username = user
  const client = new Client({ connectionString: as.href, ...(types === undefined ? {} : { types: types as never }) })
  await client.connect()
  return client
}

const DEFINITIONS = `
  set check_function_bodies = off;
  create schema app;
  create schema "odd.schema";
  create table plain (id int primary key, x text);
  create table cites (id int references plain);
  create table cascades (id int references plain on delete cascade);
  create table deeper (id int primary key, up int references plain on update set null);
  create table deepest (id int references deeper on delete cascade);
  create unlogged table scratch (id int);
  create table stamped (id int, x text, at timestamptz);
  create table logged (id int);
  create table log (id int);
  create table ruled (id int);
  create rule also as on insert to ruled do also insert into log values (new.id);
  create table parent (id int);
  create table child () inherits (parent);
  create table mixed_parent (id int);
  create unlogged table mixed_child () inherits (mixed_parent);
  create table parts (id int) partition by range (id);
  create table part_1 partition of parts for values from (0) to (10);
  create table part_2 partition of parts for values from (10) to (20) partition by range (id);
  create table part_2_1 partition of part_2 for values from (10) to (15);
  create table "odd.schema"."odd.table" (id int);
  create table app.twice (id int);
  create unlogged table twice (id int);
  create sequence numbers;
  create materialized view kept as select * from plain;

  create function adds(a int, b int default 1) returns int language sql as 'select a + b';
  create function counts() returns bigint language sql as 'select count(*) from seen';
  create function parsed(a int) returns int language sql begin atomic select adds(a) + (select count(*)::int from plain); end;
  create function returned(a int) returns int language sql return adds(a);
  create function stored(a int) returns int language sql as 'insert into plain values (a) returning id';
  create function stored_parsed(a int) returns int language sql
    begin atomic insert into plain values (a) returning id; end;
  create function next_number() returns bigint language sql as $$ select nextval('numbers') $$;
  create function said_stable() returns bigint language sql stable as $$ select nextval('numbers') $$;
  create function who_asks() returns bigint language sql stable as 'select txid_current()::bigint';
  create function looped(n int) returns int language plpgsql as $$
    declare r record; total int := 0;
    begin
      for r in select id from seen loop total := total + adds(r.id); end loop;
      if total > n then raise notice 'more than %', n; end if;
      return total;
    exception when others then return null;
    end $$;
  create function dynamic(q text) returns int language plpgsql as $$ declare n int; begin execute q into n; return n; end $$;
  create function writes(n int) returns int language plpgsql as $$ begin delete from plain where id = n; return n; end $$;
  create function by_default(a bigint default nextval('numbers')) returns bigint language sql as 'select a';
  create function lower(int) returns text language sql as $$ select nextval('numbers')::text $$;
  create function app.upper(text) returns text language plpgsql as $$ begin return 'app'; end $$;
  create function pg_catalog_twin() returns int language sql as 'select 1';
  create function adds_stored(a int, b int) returns int language sql as 'insert into plain values (b) returning a';
  create aggregate biggest(int) (sfunc = int4larger, stype = int);
  create aggregate storing(int) (sfunc = adds_stored, stype = int);

  create view seen as select * from plain;
  create view seen_again as select p.id, char_length(p.x) as n from seen p join parts on parts.id = p.id;
  create view numbering as select nextval('numbers') as n, id from plain;
  create view numbering_again as select * from numbering;
  create view over_scratch as select s.id from seen s, scratch;
  create view locking as select * from plain for update;
  create view over_kept as select * from kept;
  create view "odd.schema"."odd.view" as select * from "odd.schema"."odd.table";

  create function stamp() returns trigger language plpgsql as 'begin new.at = now(); return new; end';
  create function write_log() returns trigger language plpgsql as 'begin insert into log values (new.id); return new; end';
  create trigger stamp before insert or update on stamped for each row execute function stamp();
  create trigger write_log after insert on logged for each row execute function write_log();
  create table defaulted (id int, n int default stored(1));
  create table checked (id int check (adds(id) > 0));
  create table checked_by_writer (id int check (stored(id) > 0));
  create function said_immutable(int) returns int language sql immutable as $$ select nextval('public.numbers')::int $$;
  create table indexed (id int);
  create index on indexed (said_immutable(id));

  create table secured (id int, tenant text);
  alter table secured enable row level security;
  create policy of_tenant on secured using (tenant = current_setting('app.tenant', true) and adds(id) > 0);
  create policy of_writers on secured for update using (stored(id) > 0);
  create table secured_by_writer (id int);
  alter table secured_by_writer enable row level security;
  create policy numbered on secured_by_writer using (nextval('numbers') > 0);
  insert into secured_by_writer values (1);
  insert into plain values (1, 'one');
`

beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl'), replicaUrls: inject('replicaUrls').slice(0, 1) })
  owner = await connected(database.url, 'postgres')
  await owner.query(`create role ${role} login`)
  await owner.query(DEFINITIONS)
  await owner.query(`grant usage on schema app, "odd.schema" to ${role};
    grant select on all tables in schema public, app, "odd.schema" to ${role};
    grant usage on all sequences in schema public to ${role}; grant update on plain to ${role}`)
  reader = await connected(database.url, role, { getTypeParser: () => String })
  const [replicaUrl] = database.replicaUrls
  if (replicaUrl !== undefined) {
    standby = await connected(replicaUrl, role)
    await caughtUp()
  }
})

afterAll(async () => {
  await Promise.all([reader?.end(), standby?.end()])
  await owner.query(`drop owned by ${role}; drop role ${role}`)
  await owner.end()
  await database.drop()
})

async function caughtUp(): Promise<void> {
  const { rows } = await owner.query<{ lsn: string }>('select pg_current_wal_flush_lsn() as lsn')
  const { lsn } = rows[0]!
  await vi.waitFor(
    async () => {
      const answer = await standby!.query('select where pg_last_wal_replay_lsn() >= $1::pg_lsn', [lsn])
      expect(answer.rowCount).toBe(1)
    },
    { timeout: 20_000, interval: 10 },
  )
}

const SAFE: readonly [sql: string, tables: readonly string[] | null][] = [
  ['select 1', []],
  ['select * from plain', ['public.plain']],
  ['select * from seen', ['public.plain']],
  ['select * from seen_again', ['public.part_1', 'public.part_2', 'public.part_2_1', 'public.parts', 'public.plain']],
  ['select * from over_kept', ['public.kept']],
  ['select * from parent', ['public.child', 'public.parent']],
  ['select * from child', ['public.child']],
  ['select * from part_2', ['public.part_2', 'public.part_2_1']],
  ['select * from app.twice', ['app.twice']],
  ['select * from "odd.schema"."odd.view"', ['"odd.schema"."odd.table"']],
  ['select adds(1, 2), adds(1)', []],
  ['select counts()', ['public.plain']],
  ['select parsed(1)', ['public.plain']],
  ['select returned(1)', []],
  ['select looped(5)', ['public.plain']],
  ['select biggest(id) from plain', ['public.plain']],
  ["select upper('a')", []],
  ['select booleq(true, false), int4mul(2, 3)', []],
  ["select tsquery('a & b')", []],
  ['select * from secured', ['public.secured']],
  ['explain select looped(5)', ['public.plain']],
]

const STAYS: readonly [sql: string, why: string][] = [
  ['select * from scratch', 'unlogged table'],
  ['select * from mixed_parent', 'unlogged table'],
  ['select * from over_scratch', 'unlogged table'],
  ['select * from twice', 'unlogged table'],
  ['select * from numbering', 'function stays on the primary'],
  ['select * from numbering_again', 'function stays on the primary'],
  ['select id from locking', 'locks rows'],
  ['select * from secured_by_writer', 'function stays on the primary'],
  ['select stored(10)', 'unknown function'],
  ['select stored_parsed(11)', 'unknown function'],
  ['select writes(12)', 'unknown function'],
  ['select next_number()', 'function stays on the primary'],
  ['select said_stable()', 'function stays on the primary'],
  ['select who_asks()', 'function stays on the primary'],
  ['select lower(1)', 'function stays on the primary'],
  ['select by_default()', 'function stays on the primary'],
  ['select storing(id) from plain', 'unknown function'],
  ['select * from not_there', 'temporary table'],
]

/** What no standby would refuse, and still stays: a wrong guess in this direction costs nothing but the primary's time. */
const STAYS_THOUGH_ANSWERED: readonly [sql: string, why: string][] = [
  ["select dynamic('select 1')", 'unknown function'],
  ["select pg_index_has_property('plain_pkey'::regclass, 'clusterable')", 'function stays on the primary'],
  ['select last_value from numbers', 'server answers for itself'],
]

describe('what an ordinary role can read of the catalog', () => {
  let catalog: Catalog
  beforeAll(async () => {
    catalog = await catalogNow()
  })

  test.each(SAFE)('%s is safe on a standby, and the standby runs it', async (sql, tables) => {
    const judged = catalog.judge(factsOf(sql))
    expect(judged).toMatchObject({ safeOnReplica: true, stateful: false, writes: false, lockWaiter: false })
    expect(catalog.tablesRead(judged)?.toSorted() ?? null).toEqual(tables)
    if (standby !== null) await expect(standby.query(sql)).resolves.toBeDefined()
  })

  test.each(STAYS)('%s stays on the primary, and the standby refuses it: %s', async (sql, why) => {
    const judged = catalog.judge(factsOf(sql))
    expect(judged).toMatchObject({ safeOnReplica: false, because: why })
    if (standby !== null)
      await expect(standby.query(sql)).rejects.toMatchObject({ code: /^(25006|0A000|55000|42P01)$/ })
  })

  test.each(STAYS_THOUGH_ANSWERED)('%s stays on the primary: %s', (sql, why) => {
    expect(catalog.judge(factsOf(sql))).toMatchObject({ safeOnReplica: false, because: why })
  })

  test.each([
    ['plain', ['cascades', 'deeper', 'deepest', 'plain']],
    ['cites', ['cites']],
    ['deeper', ['deeper', 'deepest']],
    ['parts', ['part_1', 'part_2', 'part_2_1', 'parts']],
    ['part_2_1', ['part_2_1']],
    ['parent', ['child', 'parent']],
    ['stamped', ['stamped']],
    ['checked', ['checked']],
    ['kept', ['kept']],
  ])('a write to %s changes %j', (name, tables) => {
    const keys = catalog.tablesWritten([name])
    expect(keys?.toSorted()).toEqual(tables.map((table) => `public.${table}`))
  })

  test.each(['logged', 'ruled', 'seen', 'defaulted', 'checked_by_writer', 'indexed', 'not_there'])(
    'a write to %s may change anything',
    async (name) => {
      expect(catalog.tablesWritten([name])).toBeNull()
    },
  )

  test('temporary relations of others are none of the database’s', async () => {
    await owner.query('create temp table only_here (id int); create temp view only_seen as select 1 as id')
    const now = await catalogNow()
    expect(now.judge(factsOf('select * from only_here')).because).toBe('temporary table')
    expect(now.judge(factsOf('select * from only_seen')).because).toBe('temporary table')
    expect(now.tablesWritten(['only_here'])).toBeNull()
    await owner.query('discard temp')
  })

  test('a function of an extension is judged by what it was declared, and hides no built-in one', async () => {
    const { rowCount } = await owner.query(
      "select from pg_available_extensions where name in ('pgcrypto', 'citext', 'tsm_system_rows')",
    )
    expect(rowCount).toBe(3)
    await owner.query(
      'create extension pgcrypto; create extension citext; create extension tsm_system_rows; create table typed (x citext)',
    )
    const now = await catalogNow()
    const why = (sql: string): string => now.judge(factsOf(sql)).because
    expect(why("select crypt('a', 'b'), digest('a', 'md5')")).toBe('read')
    expect(why("select gen_salt('bf')")).toBe('unknown function')
    expect(why('select gen_random_uuid(), max(x) from typed')).toBe('read')
    expect(why('select id from plain tablesample system_rows(1)')).toBe('read')
    expect(why('select public.gen_random_uuid()')).toBe('unknown function')
    await owner.query(
      'drop table typed; drop extension citext; drop extension pgcrypto; drop extension tsm_system_rows',
    )
  })
})

describe('while definitions change', () => {
  test('what was read once more says what is true now', async () => {
    await owner.query('create table moving (id int); create view on_moving as select * from moving')
    const catalog = await catalogNow()
    const facts = factsOf('select adds(id) from on_moving')
    expect(catalog.judge(facts).because).toBe('read')
    await owner.query("create or replace view on_moving as select nextval('numbers')::int as id from moving")
    catalog.forget()
    expect(catalog.judge(facts).because).toBe('unknown function')
    catalog.learn(await readCatalog(ask, catalog.snapshot), catalog.version)
    expect(catalog.judge(facts).because).toBe('function stays on the primary')
    await owner.query('drop view on_moving; drop table moving')
  })

  test('what has not changed is not read again', async () => {
    const first = await readCatalog(ask)
    asked = []
    expect(await readCatalog(ask, first)).toBe(first)
    expect(asked).toHaveLength(1)
  })

  test.each([
    ['create table f1 (id int)', 'drop table f1'],
    ['create table pg_catalog_like (id int)', 'alter table pg_catalog_like rename to f2', 'drop table f2'],
    ['alter table cites set unlogged', 'alter table cites set logged'],
    ['create function f3() returns int language sql as $$select 1$$', 'drop function f3'],
    ['alter function adds stable', 'alter function adds volatile'],
    ["create or replace function stamp() returns trigger language plpgsql as 'begin return new; end'"],
    ['create trigger t5 before delete on stamped for each row execute function stamp()', 'drop trigger t5 on stamped'],
    ['create rule r6 as on delete to cites do instead nothing', 'drop rule r6 on cites'],
    ['alter table child no inherit parent', 'alter table child inherit parent'],
    ['alter table parts detach partition part_1', 'drop table part_1'],
    [
      'alter table cites add constraint c7 foreign key (id) references plain on delete cascade',
      'alter table cites drop constraint c7',
    ],
    ['alter table cites enable row level security', 'alter table cites disable row level security'],
    [
      'create policy p8 on secured using (id > 1)',
      'alter policy p8 on secured using (id > 2)',
      'drop policy p8 on secured',
    ],
    [
      'alter table cites add n int default stored(1)',
      'alter table cites alter n set default 1',
      'alter table cites drop n',
    ],
    ['create index i9 on cites (adds(id, 1)) where adds(id, 2) > 1', 'drop index i9'],
    ['alter view seen rename to seen_9', 'alter view seen_9 rename to seen'],
    ['create schema s10', 'alter schema s10 rename to s11', 'drop schema s11'],
    ['create view v12 as select 1 as id', 'create or replace view v12 as select 2 as id', 'drop view v12'],
  ])('%s is noticed, and so is what takes it back', async (...definitions) => {
    await owner.query('alter function adds(int, int) immutable')
    let before = await readCatalog(ask)
    for (const sql of definitions) {
      await owner.query(sql)
      const after = await readCatalog(ask, before)
      expect(after, sql).not.toBe(before)
      before = after
    }
  })

  test('rows that come and go, and statistics, are not taken for definitions', async () => {
    const before = await readCatalog(ask)
    await owner.query("insert into plain values (100, 'x'); delete from plain where id = 100; analyze plain")
    await owner.query('create temp table t13 (id int); create temp view v13 as select * from t13; discard temp')
    await owner.query('vacuum plain')
    expect(await readCatalog(ask, before)).toBe(before)
  })

  test('whoever alters a table holds nobody up: what reads it is not known this time', async () => {
    await owner.query('begin')
    await owner.query('alter table plain add later int')
    try {
      const catalog = await catalogNow()
      expect(catalog.snapshot?.fingerprint).toBeNull()
      // The text’s word stands for views, and what they read cannot be told.
      expect(catalog.judge(factsOf('select * from numbering')).because).toBe('read')
      expect(catalog.tablesRead(factsOf('select * from seen'))).toBeNull()
      expect(catalog.tablesRead(factsOf('select * from secured'))).toBeNull()
      expect(catalog.judge(factsOf('select parsed(1)')).because).toBe('unknown function')
      expect(catalog.judge(factsOf('select adds(1)')).because).toBe('read')
      expect(catalog.judge(factsOf('select * from scratch')).because).toBe('unlogged table')
    } finally {
      await owner.query('rollback')
    }
    expect((await catalogNow()).tablesRead(factsOf('select * from seen'))).toEqual(['public.plain'])
  })

  test('the reader’s connection is left as it was', async () => {
    const settings = async (): Promise<unknown> =>
      (await reader.query("select current_setting('lock_timeout') as lock, current_setting('search_path') as path"))
        .rows
    await readCatalog(ask)
    const after = await settings()
    await reader.query('reset all')
    expect(after).toEqual(await settings())
  })

  test('more than a page of functions and views is read whole', async () => {
    await owner.query(`create schema many; do $$ begin for i in 1..2100 loop
      execute format('create function many.f_%s(int) returns int language sql as %L', i, 'select $1 + ' || i);
      end loop; end $$`)
    await owner.query(`create table many.base (id int); do $$ begin for i in 1..2100 loop
      execute format('create view many.v_%s as select id from many.base', i); end loop; end $$`)
    const catalog = await catalogNow()
    expect(catalog.judge(factsOf('select f_1(1), f_2000(2), f_2001(3), many.f_2100(4)')).because).toBe('read')
    expect(catalog.judge(factsOf('select f_2101(1)')).because).toBe('unknown function')
    expect(catalog.tablesRead(factsOf('select * from v_1, v_2000, many.v_2100'))).toEqual(['many.base'])
    expect(catalog.snapshot?.whole).toBe(true)
    await owner.query('set client_min_messages = error; drop schema many cascade')
  })
})
