// The parts of pg's Client and Connection that this room leans on and pg's public types leave out.
// A test guards each of them against the newest pg.

import type { Client } from 'pg'

/** The parts of pg's Client that its public types leave out. */
export interface PgClient extends Omit<Client, 'connection'> {
  readonly processID: number
  readonly secretKey: number
  readonly connection: PgConnection
  readonly connectionParameters: { readonly ssl?: unknown; readonly sslnegotiation?: string }
  /** SCRAM bound to the TLS channel where the server offers it. */
  enableChannelBinding: boolean
  getTransactionStatus(): 'I' | 'T' | 'E' | null
  /** What getTransactionStatus answers with. */
  _txStatus: 'I' | 'T' | 'E' | null
}

export interface PgConnection {
  readonly parsedStatements: Record<string, string>
  readonly stream: {
    readonly writable: boolean
    readonly bytesRead: number
    /** What waits to be sent included. */
    readonly bytesWritten: number
    /** Bytes that the operating system has not taken yet. */
    readonly writableLength: number
    readonly encrypted?: boolean
    readonly remoteAddress?: string
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
  on(event: 'readyForQuery' | 'end' | AuthenticationMessage, listener: () => void): void
  on(
    event: 'parameterStatus',
    listener: (message: { readonly parameterName: string; readonly parameterValue: string }) => void,
  ): void
  on(event: 'authenticationSASL', listener: (message: { readonly mechanisms: readonly string[] }) => void): void
  emit(event: 'parameterStatus', message: object): boolean
  parse(message: object): void
  bind(message: object): void
  describe(message: object): void
  execute(message: object): void
  close(message: object): void
  sync(): void
}

type AuthenticationMessage =
  'authenticationCleartextPassword' | 'authenticationMD5Password' | 'authenticationSASLFinal' | 'authenticationOk'
