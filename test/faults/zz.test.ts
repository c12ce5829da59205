import { sql } from 'kysely'
import { expect, inject, test } from 'vitest'
import { createDatabase } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { open } from './dialects.ts'
test('view and trigger', async () => {
  const database = await createDatabase({ url: inject('primaryUrl') })
  await ask(database.url, `create function stain() returns text language sql as $$ select set_config('work_mem', '77MB', false) $$;
   create view v as select stain() as s; create table t (n int);
   create function trg() returns trigger language plpgsql as $$ begin perform set_config('work_mem','78MB',false); return new; end $$;
   create trigger tr before insert on t for each row execute function trg();`)
  const { db } = open<any>({ primary: database.url, pool: { min: 0, initial: 0, max: 1, minIdle: 0 } })
  const wm = async () => (await sql<any>`show work_mem`.execute(db)).rows[0].work_mem
  console.log('fresh', await wm())
  await db.selectFrom('v').selectAll().execute()
  console.log('view', await wm())
  await db.insertInto('t').values({ n: 1 }).execute()
  console.log('trigger', await wm())
  expect(1).toBe(1)
  await db.destroy(); await database.drop()
})
