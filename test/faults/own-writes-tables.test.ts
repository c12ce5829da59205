// Own writes are remembered per table only where a table stands for itself. Replay stands still in all of these
// tests, so whatever a replica answers is old: a read that must see a write has to come from the primary.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { sql } from 'kysely'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { borrowed, open, ownOnly } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Id {
  id: number
}
interface Tables {
  orders: Id
  products: Id
  orders_seen: Id
  audited: Id
  audit: Id
  parent: Id
  child: Id
  fresh_view: Id
}

describe.skipIf(borrowed)(`while the replicas stand still ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    await cluster.primary.query(`
      create table orders (id int);
      create table products (id int);
      insert into products values (1);
      create view orders_seen as select id from orders;
      create table audit (id int);
      create table audited (id int);
      create function note() returns trigger language plpgsql as
        'begin insert into audit values (new.id); return new; end';
      create trigger note after insert on audited for each row execute function note();
      create table parent (id int primary key);
      create table child (id int references parent on delete cascade);
    `)
  })
  afterAll(() => cluster.close())
  beforeEach(async () => {
    await cluster.primary.query(`truncate orders, audit, audited, parent, child;
      insert into parent values (7); insert into child values (7)`)
    await cluster.caughtUp()
  })

  /** A dialect that knows its replicas and its catalog, over replicas that from now on replay nothing. */
  async function standing(run: (one: Opened<Tables> & { last: { role: string } }) => Promise<void>): Promise<void> {
    const opened = open<Tables>({ primary: cluster.url, replicas: cluster.replicaUrls })
    await opened.dialect.ready()
    const last = { role: '' }
    using _ = opened.dialect.on('query', ({ role }) => void (last.role = role))
    await Promise.all([cluster.pauseReplay(0), cluster.pauseReplay(1)])
    try {
      await run({ ...opened, last })
    } finally {
      await Promise.all([cluster.resumeReplay(0), cluster.resumeReplay(1)])
    }
  }

  const idsOf = async (db: Opened<Tables>['db'], table: keyof Tables): Promise<number[]> =>
    (await db.selectFrom(table).select('id').execute()).map(({ id }) => id)

  test('reads of tables that nobody wrote go on on the replicas', () =>
    standing(async ({ db, last }) => {
      await db.insertInto('orders').values({ id: 1 }).execute()
      expect(await idsOf(db, 'products')).toEqual([1])
      expect(last.role).toBe('replica')
      expect(await idsOf(db, 'orders')).toEqual([1])
      expect(last.role).toBe('primary')
    }))

  test('a view shows what was written to its table', () =>
    standing(async ({ db }) => {
      await db.insertInto('orders').values({ id: 2 }).execute()
      expect(await idsOf(db, 'orders_seen')).toEqual([2])
    }))

  test('what a trigger wrote to another table is seen', () =>
    standing(async ({ db }) => {
      await db.insertInto('audited').values({ id: 3 }).execute()
      expect(await idsOf(db, 'audit')).toEqual([3])
    }))

  test('what a foreign key deleted in another table is gone', () =>
    standing(async ({ db }) => {
      await db.deleteFrom('parent').execute()
      expect(await idsOf(db, 'child')).toEqual([])
    }))

  test('a definition that has just passed through is no reason to look at a replica that has not got it', () =>
    standing(async ({ db }) => {
      await sql`create view fresh_view as select id from products`.execute(db)
      expect(await idsOf(db, 'fresh_view')).toEqual([1])
      expect(await idsOf(db, 'products')).toEqual([1])
      await sql`drop view fresh_view`.execute(db)
    }))

  test('a raw statement may have written anything', () =>
    standing(async ({ db, last }) => {
      await sql`do $$ begin insert into products values (1); delete from products where ctid <> '(0,1)'; end $$`.execute(
        db,
      )
      expect(await idsOf(db, 'products')).toEqual([1])
      expect(last.role).toBe('primary')
    }))
})
