// What a caller of the shop does, and in which order: drawn from a seeded generator, so that both clients get the
// same work. Plain Kysely throughout; the clients differ only in `pageOf` (clients.ts).

import type { Kysely } from 'kysely'
import type { ShopClient } from './clients.ts'
import { adjectives, nouns, size, type Shop } from './schema.ts'

export type Operation =
  | { kind: 'browse'; category: number; page: number }
  | { kind: 'search'; word: string }
  | { kind: 'history'; customer: number }
  | { kind: 'view'; product: number; category: number }
  | { kind: 'checkout'; customer: number; lines: readonly Line[] }
  | { kind: 'restock'; product: number; quantity: number }

export interface Line {
  readonly product: number
  readonly quantity: number
}

export interface Done {
  /** Queries run, BEGIN and COMMIT not counted. */
  readonly queries: number
  /** False: a customer did not see the order he had just placed. */
  readonly sawOwnOrder: boolean
}

/** The next operation of a caller; `chance` gives numbers in [0, 1). */
export function nextOperation(chance: () => number): Operation {
  const upTo = (n: number): number => 1 + Math.floor(n * chance())
  // Few products are popular, most are not.
  const product = (): number => 1 + Math.floor(size.products * chance() * chance())
  const kind = chance()
  if (kind < 0.25) return { kind: 'browse', category: upTo(size.categories), page: Math.floor(4 * chance() * chance()) }
  if (kind < 0.35) return { kind: 'search', word: wordOf(chance) }
  if (kind < 0.55) return { kind: 'history', customer: upTo(size.customers) }
  if (kind < 0.85) return viewOf(product())
  if (kind < 0.95) return { kind: 'checkout', customer: upTo(size.customers), lines: basket(upTo(3), product, upTo) }
  return { kind: 'restock', product: product(), quantity: upTo(50) }
}

function wordOf(chance: () => number): string {
  const words = [...adjectives, ...nouns]
  return words[Math.floor(words.length * chance())]!
}

function viewOf(product: number): Operation {
  return { kind: 'view', product, category: 1 + (product % size.categories) }
}

// Each product once and in the order of their numbers: everybody locks stock in this order, so nobody deadlocks.
function basket(lines: number, product: () => number, upTo: (n: number) => number): Line[] {
  const chosen = new Set(Array.from({ length: lines }, product))
  return [...chosen].toSorted((a, b) => a - b).map((one) => ({ product: one, quantity: upTo(3) }))
}

export function run(client: ShopClient, operation: Operation): Promise<Done> {
  const { db } = client
  if (operation.kind === 'browse') return read(browse(db, operation.category, operation.page))
  if (operation.kind === 'search') return read(search(db, operation.word))
  if (operation.kind === 'history') return read(history(db, operation.customer))
  if (operation.kind === 'view') return view(client, operation.product, operation.category)
  if (operation.kind === 'checkout') return checkout(db, operation.customer, operation.lines)
  return restock(db, operation.product, operation.quantity)
}

async function read(query: { execute(): Promise<unknown> }): Promise<Done> {
  await query.execute()
  return { queries: 1, sawOwnOrder: true }
}

function browse(db: Kysely<Shop>, category: number, page: number) {
  return db
    .selectFrom('products')
    .select(['id', 'name', 'price_cents'])
    .where('category', '=', category)
    .orderBy('price_cents')
    .orderBy('id')
    .limit(24)
    .offset(24 * page)
}

function search(db: Kysely<Shop>, word: string) {
  return db
    .selectFrom('products')
    .innerJoin('stock', 'stock.product_id', 'products.id')
    .select(['products.id', 'products.name', 'products.price_cents', 'stock.quantity'])
    .where('products.name', 'ilike', `%${word}%`)
    .orderBy('products.price_cents')
    .limit(20)
}

function history(db: Kysely<Shop>, customer: number) {
  return db
    .selectFrom('orders')
    .innerJoin('order_lines', 'order_lines.order_id', 'orders.id')
    .select(({ fn }) => ['orders.id', 'orders.placed_at', 'orders.total_cents', fn.countAll().as('lines')])
    .where('orders.customer_id', '=', customer)
    .groupBy('orders.id')
    .orderBy('orders.id', 'desc')
    .limit(10)
}

/** The four queries of a product's page. */
export function pageQueries(db: Kysely<Shop>, product: number, category: number) {
  return [
    db.selectFrom('products').selectAll().where('id', '=', product),
    db.selectFrom('stock').select('quantity').where('product_id', '=', product),
    db
      .selectFrom('products')
      .select(['id', 'name', 'price_cents'])
      .where('category', '=', category)
      .where('id', '!=', product)
      .orderBy('price_cents')
      .limit(6),
    db
      .selectFrom('order_lines')
      .select(['order_id', 'quantity'])
      .where('product_id', '=', product)
      .orderBy('order_id', 'desc')
      .limit(5),
  ] as const
}

async function view(client: ShopClient, product: number, category: number): Promise<Done> {
  const [[shown]] = await client.pageOf(product, category)
  if (shown?.id !== product) throw new Error(`the page of product ${product} shows ${shown?.id}`)
  return { queries: 4, sawOwnOrder: true }
}

async function checkout(db: Kysely<Shop>, customer: number, lines: readonly Line[]): Promise<Done> {
  const order = await db.transaction().execute((trx) => placeOrder(trx, customer, lines))
  // The page that says thank you: what a customer has just done must be there, wherever this is read.
  const seen = await db.selectFrom('order_lines').select('product_id').where('order_id', '=', order).execute()
  return { queries: 4 + lines.length, sawOwnOrder: seen.length === lines.length }
}

async function placeOrder(trx: Kysely<Shop>, customer: number, lines: readonly Line[]): Promise<number> {
  const onStock = await trx
    .selectFrom('stock')
    .innerJoin('products', 'products.id', 'stock.product_id')
    .select(['stock.product_id', 'products.price_cents'])
    .where(
      'stock.product_id',
      'in',
      lines.map((line) => line.product),
    )
    .orderBy('stock.product_id')
    .forUpdate('stock')
    .execute()
  const price = new Map(onStock.map((row) => [row.product_id, row.price_cents]))
  for (const line of lines) {
    await trx
      .updateTable('stock')
      .set(({ eb }) => ({ quantity: eb('quantity', '-', line.quantity) }))
      .where('product_id', '=', line.product)
      .execute()
  }
  const total_cents = lines.reduce((sum, line) => sum + line.quantity * price.get(line.product)!, 0)
  const { id } = await trx
    .insertInto('orders')
    .values({ customer_id: customer, total_cents })
    .returning('id')
    .executeTakeFirstOrThrow()
  await trx
    .insertInto('order_lines')
    .values(
      lines.map(({ product, quantity }) => ({
        order_id: id,
        product_id: product,
        quantity,
        price_cents: price.get(product)!,
      })),
    )
    .execute()
  return id
}

async function restock(db: Kysely<Shop>, product: number, quantity: number): Promise<Done> {
  await db
    .updateTable('stock')
    .set(({ eb }) => ({ quantity: eb('quantity', '+', quantity) }))
    .where('product_id', '=', product)
    .execute()
  return { queries: 1, sawOwnOrder: true }
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
export function chanceFrom(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
