// The questions to the primary's catalog. Any role may ask them. Each is bounded, whatever is in the database, and
// all but the last take no locks but those on the catalogs: names come in lists, since most of what there is has
// nothing to it but its name.

/** Sources of functions, in characters, all together; whoever is behind that is judged by his declaration. */
const SOURCES = 4_000_000
/** A longer source is a program, and no pure read. */
const LONGEST_SOURCE = 50_000
/** Rows of one answer: what is done with them shall not hold up whatever else the process does. */
const PAGE = 2_000
/** Pages of one question: more than that of anything, and the snapshot is not whole. */
const MOST_PAGES = 50
/** Queries of views, policies: these are put into words by the server, one by one. */
const MOST_DEFINITIONS = 5_000

const OF_USERS = `n.nspname !~ '^pg_' and n.nspname <> 'information_schema'`

// A built-in function of the same name and arguments is found first, unless the search path says otherwise.
const HIDDEN = `(n.nspname <> 'pg_catalog' and (current_schemas(true))[1] = 'pg_catalog' and exists (
    select from pg_proc b where b.proname = p.proname and b.proargtypes = p.proargtypes
      and b.pronamespace = 'pg_catalog'::regnamespace))`

/** Changes whenever one of the other answers may. A sum, because the order of rows is nobody's. */
export const FINGERPRINT = `select concat_ws(' ',
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', oid, nspname)))) from pg_namespace n where ${OF_USERS}),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', oid, xmin)))) from pg_proc where oid >= 16384),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', oid, relnamespace, relname, relkind, relpersistence,
      relhasrules, relispartition, relrowsecurity)))) from pg_class
    where oid >= 16384 and relkind in ('r', 'p', 'v', 'm', 'f', 'S') and relpersistence <> 't'),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', r.oid, r.xmin)))) from pg_rewrite r
    join pg_class c on c.oid = r.ev_class where r.oid >= 16384 and c.relpersistence <> 't'),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', oid, xmin)))) from pg_trigger where not tgisinternal),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', inhrelid, inhparent)))) from pg_inherits),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', oid, confupdtype, confdeltype)))) from pg_constraint
    where contype in ('f', 'c')),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', oid, xmin)))) from pg_attrdef where oid >= 16384),
  (select concat_ws(' ', count(*), sum(hashtext(concat_ws(' ', oid, xmin)))) from pg_policy),
  (select concat_ws(' ', count(*), sum(indexrelid::bigint)) from pg_index
    where indexrelid >= 16384 and (indexprs is not null or indpred is not null)),
  array_to_string(current_schemas(true), ' ')) as fingerprint`

/**
 * Functions whose source says nothing here: in C, in other languages; and the built-in ones. A TABLESAMPLE method is
 * called VOLATILE, and only says how to sample. \`tsquery('a')\` calls the type: those that read no catalog are here.
 */
export const FUNCTION_NAMES = `select n.nspname::text as schema,
    case when p.prorettype = 'tsm_handler'::regtype then 's' else p.provolatile end::text as volatility,
    ${HIDDEN}::text as hidden, json_agg(distinct p.proname)::text as names
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
  where p.prokind in ('f', 'w') and (n.nspname = 'pg_catalog' or l.lanname not in ('sql', 'plpgsql'))
  group by 1, 2, 3
  union all select n.nspname::text, 'i', 'false', json_agg(t.typname)::text
  from pg_type t join pg_namespace n on n.oid = t.typnamespace
  where t.typtype in ('b', 'e', 'r', 'm') and t.typname !~ '^(_|reg)' and not exists (
    select from pg_proc p where p.proname = t.typname and p.pronamespace = t.typnamespace) group by 1`

/** Those behind `after`, an oid; sources of no more than `room` characters. */
export const functionSources = (
  after: string,
  room: number,
): string => `select n.nspname::text as schema, p.proname::text as name, l.lanname::text as language,
    p.provolatile::text as volatility, ${HIDDEN}::text as hidden, p.oid::text as oid,
    case when length(p.prosrc) <= ${LONGEST_SOURCE} and sum(length(p.prosrc)) over (order by p.oid) <= ${room}
      then p.prosrc end as source,
    (p.prosrc = '' and p.prosqlbody is not null)::text as parsed,
    case when p.pronargdefaults > 0 then pg_get_expr(p.proargdefaults, 0) end as defaults
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
  where p.prokind in ('f', 'w') and n.nspname not in ('pg_catalog', 'information_schema')
    and l.lanname in ('sql', 'plpgsql') and p.oid > ${after}
  order by p.oid limit ${PAGE}`

