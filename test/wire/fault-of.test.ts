import { createRequire } from 'node:module'
import { DatabaseError } from 'pg'
import { describe, expect, test } from 'vitest'
import { BatchError, NotExecutedError, OutcomeUnknownError, SmartPgError } from '../../src/core/errors.ts'
import { evidenceOf, faultOf } from '../../src/wire/fault-of.ts'

function databaseError(fields: Partial<DatabaseError>): DatabaseError {
  return Object.assign(new DatabaseError(fields.message ?? 'said the server', 10, 'error'), fields)
}

const systemError = (code: string): Error => Object.assign(new Error(code), { code })

const lost = (cause: unknown): SmartPgError => new SmartPgError('SMARTPG_CONNECTION_LOST', 'lost', { cause })

describe('evidence', () => {
  test('of a DatabaseError is its code, severity, message and routine', () => {
    const error = databaseError({ code: '40001', severity: 'ERROR', message: 'no', routine: 'ProcessInterrupts' })
    expect(evidenceOf(error, 'query')).toMatchObject({
      code: '40001',
      severity: 'ERROR',
      message: 'no',
      routine: 'ProcessInterrupts',
      during: 'query',
    })
  })

  test('of an AggregateError holds the codes inside', () => {
    const error = new AggregateError([systemError('ECONNREFUSED'), systemError('ENETUNREACH')])
    expect(evidenceOf(error, 'connect')).toMatchObject({
      code: 'ECONNREFUSED',
      innerCodes: ['ECONNREFUSED', 'ENETUNREACH'],
    })
  })

  test('can be taken from anything that was thrown', () => {
    const hostile = {
      toString(): string {
        throw new Error('no')
      },
    }
    for (const thrown of [undefined, null, 'no', 7, Symbol('no'), {}, hostile, Object.create(null), []]) {
      expect(faultOf(thrown, 'query')).toMatchObject({ class: 'query', breaker: 'ignore' })
    }
  })

  test('of errors that cause each other comes to an end', () => {
    const error = new SmartPgError('SMARTPG_NOT_EXECUTED', 'a')
    error.cause = error
    expect(faultOf(error, 'query').class).toBe('refused')
  })
})

describe("pg's client errors without a code", () => {
  test.each([
    ['Connection terminated unexpectedly', 'query', 'connection-lost', 'connection_lost'],
    ['Connection terminated', 'query', 'connection-lost', 'connection_lost'],
    ['Client was closed and is not queryable', 'query', 'connection-lost', 'connection_lost'],
    ['Client has encountered a connection error and is not queryable', 'query', 'connection-lost', 'connection_lost'],
    ['Received unexpected dataRow message from backend.', 'query', 'connection-lost', 'connection_lost'],
    ['Query read timeout', 'query', 'cancelled', 'query_timeout'],
    ['Query values must be an array', 'query', 'query', 'query_error'],
    ['Connection terminated unexpectedly', 'connect', 'unreachable', 'connection_refused'],
    ['timeout expired', 'connect', 'unreachable', 'connection_timeout'],
    ['timeout exceeded when trying to connect', 'connect', 'unreachable', 'connection_timeout'],
    ['There was an error establishing an SSL connection', 'connect', 'unreachable', 'connection_refused'],
    ['The server does not support SSL connections', 'connect', 'authentication', 'authentication_failed'],
    ['Unknown authenticationOk message type 99', 'connect', 'authentication', 'authentication_failed'],
    [
      'SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string',
      'connect',
      'authentication',
      'authentication_failed',
    ],
    ['Password must be a string', 'connect', 'authentication', 'authentication_failed'],
  ] as const)('"%s" in %s is %s', (message, during, faultClass, category) => {
    expect(faultOf(new Error(message), during)).toMatchObject({ class: faultClass, category })
  })

  test('are still the words that the installed pg says', async () => {
    const require = createRequire(import.meta.url)
    const { readFile } = await import('node:fs/promises')
    const sources = await Promise.all(
      ['pg/lib/client.js', 'pg/lib/connection.js', 'pg/lib/crypto/sasl.js', 'pg/lib/query.js'].map((file) =>
        readFile(require.resolve(file), 'utf8'),
      ),
    )
    const said = sources.join('\n')
    for (const words of [
      "'Connection terminated unexpectedly'",
      "'Connection terminated'",
      "'timeout expired'",
      "'Query read timeout'",
      "'Client was closed and is not queryable'",
      "'Client has encountered a connection error and is not queryable'",
      "'The server does not support SSL connections'",
      "'There was an error establishing an SSL connection'",
      "'Password must be a string'",
      "'SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string'",
      "'Query values must be an array'",
    ]) {
      expect(said).toContain(words)
    }
  })
})

