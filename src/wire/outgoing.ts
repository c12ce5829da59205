// pg writes Parse, Bind, Describe, Execute and Sync one by one, and five small chunks in one writev cost the
// client more than the query itself. Here the messages of one query are gathered and leave as one chunk.

import type { PgConnection } from './pg-client.ts'

export class Outgoing {
  readonly #connection: PgConnection
  readonly #messages: Buffer[] = []
  #gathering = false

  constructor(connection: PgConnection) {
    this.#connection = connection
    connection._send = (message) => this.#send(message)
  }

  /** From now on messages wait for `flush`. */
  gather(): void {
    this.#gathering = true
  }

  flush(): void {
    this.#gathering = false
    const messages = this.#messages
    if (messages.length === 0) return
    const bytes = messages.length === 1 ? messages[0]! : Buffer.concat(messages)
    messages.length = 0
    this.#write(bytes)
  }

  #send(message: Buffer): boolean {
    if (!this.#gathering) return this.#write(message)
    this.#messages.push(message)
    return true
  }

  #write(bytes: Buffer): boolean {
    const { stream } = this.#connection
    return stream.writable && stream.write(bytes)
  }
}