export const AGGREGATES = `select n.nspname::text as schema, p.proname::text as name, ${HIDDEN}::text as hidden,
    (select json_agg(json_build_array(fn.nspname, f.proname)) from pg_proc f
      join pg_namespace fn on fn.oid = f.pronamespace
      where f.oid in (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn,
        a.aggminvtransfn, a.aggmfinalfn))::text as calls
  from pg_aggregate a join pg_proc p on p.oid = a.aggfnoid join pg_namespace n on n.oid = p.pronamespace
  where ${OF_USERS} order by p.oid limit ${PAGE}`

// Whatever is more than a table that stands for itself.
const KIN = `kin as (
    select i.inhparent as oid, json_agg(json_build_array(cn.nspname, c.relname)) as names
    from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace cn on cn.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f') group by 1
  ), cascading as (
    select k.confrelid as oid, json_agg(json_build_array(cn.nspname, c.relname)) as names
    from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace cn on cn.oid = c.relnamespace
    where k.contype = 'f' and (k.confupdtype in ('c', 'n', 'd') or k.confdeltype in ('c', 'n', 'd')) group by 1
  ), called as (
    select t.tgrelid as oid, t.tgfoid as fn from pg_trigger t where not t.tgisinternal
    union select a.adrelid, d.refobjid from pg_depend d join pg_attrdef a on a.oid = d.objid
      where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_proc'::regclass
    union select k.conrelid, d.refobjid from pg_depend d join pg_constraint k on k.oid = d.objid
      where d.classid = 'pg_constraint'::regclass and d.refclassid = 'pg_proc'::regclass and k.conrelid <> 0
    union select i.indrelid, d.refobjid from pg_depend d join pg_index i on i.indexrelid = d.objid
      where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_proc'::regclass
  ), calling as (
    select called.oid, json_agg(json_build_array(fn.nspname, f.proname)) as names
    from called join pg_proc f on f.oid = called.fn join pg_namespace fn on fn.oid = f.pronamespace group by 1
  ), relations as (
    select c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relrowsecurity,
      -- The query of a materialized view is a rule as well.
      c.relhasrules and c.relkind <> 'm' as ruled,
      kin.names as children, cascading.names as cascades, calling.names as calls,
      c.relkind = 'r' and c.relpersistence = 'p' and not c.relhasrules and not c.relrowsecurity and kin.oid is null
        and cascading.oid is null and calling.oid is null as plain
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
      left join kin on kin.oid = c.oid left join cascading on cascading.oid = c.oid left join calling on calling.oid = c.oid
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't' and ${OF_USERS}
  )`

/** Plain tables, and those of the system, by their names: a row per schema. */
export const PLAIN_TABLES = `with ${KIN}
  select nspname::text as schema, json_agg(relname)::text as names from relations where plain group by 1
  union all select 'pg_catalog', json_agg(relname)::text
  from pg_class where relkind = 'r' and relpersistence = 'p' and relnamespace = 'pg_catalog'::regnamespace`

/** All others behind `after`, an oid. */
export const otherRelations = (after: string): string => `with ${KIN}
  select oid::text, nspname::text as schema, relname::text as name, relkind::text as kind,
    relpersistence::text as persistence, ruled::text, relrowsecurity::text as secured,
    children::text, cascades::text, calls::text
  from relations where not plain and oid > ${after} order by relations.oid limit ${PAGE}`

/**
 * What the server has to put into words: it locks the relations they name as a reader does, so that it waits for
 * whoever alters one. Not for long: `guard` ends such a wait, for this statement alone.
 */
export const DEFINITIONS = `with guard as materialized (select set_config('lock_timeout', '200', true))
  select 'view' as what, n.nspname::text as schema, c.relname::text as name, null as oid, pg_get_viewdef(c.oid) as text
  from guard, pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind = 'v' and c.relpersistence <> 't' and ${OF_USERS} and (select count(*) from guard) = 1
  union all
  select 'policy', n.nspname::text, c.relname::text, null, pg_get_expr(l.polqual, l.polrelid)
  from guard, pg_policy l join pg_class c on c.oid = l.polrelid join pg_namespace n on n.oid = c.relnamespace
  where l.polcmd in ('r', '*') and c.relrowsecurity and (select count(*) from guard) = 1
  union all
  select 'function', null, null, p.oid::text, pg_get_function_sqlbody(p.oid)
  from guard, pg_proc p where p.prosqlbody is not null and p.oid >= 16384 and (select count(*) from guard) = 1
  limit ${MOST_DEFINITIONS}`

export const LIMITS = { sources: SOURCES, page: PAGE, pages: MOST_PAGES }
