// kysely-smart-pg as a user gets it: only the number of connections is set, and the wire.

import { Kysely } from 'kysely'
import { SmartPgDialect } from 'kysely-smart-pg'
import type { OpenClient } from './contract.ts'
import { operationsOf } from './kysely.ts'
import type { Database } from './kysely.ts'

export function openSmart(url: string, connections: number): OpenClient {
  return openOver('pg', url, connections)
}

export function openSmartNative(url: string, connections: number): OpenClient {
  return openOver('native', url, connections)
}

function openOver(wire: 'pg' | 'native', url: string, connections: number): OpenClient {
  const db = new Kysely<Database>({ dialect: new SmartPgDialect({ wire, primary: url, pool: { max: connections } }) })
  return { ...operationsOf(db), close: () => db.destroy() }
}
