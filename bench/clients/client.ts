// What a client under measurement is: a name, and a way to open it on a server with a number of connections.

import type { Operations } from '../workloads.ts'

export interface OpenClient extends Operations {
  close(): Promise<void>
}

export type Open = (url: string, connections: number) => OpenClient

/** By name; loaded on demand, so that a process holds the code of no client but its own. */
export const clients: { readonly [name: string]: () => Promise<Open> } = {
  'kysely-smart-pg': async () => (await import('./smart.ts')).openSmart,
  PostgresDialect: async () => (await import('./stock.ts')).openStock,
}
