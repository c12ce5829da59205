// What a client under measurement is: a way to open it on a server with a number of connections.

import type { Operations } from '../operations.ts'

export interface OpenOptions {
  readonly url: string
  readonly connections: number
  /** With `entriesOf`, and the hook that it needs. */
  readonly tenants: boolean
}

export interface OpenClient extends Operations {
  close(): Promise<void>
}

export type Open = (options: OpenOptions) => OpenClient
