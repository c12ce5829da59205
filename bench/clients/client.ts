// The clients under measurement, by name. To add one: a file like postgres-js.ts, and its line here.

import type { Open } from './contract.ts'

/** Loaded on demand, so that a process holds the code of no client but its own. */
export const clients: { readonly [name: string]: () => Promise<Open> } = {
  smart: async () => (await import('./smart.ts')).openSmart,
  'smart-pg': async () => (await import('./smart.ts')).openSmartOverPg,
  'smart-pw': async () => (await import('./smart.ts')).openSmartPipeliningWrites,
  'kysely-pg': async () => (await import('./kysely-pg.ts')).openKyselyPg,
  pg: async () => (await import('./pg.ts')).openPg,
  'pg-named': async () => (await import('./pg.ts')).openPgNamed,
  'postgres.js': async () => (await import('./postgres-js.ts')).openPostgresJs,
  'kysely-postgres-js': async () => (await import('./kysely-postgres-js.ts')).openKyselyPostgresJs,
  drizzle: async () => (await import('./drizzle.ts')).openDrizzle,
  'least-in-flight': async () => (await import('./least-in-flight.ts')).openLeastInFlight,
}
