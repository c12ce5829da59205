// The parts of pg's Client and Connection that this room leans on and pg's public types leave out.
// A test guards each of them against the newest pg.

import type { Client } from 'pg'

/** The parts of pg's Client that its public types leave out. */
export interface PgClient extends Omit<Client, 'connection'> {
  readonly processID: number
  readonly secretKey: number
  readonly connection: PgConnection
  readonly connectionParameters: { readonly ssl?: unknown }
  getTransactionStatus(): 'I' | 'T' | 'E' | null
  /** What getTransactionStatus answers with. */
  _txStatus: 'I' | 'T' | 'E' | null
}

export interface PgConnection {
  readonly parsedStatements: Record<string, string>
  readonly stream: {
    readonly writable: boolean
    /** Bytes that the operating system has not taken yet. */
    readonly writableLength: number
    once(event: 'drain', listener: () => void): void
    write(bytes: Buffer): boolean
    destroy(error?: Error): void
    setKeepAlive?(on: boolean, delayMs: number): void
    ref?(): void
    unref?(): void
  }
  /** Through here every message goes out. */
  _send(message: Buffer): boolean
  attachListeners(stream: object): void
  on(event: 'readyForQuery' | 'end', listener: () => void): void
  emit(event: 'parameterStatus', message: object): boolean
  parse(message: object): void
  bind(message: object): void
  describe(message: object): void
  execute(message: object): void
  close(message: object): void
  sync(): void
}
