// What no reader of SQL can see: a view, a trigger, a default, a cast or an operator of the user changes the session
// behind a statement that looks as harmless as any. For some settings the server tells its client that they have
// another value now (ParameterStatus): those are found out, and the connection is reset. Of the others nobody hears;
// they are listed here as what does stay, so that it is known, and so that it is noticed when it does not any more.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { CompiledQuery } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { open } from './dialects.ts'
import { fingerprints } from './session-fingerprint.ts'

// oxlint-disable-next-line typescript/no-explicit-any -- whatever its tables are
type Db = Kysely<any>

/** A connection whose reported settings are not what they were is reset before its next use. */
const reportedToUs = test
/** Becomes `test` where something is found that sees them. */
const reportedToNobody = test.fails

const GROUND = `
  create table harvest (n int, text text);
  insert into harvest values (1, 'one');
  create function stain() returns text language plpgsql as $$ begin perform STAIN; return 'a'; end $$;
  create function stain(harvest) returns text language sql as $$ select stain() $$;
  create function stain_trigger() returns trigger language plpgsql as $$ begin perform stain(); return new; end $$;
  create function stain_ddl() returns event_trigger language plpgsql as
    $$ begin if tg_tag = 'COMMENT' then perform stain(); end if; end $$;
  create view stained as select stain();
  create table with_default (n int, text text default stain());
  create table with_trigger (n int);
  create trigger t before insert on with_trigger for each row execute function stain_trigger();
  create table with_late_trigger (n int);
  create constraint trigger t after insert on with_late_trigger deferrable initially deferred
    for each row execute function stain_trigger();
  create table with_rule (n int);
  create rule r as on update to with_rule do also select stain();
  grant all on with_rule to pg_monitor;
  create domain stained_number as int check (stain() is not null and value > 0);
  create type wrapped as (n int);
  create function wrap(int) returns wrapped language sql as $$ select row(length(stain()))::wrapped $$;
  create cast (int as wrapped) with function wrap(int);
  create function compare(int, int) returns bool language sql as $$ select stain() is not null $$;
  create operator === (leftarg = int, rightarg = int, function = compare);
  create function length(int) returns int language sql as $$ select length(stain()) $$;
  create event trigger t on ddl_command_end execute function stain_ddl();`

const run = (db: Db, text: string): Promise<unknown> => sql.raw(text).execute(db)

const carriers: [what: string, text: string][] = [
  ['a view', 'select * from stained'],
  ['a function that is written like a column', 'select h.stain from harvest as h'],
  ['an operator', 'select 1 === 2'],
  ['a cast', 'select 1::wrapped'],
  ['a domain', 'select 1::stained_number'],
  ['a default', 'insert into with_default (n) values (1)'],
  ['a trigger', 'insert into with_trigger values (1)'],
  ['a trigger that waits for COMMIT', 'insert into with_late_trigger values (1)'],
  ['a rule', 'update with_rule set n = 1'],
  ['a function that is called like a built-in one', 'select length(5)'],
  ['an event trigger', "comment on table harvest is 'stained'"],
  ['a default that is added', 'alter table harvest add column if not exists other text default stain()'],
]

const states: [what: string, sets: string, noticed: typeof test.fails][] = [
  ['a time zone', `set_config('TimeZone', 'Asia/Kathmandu', false)`, reportedToUs],
  ['a role', `set_config('role', 'pg_monitor', false)`, reportedToUs],
  ['a setting of the user’s own', `set_config('app.tenant', 'a', false)`, reportedToNobody],
  ['an advisory lock', 'pg_advisory_lock(42)', reportedToNobody],
]

const max = 2
const pool = { min: 0, initial: max, minIdle: 0, max }
const modes: [name: string, options: Partial<SmartPgOptions>][] =
  wire === 'pg'
    ? [["wire: 'pg'", { pool }]]
    : [
        ['connections are shared', { pool }],
        ['connections are not shared', { pool: { ...pool, lanes: false } }],
      ]

describe.each(modes)('%s', (_, options) => {
  describe.each(states)('%s that was left by', (_, sets, noticed) => {
    let database: Database
    beforeAll(async () => {
      database = await createDatabase({ url: inject('primaryUrl') })
      await ask(
        database.url,
        GROUND.replace('STAIN', () => sets),
      )
    })
    afterAll(() => database.drop())

    noticed.each(carriers)('%s does not reach the next caller', async (_, text) => {
      const connected = () => open<never>({ primary: database.url, applicationName: 'unseen', ...options })
      const [fresh] = await fingerprints(connected().db, 1)
      const { db, dialect } = connected()
      await dialect.ready()
      await run(db, text)
      expect(await fingerprints(db, max)).toEqual(Array.from({ length: max }, () => fresh))
    })
  })
})

describe('a connection is not reset', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
  })
  afterAll(() => database.drop())

  const one = { min: 0, initial: 1, minIdle: 0, max: 1 }
  /** DISCARD ALL would take it away. */
  const remembered = async (db: Db): Promise<boolean> => {
    const { rows } = await sql<{ n: number }>`select count(*)::int as n from pg_prepared_statements
      where not from_sql and statement like '%marked%'`.execute(db)
    return rows[0]!.n > 0
  }
  const marked = async (db: Db): Promise<void> => {
    for (let n = 0; n < 3; n++) await run(db, 'select 1 as marked')
  }

  test('because of a reported setting that was local to a transaction', async () => {
    const { db } = open<never>({ primary: database.url, pool: one })
    await marked(db)
    await db.transaction().execute(async (trx) => {
      await run(trx, "set local time zone 'Asia/Kathmandu'")
      expect((await sql<object>`show time zone`.execute(trx)).rows).toEqual([{ TimeZone: 'Asia/Kathmandu' }])
    })
    expect(await remembered(db)).toBe(true)
  })

  test('because of reported settings that session.init or onReserveConnection make', async () => {
    const { db } = open<never>({
      primary: database.url,
      pool: one,
      session: { init: "set datestyle = 'German'" },
      onReserveConnection: async (connection) => {
        await connection.executeQuery(CompiledQuery.raw("set time zone 'Asia/Kathmandu'"))
      },
    })
    await marked(db)
    expect(await remembered(db)).toBe(true)
  })
})
