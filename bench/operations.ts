// What the clients are asked to do, whatever their words for it. A workload is made of these.

export interface Item {
  readonly id: number
  readonly value: string
}

/** Six columns of six types. Clients differ in what they make of a bigint: text, mostly, because a number may not do. */
export interface Wide {
  readonly id: number
  readonly big: string | bigint
  readonly label: string
  readonly price: string
  readonly at: Date
  readonly open: boolean
}

export interface Entry {
  readonly id: number
  readonly tenant: number
}

/** What every client can do. */
export interface Operations {
  byId(id: number): Promise<Item | undefined>
  /** The `pageSize` rows of `wide` behind `id`, in order. */
  page(id: number): Promise<readonly Wide[]>
  /** Adds a line to the journal; the id that the server gave it. */
  insert(value: string): Promise<number | undefined>
  /** The id of the row that was changed. */
  update(id: number, value: string): Promise<number | undefined>
  sleep(seconds: number): Promise<void>
  /** One insert after the other in one transaction, each answered before the next is sent; the ids. */
  insertTogether(values: readonly string[]): Promise<readonly (number | undefined)[]>
  /** Entries of the ledger as the tenant sees them, at most ten. Only of clients that were opened for tenants. */
  entriesOf?(tenant: number): Promise<readonly Entry[]>
}
