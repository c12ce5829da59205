// The question to the catalog, asked of a real server: only tables that stand for themselves may be named.

import { Client } from 'pg'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { PLAIN_TABLES_SQL } from '../../src/core/plain-tables.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'

let database: Database
let client: Client

beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl') })
  client = new Client({ connectionString: database.url })
  await client.connect()
})

afterAll(async () => {
  await client.end()
  await database.drop()
})

async function plain(): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(PLAIN_TABLES_SQL)
  return rows.map(({ name }) => name).toSorted()
}

test('tables whose writes or reads reach others are not named', async () => {
  await client.query(`
    create table alone (id int primary key);
    create table cites (id int references alone);
    create table master (id int primary key);
    create table cascades (id int references master on delete cascade);
    create table nulls_master (id int primary key);
    create table nulls (id int references nulls_master on update set null);
    create view seen as select * from alone;
    create materialized view kept as select * from alone;
    create table triggered (id int);
    create function note() returns trigger language plpgsql as 'begin return new; end';
    create trigger note after insert on triggered for each row execute function note();
    create table ruled (id int);
    create rule also as on insert to ruled do also insert into alone values (new.id);
    create table parent (id int);
    create table child () inherits (parent);
    create table parts (id int) partition by range (id);
    create table part partition of parts for values from (0) to (10);
    create unlogged table unlogged (id int);
    create temp table temporary (id int);
    create table twice (id int);
    create schema other;
    create view other.twice as select 1 as id;
  `)
  expect(await plain()).toEqual(['alone', 'cascades', 'cites', 'nulls'])
})
