// Our own wire against pg itself: the same statements with the same parameters, asked of the same server through
// both, give deeply equal results, property by property. Each is asked unnamed and under a name, three times, because
// from the second time on our wire reads rows by a description that it has kept.

import { DatabaseError, types as pgTypes } from 'pg'
import { inject, describe, expect, onTestFinished, test } from 'vitest'
import { READ_FACTS } from '../../src/core/statements.ts'
import type { Row, Session } from '../../src/core/types.ts'
import { clientOf, open, outside, run } from './sessions.ts'
import type { Overrides } from './sessions.ts'

interface Pair {
  readonly pg: Session
  readonly native: Session
}

async function pair(overrides: Overrides = {}): Promise<Pair> {
  const url = inject('primaryUrl')
  const [pg, native] = await Promise.all([open(overrides, url, 'pg'), open(overrides, url, 'native')])
  return { pg, native }
}

/** Whatever can be told apart about an answer. */
async function outcome(session: Session, sql: string, parameters: readonly unknown[], name?: string): Promise<unknown> {
  try {
    const { rows, ...rest } = await run(session, sql, parameters, name)
    return { rows: rows.map(anatomy), ...rest, status: session.status }
  } catch (error) {
    return { error: anatomyOfError(error as Error), status: session.status }
  }
}

/** Own properties one by one: matchers look past `__proto__`. */
function anatomy(row: Row): unknown {
  const properties = Reflect.ownKeys(row).map((key) => [key, Object.getOwnPropertyDescriptor(row, key)])
  return { properties, plain: Object.getPrototypeOf(row) === Object.prototype }
}

function anatomyOfError(error: Error): unknown {
  const names = Object.getOwnPropertyNames(error).filter((name) => name !== 'stack')
  const properties = names.map((name) => [name, (error as unknown as Row)[name]])
  return {
    properties,
    real: error instanceof DatabaseError,
    prototype: Object.getPrototypeOf(error) === DatabaseError.prototype,
  }
}

type Asked = [sql: string, parameters?: readonly unknown[]]

let names = 0

async function expectEqual({ pg, native }: Pair, sql: string, parameters: readonly unknown[] = []): Promise<void> {
  const name = `d_${++names}`
  for (const under of [undefined, name, name, name]) {
    const [expected, actual] = [
      await outcome(pg, sql, parameters, under),
      await outcome(native, sql, parameters, under),
    ]
    expect(actual, `${sql} ${under === undefined ? 'unnamed' : 'named'}`).toStrictEqual(expected)
  }
}

const odd = 'ä ß 漢字 🐘 \u{10FFFF} \u0001 \t\n\r "\'\\ {},() NULL null \u00a0 e\u0301 ' + 'x'.repeat(300)