describe('our own errors', () => {
  test('a failed connect is what caused it, and tells the breaker of connects', () => {
    const error = new SmartPgError('SMARTPG_CONNECT_FAILED', 'no', { cause: databaseError({ code: '28P01' }) })
    expect(faultOf(error, 'query')).toMatchObject({ class: 'authentication', code: '28P01', tells: 'connect' })
    const refused = new SmartPgError('SMARTPG_CONNECT_FAILED', 'no', { cause: systemError('ECONNREFUSED') })
    expect(faultOf(refused, 'query')).toMatchObject({ class: 'unreachable', tells: 'connect' })
    const bare = new SmartPgError('SMARTPG_CONNECT_FAILED', 'no')
    expect(faultOf(bare, 'query')).toMatchObject({ class: 'unreachable', tells: 'connect', breaker: 'lost' })
  })

  test('a lost connection is why the server ended it', () => {
    expect(faultOf(lost(databaseError({ code: '57P05', severity: 'FATAL' })), 'query')).toMatchObject({
      code: '57P05',
      breaker: 'ignore',
    })
    expect(faultOf(lost(systemError('ECONNRESET')), 'query')).toMatchObject({ code: 'ECONNRESET', breaker: 'lost' })
  })

  test('a lost connection stays lost when its cause alone would not lose one', () => {
    expect(faultOf(lost(databaseError({ code: '23505', severity: 'ERROR' })), 'query')).toMatchObject({
      class: 'connection-lost',
      dropsConnection: true,
    })
    expect(faultOf(lost(new Error('length below 4')), 'query').class).toBe('connection-lost')
  })

  test("a connection that was given up because of someone else's timeout is lost, not timed out", () => {
    const timeout = new SmartPgError('SMARTPG_QUERY_TIMEOUT', 'late')
    expect(faultOf(lost(timeout), 'query')).toMatchObject({ class: 'connection-lost', breaker: 'lost' })
  })

  test('an aborted connection never counts against the server', () => {
    const abort = new DOMException('stop', 'AbortError')
    expect(faultOf(lost(abort), 'query')).toMatchObject({ class: 'connection-lost', breaker: 'ignore' })
    expect(faultOf(abort, 'query')).toMatchObject({ class: 'cancelled', breaker: 'ignore' })
  })

  test('a timeout whose cancel was answered keeps the connection', () => {
    const cause = databaseError({ code: '57014', severity: 'ERROR' })
    const error = new SmartPgError('SMARTPG_QUERY_TIMEOUT', 'late', { cause })
    expect(faultOf(error, 'query')).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT', dropsConnection: false })
  })

  test('an unknown outcome keeps its own meaning', () => {
    const error = new OutcomeUnknownError('primary', 'commit', systemError('ECONNRESET'))
    expect(faultOf(error, 'query')).toMatchObject({ class: 'outcome-unknown', retry: 'never' })
  })

  test('errors that only wrap are known by what they wrap, however deep', () => {
    const unique = databaseError({ code: '23505', severity: 'ERROR' })
    const inner = new NotExecutedError('primary', 'no', 'execute', unique)
    const wrapped = new BatchError(0, 'execute', inner)
    expect(faultOf(wrapped, 'query')).toMatchObject({ class: 'query', code: '23505', breaker: 'success' })
  })
})
