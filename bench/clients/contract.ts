// What a client under measurement is: a way to open it on a server with a number of connections.

import type { Operations } from '../workloads.ts'

export interface OpenClient extends Operations {
  close(): Promise<void>
}

export type Open = (url: string, connections: number) => OpenClient