/** Literals for each type; the server itself says below which types there are. */
const literals: Record<string, readonly string[]> = {
  bool: ['true', 'false'],
  bytea: ['\\x', '\\x00', '\\x00ff10deadbeef', `\\x${'ab'.repeat(5000)}`],
  char: ['a', ''],
  name: ['', 'a name', 'x'.repeat(63)],
  int2: ['0', '-32768', '32767'],
  int4: ['0', '-2147483648', '2147483647'],
  int8: ['0', '-9223372036854775808', '9223372036854775807', '9007199254740993'],
  oid: ['0', '4294967295'],
  float4: ['0', '-0', 'NaN', 'Infinity', '-Infinity', '1e-45', '3.4028235e38', '0.1'],
  float8: ['0', '-0', 'NaN', 'Infinity', '-Infinity', '5e-324', '1.7976931348623157e308', '0.1'],
  numeric: ['0', '-0.000', 'NaN', 'Infinity', '-Infinity', '1e-100', `${'9'.repeat(100)}.${'1'.repeat(100)}`],
  money: ['0', '-92233720368547758.08', '92233720368547758.07'],
  text: ['', ' ', 'null', odd, '__proto__', '🐘'.repeat(50_000)],
  varchar: ['', odd],
  bpchar: ['', 'padded   ', odd],
  json: ['null', '1', '"x"', '[]', '{}', '{"__proto__": {"a": 1}}', '{"a": [1, 2.5, "x", null, {"b": true}]}', '1e400'],
  jsonb: ['null', '1', '"x"', '[]', '{}', '{"__proto__": {"a": 1}}', '{"a": [1, 2.5, "x", null, {"b": true}]}'],
  jsonpath: ['$.a[*]'],
  xml: ['<a>1</a>'],
  uuid: ['00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'],
  date: [
    '2000-01-01',
    '0001-01-01',
    '0044-03-15 BC',
    '4713-01-01 BC',
    '5874897-12-31',
    'infinity',
    '-infinity',
    '2024-02-29',
  ],
  time: ['00:00', '24:00', '23:59:59.999999'],
  timetz: ['00:00+15:59', '23:59:59.999999-15:59'],
  timestamp: [
    '2000-01-01',
    '0044-03-15 12:00 BC',
    '294276-12-31 23:59:59.999999',
    'infinity',
    '-infinity',
    '1970-01-01 00:00:00.001',
    '1969-12-31 23:59:59.9999',
    '0099-01-01',
  ],
  timestamptz: [
    '2000-01-01 00:00+00',
    '0044-03-15 12:00+05:53:28 BC',
    '294276-12-31 23:59:59.999999+00',
    'infinity',
    '-infinity',
    '1900-01-01 00:00:00+00',
  ],
  interval: ['0', '1 year 2 mons -3 days 04:05:06.789', '-178000000 years', '00:00:00.000001', '1 mon -1 day'],
  inet: ['127.0.0.1', '::1/64', '10.0.0.0/8'],
  cidr: ['10.0.0.0/8', '::/0'],
  macaddr: ['08:00:2b:01:02:03'],
  macaddr8: ['08:00:2b:01:02:03:04:05'],
  bit: ['1', '0'],
  varbit: ['', '10101'],
  point: ['(0,0)', '(-1.5,1e300)', '(NaN,Infinity)'],
  line: ['{1,2,3}'],
  lseg: ['[(0,0),(1,1)]'],
  box: ['(1,1),(0,0)'],
  path: ['((0,0),(1,1))', '[(0,0),(1,1)]'],
  polygon: ['((0,0),(1,1),(1,0))'],
  circle: ['<(0,0),1>', '<(1.5,-2),0>'],
  tsvector: ["'a' 'b':1A,2"],
  tsquery: ["'a' & !'b'"],
  pg_lsn: ['0/0', 'FFFFFFFF/FFFFFFFF'],
  txid_snapshot: ['1:10:2,3'],
  pg_snapshot: ['1:10:2,3'],
  xid: ['0', '4294967295'],
  xid8: ['18446744073709551615'],
  cid: ['1'],
  tid: ['(0,1)'],
  oidvector: ['', '1 2 3'],
  int2vector: ['', '1 2 3'],
  regclass: ['pg_class', '0'],
  regtype: ['integer'],
  regproc: ['now'],
  regprocedure: ['now()'],
  regoper: ['!~~'],
  regoperator: ['+(integer,integer)'],
  regrole: ['pg_monitor'],
  regnamespace: ['pg_catalog'],
  regcollation: ['"C"'],
  regconfig: ['simple'],
  regdictionary: ['simple'],
  refcursor: ['a cursor'],
  aclitem: ['=r/pg_monitor'],
  int4range: ['empty', '[1,5)', '(,)', '[1,)'],
  int8range: ['empty', '[1,9223372036854775807)'],
  numrange: ['empty', '[1.5,2.5]', '(,0)'],
  tsrange: ['["2000-01-01 00:00","2000-01-02 00:00")', '[-infinity,infinity]'],
  tstzrange: ['["2000-01-01 00:00+00",)'],
  daterange: ['[2000-01-01,2000-02-01)'],
  int4multirange: ['{}', '{[1,3),[5,7)}'],
  int8multirange: ['{[1,3)}'],
  nummultirange: ['{[1.5,3],(5,)}'],
  tsmultirange: ['{["2000-01-01 00:00","2000-01-02 00:00")}'],
  tstzmultirange: ['{["2000-01-01 00:00+00",)}'],
  datemultirange: ['{[2000-01-01,2000-02-01)}'],
}

