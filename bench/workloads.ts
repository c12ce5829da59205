// What the clients are asked to do. A workload checks every answer, so that a client cannot be fast by being wrong. To
// add one: add what it needs to `Operations`, teach it to the clients, and put the workload into the list.

export const table = 'bench'
export const rowCount = 100_000

/** Makes and fills the table; VACUUM now, so that autovacuum does not come in the middle of a round. */
export const setUp: readonly string[] = [
  `create table ${table} (id integer primary key, value text not null)`,
  `insert into ${table} select n, md5(n::text) from generate_series(1, ${rowCount}) as n`,
  `vacuum analyze ${table}`,
  'checkpoint',
]

export interface Item {
  readonly id: number
  readonly value: string
}

/** What every client can do. */
export interface Operations {
  byId(id: number): Promise<Item | undefined>
}

export interface Workload {
  readonly name: string
  readonly description: string
  /** One operation; rejects when it fails or its answer is wrong. */
  once(client: Operations): Promise<void>
}

export const workloads: readonly Workload[] = [
  {
    name: 'point-select',
    description: `one row of ${rowCount.toLocaleString('en-US')} by primary key, random ids`,
    async once(client) {
      const id = 1 + Math.floor(Math.random() * rowCount)
      const item = await client.byId(id)
      if (item?.id !== id) throw new Error(`asked for id ${id}, got ${item?.id}`)
    },
  },
]
