// What the source of a function tells of it. Whether its calls only read is not asked here.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readExpressions, readPlpgsqlBody, readSqlBody } from '../../src/sql/function-body.ts'

describe('in SQL', () => {
  test.each([
    ['select 1', [], []],
    ['select $1 + 1;', [], []],
    [
      'select count(*) from orders o join sales.lines l using (id) where f(o.id)',
      ['count', 'f'],
      ['orders', 'sales.lines'],
    ],
    ['select 1; select g(2) from t; values (3);', ['g'], ['t']],
    ['with recent as (select * from orders) select * from recent', [], ['orders']],
    ['return lower($1) || suffix()', ['lower', 'suffix'], []],
    ['RETURN (SELECT max(id) FROM t)', ['max'], ['t']],
    ["begin atomic select 'a;b', f(1); select * from t; end", ['f'], ['t']],
    ['BEGIN ATOMIC\n SELECT a = ANY (ARRAY[1, 2]) FROM t;\nEND', [], ['t']],
    ["select nextval('numbers')", ['nextval'], []],
    ['', [], []],
  ])('%s reads', (source, calls, reads) => {
    expect(readSqlBody(source)).toEqual({ reading: true, calls, reads })
  })

  test.each([
    'insert into t values (1)',
    'select 1; update t set a = 1; select 2',
    'with gone as (delete from t returning *) select * from gone',
    'select * from t for update',
    'select 1 into t',
    'begin atomic insert into t values (1); select 1; end',
    'begin atomic select 1; delete from t; end',
    'set search_path = app',
    "notify news, 'x'",
    'truncate t',
    'call p()',
    "select 'unfinished",
    'select * from pg_class',
  ])('%s is not taken for a read', (source) => {
    expect(readSqlBody(source)).toMatchObject({ reading: false, reads: null })
  })

  test('what a source that writes calls is known all the same', () => {
    expect(readSqlBody('insert into t select f(1)').calls).toEqual(['f'])
  })

  test('an expression is read as if it were selected', () => {
    expect(readExpressions("tenant = current_setting('app.tenant') and id in (select id from visible)")).toMatchObject({
      functions: ['current_setting'],
      tablesRead: ['visible'],
    })
    expect(readExpressions("nextval('s'), 1")).toMatchObject({ functions: ['nextval'], writes: true })
    expect(readExpressions("'unfinished")).toMatchObject({ kind: 'unknown' })
  })
})

