// The clients under measurement, by name.

import type { Open } from './contract.ts'

/** By name; loaded on demand, so that a process holds the code of no client but its own. */
export const clients: { readonly [name: string]: () => Promise<Open> } = {
  'kysely-smart-pg': async () => (await import('./smart.ts')).openSmart,
  'kysely-smart-pg native': async () => (await import('./smart.ts')).openSmartNative,
  PostgresDialect: async () => (await import('./stock.ts')).openStock,
}
