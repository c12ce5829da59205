// Backends die: idle, in a statement, between two statements of a transaction, in a stream, in COMMIT. The process
// that uses them lives, its callers are told what is known, and its pool is whole again.

import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'

interface Play {
  readonly report: Record<string, Record<string, unknown>>
  readonly uncaught: string[]
  readonly destroyed: string
  readonly left: number
}

describe('a backend that dies', () => {
  let database: Database
  let play: Play
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    const child = [join(import.meta.dirname, 'deaths.ts'), database.url]
    const { stdout } = await promisify(execFile)(process.execPath, child, { timeout: 60_000 })
    play = JSON.parse(stdout) as Play
  }, 70_000)
  afterAll(() => database.drop())

  test('ends nothing but its own statement: nothing is uncaught, and the pool closes to the last connection', () => {
    expect(play.uncaught).toEqual([])
    expect(play.destroyed).toBe('answered')
    expect(play.left).toBe(0)
  })

  test('while idle is not noticed by the next caller', () => {
    expect(play.report['idle']).toEqual({ next: 'answered', whole: true })
  })

  test('in a write leaves its outcome unknown, and the write is not sent again', () => {
    expect(play.report['write']).toEqual({ write: 'SMARTPG_OUTCOME_UNKNOWN', rows: 0, whole: true })
  })

  test('in a read is replaced, and the read is answered', () => {
    expect(play.report['read']).toEqual({ read: 'answered', whole: true })
  })

  test('between two statements of a transaction fails the next one, and nothing of it is kept', () => {
    expect(play.report['transaction']).toEqual({ toldTheSame: true, answered: false, rows: 0, whole: true })
  })

  test('before COMMIT fails a transaction that had no more to say', () => {
    expect(play.report['transactionWhoseCallerDoesNotLook']).toEqual({ answered: false, rows: 0, whole: true })
  })

  test('in a stream ends it with an error, never with fewer rows', () => {
    expect(play.report['stream']).toEqual({ answered: false, short: true, whole: true })
  })

  test('in COMMIT leaves the outcome unknown', () => {
    expect(play.report['commit']).toEqual({ told: 'SMARTPG_OUTCOME_UNKNOWN', rows: 0, whole: true })
  })

  test('in a batch fails the batch, and nothing of it is kept', () => {
    expect(play.report['batch']).toEqual({ answered: false, rows: 0, whole: true })
  })

  test('together with all others costs reads nothing', () => {
    expect(play.report['everyone']).toEqual({ told: ['answered'], whole: true })
  })
})
