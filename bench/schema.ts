// The tables that the clients are measured on. What is read never changes its size; what is written is cleared away
// before every table of results (`refresh` of a workload), because nothing else does: autovacuum is off, so that it
// does not come in the middle of a round.

export const itemCount = 100_000
export const pageSize = 100
export const tenants = [1, 2] as const

/** Where `wide.at` begins; every row is one second later. */
export const firstAt = Date.UTC(2024, 0, 1)

/** Row-level security does not bind a superuser, so the callers of the tenants' workload take this role. */
export const tenantRole = 'bench_tenant'

export const setUp: readonly string[] = [
  'create table bench (id integer primary key, value text not null) with (fillfactor = 80)',
  `insert into bench select n, md5(n::text) from generate_series(1, ${itemCount}) as n`,

  'create table wide (id integer primary key, big bigint, label text, price numeric(12, 2), at timestamptz, open boolean)',
  `insert into wide select n, 10000000000 + n, 'number ' || n, n / 100.0,
     to_timestamp(${firstAt / 1000} + n), n % 2 = 0 from generate_series(1, ${itemCount}) as n`,

  'create table journal (id serial primary key, value text not null)',

  'create table ledger (id integer primary key, tenant integer not null)',
  `insert into ledger select n, 1 + n % ${tenants.length} from generate_series(1, 1000) as n`,
  "create policy own_rows on ledger using (tenant = current_setting('app.tenant')::integer)",
  'alter table ledger enable row level security',
  `do $$ begin
     if not exists (select from pg_roles where rolname = '${tenantRole}') then create role ${tenantRole}; end if;
   end $$`,
  `grant select on ledger to ${tenantRole}`,

  'vacuum analyze',
  'checkpoint',
]
