// Gives a connection back to pg, for work that only pg's own Client can do: COPY streams, cursors, large objects. The
// connection goes on as it is, authenticated and set up; only who reads its answers changes. There is no way back.

import type { Session } from '../core/types.ts'
import type { PgClient } from './pg-client.ts'
import { NativeSession } from './session.ts'

/** What this file needs of pg's Client and its socket beside the rest. */
interface Handed {
  /** False while a query runs. */
  readonly readyForQuery: boolean
  /** Our own wire puts a refusal in its place. */
  query?: unknown
  readonly connection: { readonly stream: { removeAllListeners(event: 'data'): void } }
}

export interface Lent {
  readonly client: unknown
  /** Whether the server does something for the client now. */
  readonly busy: boolean
}

/** The pg.Client of a session on which nothing is under way. The session sends nothing more, but still ends it. */
export function lendClient(session: Session): Lent {
  const client = session.raw as PgClient
  const handed = client as unknown as Handed
  // So that nothing is deallocated between the client's queries.
  session.forgetStatements()
  if (session instanceof NativeSession) {
    const { connection } = client
    handed.connection.stream.removeAllListeners('data')
    // A parser of pg's from the first byte, behind the same guard as when it connected.
    connection.attachListeners(connection.stream)
    delete handed.query
  }
  return {
    client,
    get busy() {
      return !handed.readyForQuery
    },
  }
}
