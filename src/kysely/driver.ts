// Kysely's Driver over leases: its order of calls for transactions, savepoints and releases. It extends
// nothing of Kysely's own PostgresDriver, whose private symbols it could not honour.

import { IdentifierNode, RawNode } from 'kysely'
import type { DatabaseConnection, Driver, QueryCompiler, TransactionSettings } from 'kysely'
import type { EngineHandle } from '../engine/engine-handle.ts'
import { beginningOn, leaseOf, markOfConnection } from './hints.ts'
import { Lease } from './lease.ts'

type Compile = QueryCompiler['compileQuery']

export class SmartPgDriver implements Driver {
  readonly #engine: EngineHandle

  /** Several drivers may share one engine: the first init starts it, the last destroy stops it. */
  constructor(engine: EngineHandle) {
    this.#engine = engine
  }

  async init(): Promise<void> {
    await this.#engine.start(this)
  }

  async acquireConnection(): Promise<Lease> {
    return new Lease(this.#engine.running)
  }

  async beginTransaction(connection: DatabaseConnection, settings: TransactionSettings): Promise<void> {
    const { wish } = markOfConnection(connection)
    await leaseOf(connection)!.begin(beginningOn(connection, settings), undefined, wish)
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    await leaseOf(connection)!.commit()
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    await leaseOf(connection)!.rollback()
  }

  async savepoint(connection: DatabaseConnection, name: string, compile: Compile): Promise<void> {
    await connection.executeQuery(savepointCommand('savepoint', name, compile))
  }

  async rollbackToSavepoint(connection: DatabaseConnection, name: string, compile: Compile): Promise<void> {
    await connection.executeQuery(savepointCommand('rollback to', name, compile))
  }

  async releaseSavepoint(connection: DatabaseConnection, name: string, compile: Compile): Promise<void> {
    await connection.executeQuery(savepointCommand('release', name, compile))
  }

  async releaseConnection(connection: DatabaseConnection): Promise<void> {
    leaseOf(connection)!.release()
  }

  async destroy(): Promise<void> {
    await this.#engine.stop(this)
  }
}

function savepointCommand(command: string, name: string, compile: Compile): ReturnType<Compile> {
  const node = RawNode.createWithChildren([RawNode.createWithSql(`${command} `), IdentifierNode.create(name)])
  return compile(node, { queryId: `smartpg ${command} ${name}` })
}