describe('every type the server knows', () => {
  test('null, alone and in an array', async () => {
    const both = await pair()
    const { rows } = await run(
      both.pg,
      `select format_type(oid, null) as name, typarray <> 0 as arrays from pg_type
        where typnamespace = 'pg_catalog'::regnamespace and typtype in ('b', 'r', 'm', 'e', 'd') and typisdefined
        order by oid`,
    )
    expect(rows.length).toBeGreaterThan(80)
    for (const { name, arrays } of rows as { name: string; arrays: boolean }[]) {
      const lists = arrays ? `, array[null, null]::${name}[] as list, '{}'::${name}[] as none` : ''
      await expectEqual(both, `select null::${name} as one${lists}`)
    }
  })

  test.each(Object.entries(literals))(
    '%s: as a literal, as a parameter, in arrays of one and two dimensions',
    async (type, texts) => {
      const both = await pair()
      const quoted = type === 'char' ? '"char"' : type
      const { rows } = await run(both.pg, 'select typarray <> 0 as arrays from pg_type where typname = $1', [type])
      expect(rows, `the server knows no type ${type}`).toHaveLength(1)
      for (const text of texts) {
        const lists = rows[0]!['arrays'] ? `, array[v, null, v] as list, array[[v, v], [v, v]] as square` : ''
        await expectEqual(both, `select v${lists} from (select $1::text::${quoted} as v) as one`, [text])
        await expectEqual(both, `select v${lists} from (select $1::${quoted} as v) as one`, [text])
        await expectEqual(both, `select '${text.replaceAll("'", "''")}'::${quoted} as v`)
      }
    },
  )

  test('in every time zone and date style of a session', async () => {
    const both = await pair()
    const sql = `select timestamptz '2024-03-31 01:30+00' as a, timestamptz '1900-01-01 00:00+00' as b, date '2024-03-31' as c,
      interval '1 year -2 days 3 hours' as d, timestamp '2024-03-31 02:30' as e`
    for (const set of [
      "timezone = 'Asia/Kathmandu'",
      "timezone = 'America/St_Johns'",
      "datestyle = 'SQL, DMY'",
      "intervalstyle = 'iso_8601'",
      "bytea_output = 'escape'",
      'extra_float_digits = 0',
    ]) {
      for (const session of [both.pg, both.native]) await run(session, `set ${set}`)
      await expectEqual(both, sql)
      await expectEqual(both, "select '\\x00ff41'::bytea as b, 0.1::float8 as f, 1e-7::float4 as g")
    }
  })

  test('enums, composites, domains, and rows without a name', async () => {
    const both = await pair()
    for (const session of [both.pg, both.native]) {
      await run(
        session,
        `create type pg_temp.mood as enum ('sad', 'a "quoted" one', 'ä');
        create type pg_temp.pair as (a int, b text, c pg_temp.mood[]);
        create domain pg_temp.positive as int check (value > 0)`,
      )
    }
    await expectEqual(both, "select 'sad'::pg_temp.mood as m, enum_range(null::pg_temp.mood) as all")
    await expectEqual(
      both,
      `select row(1, 'x "y", (z)', '{sad}')::pg_temp.pair as p, array[row(null, '', null)::pg_temp.pair] as l`,
    )
    await expectEqual(
      both,
      "select 7::pg_temp.positive as d, array[1, 2]::pg_temp.positive[] as l, row(1, 'a', null) as r, (row(1, 2)).*",
    )
  })
})

describe('parameters of every kind', () => {
  test.each<Asked>([
    ['select $1::text as v', [odd]],
    ['select $1::text as v', [null]],
    ['select $1::text as v', [undefined]],
    ['select $1::int as v', [-0]],
    ['select $1::float8 as v', [Number.NaN]],
    ['select $1::bool as v', [true]],
    ['select $1::int8 as v', [2n ** 62n]],
    ['select $1::bytea as v', [Buffer.from([0, 255, 10, 0])]],
    ['select $1::bytea as v', [Buffer.alloc(0)]],
    ['select $1::bytea as v', [new Uint8Array([1, 2, 3])]],
    ['select $1::bytea as v', [Buffer.alloc(300_000, 7)]],
    ['select $1::int[] as v', [[1, null, [2]].flat()]],
    [
      'select $1::int[] as v',
      [
        [
          [1, 2],
          [3, 4],
        ],
      ],
    ],
    ['select $1::text[] as v', [['a,b', '"', '\\', '{}', '', 'NULL', null, odd]]],
    ['select $1::bytea[] as v', [[Buffer.from('a'), Buffer.alloc(0)]]],
    ['select $1::jsonb as v', [{ a: [1, { b: null }] }]],
    ['select $1::json as v', [JSON.stringify([1])]],
    ['select $1::timestamptz as v', [new Date('2024-02-29T12:34:56.789Z')]],
    ['select $1::timestamptz as v', [new Date(-1e14)]],
    ['select $1::text as v', [{ toPostgres: () => 'by itself' }]],
    ['select $1::text as v', [{ toJSON: () => undefined }]],
    ['select $1::text || $2::text || $1::text as v', ['a', 'b']],
    ['select $1::text as v', ['x'.repeat(200_000)]],
    ['select $1::text as v', ['ü'.repeat(12)]],
    ['select $1::text as v', ['a\0b']],
    ['select $1::int as v', ['not a number']],
    ['select $1::int as v', [1, 2]],
    ['select $1::int, $2::int as v', [1]],
    ['select $1 as v', [1]],
    ['select 1 as "a\0b"', []],
  ])('%s', async (sql, parameters) => {
    await expectEqual(await pair(), sql, parameters)
  })
})