describe('in PL/pgSQL', () => {
  test.each([
    ['begin return 1; end', [], []],
    ['begin return (a + b); end;', [], []],
    ['BEGIN RETURN f(a) + app.g(b); END', ['f', 'app.g'], []],
    ['declare n int := count_all(); begin n := n + 1; return n; end', ['count_all'], []],
    ['declare x numeric(10, 2) = 1; y varchar(20); begin y = x::varchar(5); return y; end', [], []],
    ['begin select count(*) into strict n from orders where id = $1; return n; end', ['count'], ['orders']],
    ['begin perform check_it(1); return true; end', ['check_it'], []],
    ['begin return query select * from a, b join c on a.x = c.x, d where a.id = b.id; end', [], ['a', 'b', 'c', 'd']],
    ['begin return query (select 1 from (select * from t) s); end', [], ['t']],
    ['begin for r in select * from only t loop s := s + r.n; end loop; return s; end', [], ['t']],
    ['begin for i in 1..10 loop continue when i = 3; exit when i > 5; end loop; return 1; end', [], []],
    ['begin while (n > 0) loop n := n - 1; end loop; return n; end', [], []],
    ['begin if (a > 1) then return 1; elsif (b) then return 2; else return 3; end if; end', [], []],
    ["begin raise notice 'n = %', f(n); return n; end", ['f'], []],
    ['begin new.changed_at = now(); new.x := upper(new.x); return new; end', ['now', 'upper'], []],
    ["begin if tg_op = 'DELETE' then return old; end if; return new; end", [], []],
    ['begin a[1] := 2; a[i + 1].b := f(3); return a; end', ['f'], []],
    ['begin return 1; exception when division_by_zero then return null; end', [], []],
    ['<<outer>> declare n int; begin <<again>> loop exit outer; end loop again; return n; end outer', [], []],
    ['begin get stacked diagnostics m = message_text; return m; end', [], []],
    ['begin return case when a then f(b) else g(c) end; end', ['f', 'g'], []],
    ['begin case n when 1 then return 1; else null; end case; return 2; end', [], []],
    ['begin return row_number() over (partition by a order by b) from t; end', ['row_number'], ['t']],
    ['begin return a is distinct from b; end', [], []],
    ["begin return 'execute; insert into t; drop table t'; -- delete from t\n end", [], []],
    ['begin foreach x in array xs loop n := n + x; end loop; return n; end', [], []],
    [
      'begin return pg_typeof(1) || pg_catalog.lower(x) collate pg_catalog."C"; end',
      ['pg_typeof', 'pg_catalog.lower'],
      [],
    ],
    ['begin assert n > 0; return n; end', [], []],
    ["begin perform nextval('s'); return 1; end", ['nextval'], []],
    ['begin return exists (select from t where t.update_count > 0); end', [], ['t']],
  ])('%s reads', (source, calls, reads) => {
    expect(readPlpgsqlBody(source)).toEqual({ reading: true, calls, reads })
  })

  test.each([
    'begin insert into t values (1); return 1; end',
    'begin update t set a = 1; return 1; end',
    'begin delete from t; return 1; end',
    'begin merge into t using s on true when matched then do nothing; return 1; end',
    'begin return query with gone as (delete from t returning *) select * from gone; end',
    'begin return query insert into t values (1) returning *; end',
    "begin execute 'insert into t values (1)'; return 1; end",
    "begin return query execute 'select 1'; end",
    'begin for r in execute q loop end loop; return 1; end',
    'begin open c for execute q; return c; end',
    'begin select * into r from t for update; return r; end',
    'begin perform 1 from t for share; return 1; end',
    'begin perform 1 from t for key share; return 1; end',
    'begin truncate t; return 1; end',
    'begin if a then truncate t; end if; return 1; end',
    'begin if a then null; else vacuum t; end if; end',
    'begin loop lock table t; end loop; end',
    'begin create temp table x (a int); return 1; end',
    'begin drop table t; return 1; end',
    'begin alter table t add b int; return 1; end',
    'begin call p(); return 1; end',
    'begin commit; end',
    'begin rollback; end',
    "begin set local work_mem = '1MB'; return 1; end",
    'begin set app.x = 1; return 1; end',
    'begin reset all; end',
    "begin notify news, 'x'; return 1; end",
    'begin listen news; end',
    'begin copy t from program $$true$$; end',
    "begin comment on table t is 'x'; end",
    'begin refresh materialized view v; end',
    'begin repack t; end',
    'begin frobnicate; end',
    'begin select relname into n from pg_class; return n; end',
    'begin select 1 into n from information_schema.tables; return n; end',
    'begin select 1 into n from kysely_migration; return n; end',
    'declare n int; begin begin delete from t; exception when others then null; end; return 1; end',
    "begin return 'unfinished; end",
  ])('%s is not taken for a read', (source) => {
    expect(readPlpgsqlBody(source)).toMatchObject({ reading: false, reads: null })
  })

  test('a function of the user may be called like a word of the language', () => {
    expect(readPlpgsqlBody('begin x := if(1); return query_(2) + query(3); end').calls).toEqual([
      'if',
      'query_',
      'query',
    ])
    expect(readPlpgsqlBody('begin x := a + while(1); return over(2) + by(3); end').calls).toEqual([
      'while',
      'over',
      'by',
    ])
    expect(readPlpgsqlBody('begin return "if"(1) + app.filter(2); end').calls).toEqual(['if', 'app.filter'])
  })

  test('a relation that comes behind a join, a comma or a subquery is not missed', () => {
    const { reads } = readPlpgsqlBody(
      'begin return query select * from a left join lateral (select * from b, c) x on true, d cross join e, only f; end',
    )
    expect(reads).toEqual(['a', 'b', 'c', 'd', 'e', 'f'])
  })
})

test('no source makes it throw, and what it reads it reads alike each time', () => {
  const words = 'begin end declare select from into if then else loop ( ) ; , . := = [ ] t f execute insert for update'
  const source = fc.array(fc.oneof(fc.constantFrom(...words.split(' ')), fc.string({ maxLength: 4 })), {
    maxLength: 40,
  })
  fc.assert(
    fc.property(source, (tokens) => {
      const text = tokens.join(' ')
      expect(readPlpgsqlBody(text)).toEqual(readPlpgsqlBody(text))
      expect(readSqlBody(text)).toEqual(readSqlBody(text))
    }),
  )
})

test('whatever surrounds it, a write in PL/pgSQL is seen', () => {
  const harmless = fc.constantFrom(
    'x := 1;',
    'perform f(1);',
    'if a then x := 2; end if;',
    'for r in select * from t loop null; end loop;',
    "raise notice 'x';",
    'select 1 into x;',
    'begin null; exception when others then null; end;',
    'x := case when a then 1 else 2 end;',
  )
  const write = fc.constantFrom(
    'insert into t values (1);',
    'execute q;',
    'truncate t;',
    'create table x (a int);',
    'if a then drop table t; end if;',
    'case when a then lock t; else null; end case;',
    'for r in update t set a = 1 returning * loop null; end loop;',
    'set x = 1;',
    '<<here>> begin delete from t; end;',
  )
  const statements = fc.array(harmless, { maxLength: 5 })
  fc.assert(
    fc.property(statements, write, statements, (before, wrote, after) => {
      const body = (list: string[]): string => `declare x int; begin ${list.join(' ')} return x; end`
      expect(readPlpgsqlBody(body([...before, ...after])).reading).toBe(true)
      expect(readPlpgsqlBody(body([...before, wrote, ...after])).reading).toBe(false)
    }),
  )
})
