// COMMIT that the server answered with ROLLBACK. Kysely recognises the brand from 0.29 on; on 0.28, which has
// no such class, it is simply an error that says what happened.

const BRAND = Symbol.for('kysely.AbortedTransactionError')

export class AbortedTransactionError extends Error {
  override readonly name = 'AbortedTransactionError'
  readonly [BRAND] = true

  constructor() {
    super('Transaction was rolled back instead of committed')
  }
}