describe('columns', () => {
  test.each([
    'select',
    'select from generate_series(1, 3)',
    'select 1 as a where false',
    'select where false',
    'select 1 as a, 2 as a, null as a',
    'select null as a, 2 as b, 3 as a',
    'select 1 as "__proto__", 2 as constructor, 3 as "toString", 4 as "hasOwnProperty"',
    'select null as "__proto__"',
    'select 1 as "__proto__", 2 as "__proto__"',
    `select '{"x": 1}'::json as "__proto__"`,
    'select 1 as "0", 2 as "1", 3 as "-1", 4 as "01", 5 as """ ", 6 as "length"',
    'select 1 as "ä", 2 as "漢字", 3 as "🐘", 4 as "with space", 5 as "A"',
    'select 1, 2, now() is null, 4::text',
    'select n, n::text as t, null as x from generate_series(1, 2000) as n',
    'values (1, $$a$$), (2, null)',
    'table pg_catalog.pg_am',
    'show server_version',
    'explain (costs off) select 1',
  ])('of %s', async (sql) => {
    await expectEqual(await pair(), sql)
    await expectEqual(await pair(), `${sql} `, [])
  })

  test('sixteen hundred of them', async () => {
    const list = Array.from({ length: 1600 }, (_, i) => `${i} as c${i}`).join(', ')
    await expectEqual(await pair(), `select ${list} from generate_series(1, 3)`)
  })

  test('a row of several megabytes', async () => {
    await expectEqual(await pair(), "select repeat('ä', 3000000) as a, repeat('b', $1::int) as b", [3_000_000])
  })
})

test('commands answer with the same tag and count', async () => {
  const both = await pair()
  for (const [sql, parameters] of [
    ['create temp table t (id int primary key, v text)'],
    ['insert into t select n, n::text from generate_series(1, 10) as n'],
    ['insert into t values ($1, $2) returning *', [11, 'eleven']],
    ['insert into t values (11, null) on conflict do nothing'],
    ['update t set v = $1 where id > 5 returning id', ['new']],
    ['delete from t where id = 1'],
    [
      'merge into t using (values (2), (99)) as s (id) on t.id = s.id when matched then delete when not matched then insert values (s.id, null)',
    ],
    ['select id, v from t order by id'],
    ['with gone as (delete from t where id = 3 returning *) select * from gone'],
    ['copy t to stdout'],
    ['truncate t'],
    ['do $$ begin perform 1; end $$'],
    ['begin'],
    ['declare c cursor for select generate_series(1, 5) as n'],
    ['declare b binary cursor for select 65 as n, $$text$$ as t'],
    ['fetch 2 from c'],
    ['move 1 from c'],
    ['fetch all from b'],
    ['savepoint s'],
    ['rollback to s'],
    ['commit'],
    ['select 1; select 2 as b'],
    ['select 1 as a; insert into t values (1, $$x$$); select'],
    ['select 1; select 1/0; select 2'],
    ['begin; select 1/0; select 2'],
    ['select 1'],
    ['commit'],
    [''],
    [';;'],
    ['/* nothing */'],
    ['set work_mem = $$5MB$$'],
    ['prepare p as select $1::int as n'],
    ['execute p(4)'],
    ['deallocate p'],
    ['listen a_channel'],
    ['copy t from stdin'],
    ['drop table t'],
  ] as Asked[]) {
    const [expected, actual] = [
      await outcome(both.pg, sql, parameters ?? []),
      await outcome(both.native, sql, parameters ?? []),
    ]
    // Each side gives the server its own reason why there is no data.
    if (sql === 'copy t from stdin') expect([expected, actual]).toMatchObject([{ status: 'idle' }, { status: 'idle' }])
    else expect(actual, sql).toStrictEqual(expected)
  }
})

