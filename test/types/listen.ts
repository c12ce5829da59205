// Compiled, never run: what a listener and a borrowed client look like to those who have the types of pg and to those
// who have not. Each expected error fails the type check when it is none.

import type { Client } from 'pg'
import type { SmartPgDialect } from '../../src/index.ts'
import { same } from './batch.ts'

export async function listeners(dialect: SmartPgDialect): Promise<void> {
  await using orders = await dialect.listen('orders', (payload, { channel, processId }) => {
    same<typeof payload, string>()
    same<typeof channel, string>()
    same<typeof processId, number | undefined>()
  })
  same<typeof orders.channel, string>()
  using _ = await dialect.listen('orders', async () => {}, { onGap: ({ since, until }) => until - since })
  // @ts-expect-error a misspelt option
  await dialect.listen('orders', () => {}, { keepProcessAlive: true })
  // @ts-expect-error a channel is a name
  await dialect.listen(7, () => {})
}

export async function clients(dialect: SmartPgDialect): Promise<void> {
  // Without the types of pg.
  const rows = await dialect.withClient(async (client) => {
    const { rows: found } = await client.query<{ n: number }>('select 1 as n', [])
    client.on('notice', () => {})
    // @ts-expect-error it has no such method
    client.release()
    return found
  })
  same<typeof rows, { n: number }[]>()

  // With them.
  const count = await dialect.withClient(async (client: Client) => {
    const { fields } = await client.query({ text: 'select 1', rowMode: 'array' })
    return fields.length
  })
  same<typeof count, number>()

  same<Promise<string>, ReturnType<typeof dialect.withClient<string>>>()
  // A query class of its own comes back as what it is: a COPY stream, a cursor.
  class Copy {
    submit(_connection: never): void {}
    readonly lines: string[] = []
  }
  const lines = await dialect.withClient((client) => client.query(new Copy()).lines, { node: 'primary' })
  same<typeof lines, string[]>()
  // @ts-expect-error a misspelt option
  await dialect.withClient(() => 1, { nod: 'primary' })
}