describe('errors are the same objects', () => {
  test.each<Asked>([
    ['selec 1'],
    ['select nothing'],
    ['select 1/0'],
    ['select 1/$1::int', [0]],
    ["select 'ä' || no_such_function()"],
    ['select n / (n - 3) from generate_series(1, 5) as n'],
    ['select * from no_such_table where a = $1', [1]],
    [
      `do $$ begin raise exception 'own' using errcode = 'P0042', detail = 'detail ä', hint = 'hint', column = 'c', constraint = 'k', datatype = 'd', table = 't', schema = 's'; end $$`,
    ],
    [`do $$ begin execute 'select 1/0'; end $$`],
    ['insert into differential_ones values (1), (1)'],
    ['insert into differential_ones values ($1)', [null]],
    ['insert into differential_ones values (-1)'],
  ])('%s', async (sql, parameters) => {
    const both = await pair()
    await run(both.pg, 'drop table if exists differential_ones')
    await run(both.pg, 'create table differential_ones (n int primary key check (n > 0))')
    onTestFinished(async () => void (await run(both.pg, 'drop table differential_ones')))
    await expectEqual(both, sql, parameters)
    for (const session of [both.pg, both.native]) await run(session, 'begin')
    await expectEqual(both, sql, parameters)
    for (const session of [both.pg, both.native]) await run(session, 'rollback')
  })
})

test('notices, notifications and parameters that change are told to whoever listens on the client', async () => {
  const { pg, native } = await pair()
  const heard = [pg, native].map((session) => {
    const client = clientOf(session)
    const told: unknown[] = []
    client.on('notice', (notice) => told.push(Object.assign({}, notice)))
    client.on('notification', ({ processId, ...rest }) => told.push({ ...rest, processId: typeof processId }))
    const connection = client.connection as unknown as { on(event: string, listener: (message: object) => void): void }
    connection.on('parameterStatus', (message) => told.push({ ...message }))
    return told
  })
  for (const session of [pg, native]) {
    await run(session, "do $$ begin raise notice 'a %', 'ä' using detail = 'd', hint = 'h'; raise warning 'w'; end $$")
    await run(session, 'drop table if exists not_there')
    await run(session, "set application_name = 'renamed'")
    await run(session, 'listen of_all')
  }
  await (await outside()).query("select pg_notify('of_all', 'ä'), pg_notify('of_all', '')")
  for (const told of heard) await expect.poll(() => told.length).toBe(6)
  expect(heard[1]).toEqual(heard[0])
})

describe('type parsers', () => {
  const sql = "select 1::int4 as a, 2::int8 as b, 'x'::text as c, array[1, 2] as d, null::int4 as e, now() is null as f"

  test('of the dialect', async () => {
    const getTypeParser = (oid: number, format: string) => (text: string) => [oid, format, text]
    await expectEqual(await pair({ types: { getTypeParser } }), sql)
  })

  test('of the dialect that throw, or are none', async () => {
    const throws = () => () => { throw new RangeError('the parser broke') } // prettier-ignore
    const broken = await pair({ types: { getTypeParser: throws } })
    const none = await pair({ types: { getTypeParser: (() => undefined) as never } })
    for (const { pg, native } of [broken, none]) {
      const messages = []
      for (const session of [pg, native]) {
        messages.push(await run(session, 'select 1 as a, $1::text', ['x']).catch((error: Error) => error.constructor))
        expect((await run(session, 'select null as nothing')).rows).toEqual([{ nothing: null }])
      }
      expect(messages[1]).toBe(messages[0])
    }
  })

  test('of one client, and the global ones, also when they change under a prepared statement', async () => {
    const both = await pair()
    await expectEqual(both, sql)
    const name = 'changing_parsers'
    const ask = async (): Promise<void> => {
      expect(await outcome(both.native, sql, [], name)).toStrictEqual(await outcome(both.pg, sql, [], name))
    }
    await ask()
    for (const session of [both.pg, both.native]) {
      clientOf(session).setTypeParser(pgTypes.builtins.INT8, (text: string) => BigInt(text))
    }
    await ask()
    const before = pgTypes.getTypeParser(pgTypes.builtins.INT4)
    onTestFinished(() => pgTypes.setTypeParser(pgTypes.builtins.INT4, before as never))
    pgTypes.setTypeParser(pgTypes.builtins.INT4, (text: string) => `global ${text}`)
    await ask()
    expect((await run(both.native, sql, [], name)).rows).toMatchObject([{ a: 'global 1', b: 2n }])
  })
})

test('rows of portals', async () => {
  const { pg, native } = await pair()
  const chunks = []
  for (const session of [pg, native]) {
    await run(session, 'begin')
    const sql = 'select n, n::text as "__proto__", null as x, now() is null as y from generate_series(1, $1::int) as n'
    const portal = session.openPortal({ sql, parameters: [7], facts: READ_FACTS })
    const read = []
    for (let i = 0; i < 4; i++) read.push((await portal.read(3)).map(anatomy))
    chunks.push(read)
  }
  expect(chunks[1]).toStrictEqual(chunks[0])
})
