import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { classify } from '../../src/core/fault.ts'
import type { Evidence, Fault } from '../../src/core/fault.ts'

const inQuery = (code: string, more: Partial<Evidence> = {}): Fault =>
  classify({ code, message: '', during: 'query', ...more })
const inConnect = (code: string, more: Partial<Evidence> = {}): Fault =>
  classify({ code, message: '', during: 'connect', ...more })
const server = (code: string, message = '', severity = 'ERROR', routine?: string): Fault =>
  classify({ code, message, severity, routine, during: 'query' })

describe('the table of codes while a query runs', () => {
  test.each([
    ['08006', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['08P01', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['57P01', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['57P02', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['57P04', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['ECONNRESET', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['EPIPE', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['SMARTPG_CONNECTION_LOST', 'connection-lost', true, 'lost', 'connection_lost', 'elsewhere'],
    ['57P05', 'connection-lost', true, 'ignore', 'connection_lost', 'elsewhere'],
    ['25P03', 'connection-lost', true, 'ignore', 'connection_lost', 'elsewhere'],
    ['25P04', 'connection-lost', true, 'ignore', 'connection_lost', 'elsewhere'],
    ['08007', 'outcome-unknown', true, 'lost', 'connection_lost', 'never'],
    ['40003', 'outcome-unknown', true, 'lost', 'connection_lost', 'never'],
    ['40001', 'rolled-back', false, 'success', 'serialization_failure', 'transaction'],
    ['40P01', 'rolled-back', false, 'success', 'deadlock', 'transaction'],
    ['40002', 'rolled-back', false, 'success', 'query_error', 'never'],
    ['55P03', 'lock-not-available', false, 'success', 'query_error', 'never'],
    ['55006', 'lock-not-available', false, 'success', 'query_error', 'never'],
    ['57014', 'cancelled', false, 'ignore', 'cancelled', 'never'],
    ['53200', 'server-resources', false, 'failure', 'query_error', 'elsewhere'],
    ['53400', 'server-resources', false, 'failure', 'query_error', 'elsewhere'],
    ['58030', 'server-resources', false, 'failure', 'query_error', 'elsewhere'],
    ['25006', 'read-only', false, 'success', 'query_error', 'primary'],
    ['26000', 'prepared-statement', false, 'success', 'query_error', 'once-prepared'],
    ['42P05', 'prepared-statement', false, 'success', 'query_error', 'once-prepared'],
    ['23505', 'query', false, 'success', 'query_error', 'never'],
    ['22P02', 'query', false, 'success', 'query_error', 'never'],
    ['42703', 'query', false, 'success', 'query_error', 'never'],
    ['42501', 'query', false, 'success', 'query_error', 'never'],
    ['3D000', 'query', false, 'success', 'query_error', 'never'],
    ['25P02', 'query', false, 'success', 'query_error', 'never'],
    ['0A000', 'query', false, 'success', 'query_error', 'never'],
    ['P0001', 'query', false, 'success', 'query_error', 'never'],
    ['HV000', 'query', false, 'success', 'query_error', 'never'],
    ['XX000', 'internal', false, 'ignore', 'query_error', 'never'],
    ['XX001', 'internal', false, 'ignore', 'query_error', 'never'],
  ])('%s is %s', (code, faultClass, dropsConnection, breaker, category, retry) => {
    expect(inQuery(code)).toEqual({
      class: faultClass,
      code,
      dropsConnection,
      breaker,
      tells: 'query',
      category,
      retry,
    })
  })
})

describe('the table of codes while connecting', () => {
  test.each([
    ['ECONNREFUSED', 'unreachable', 'lost', 'connect', 'connection_refused', 'elsewhere'],
    ['ENOTFOUND', 'unreachable', 'lost', 'connect', 'connection_refused', 'elsewhere'],
    ['EHOSTUNREACH', 'unreachable', 'lost', 'connect', 'connection_refused', 'elsewhere'],
    ['ECONNRESET', 'unreachable', 'lost', 'connect', 'connection_refused', 'elsewhere'],
    ['SMARTPG_CONNECTION_LOST', 'unreachable', 'lost', 'connect', 'connection_refused', 'elsewhere'],
    ['ETIMEDOUT', 'unreachable', 'lost', 'connect', 'connection_timeout', 'elsewhere'],
    ['57014', 'unreachable', 'lost', 'connect', 'connection_timeout', 'elsewhere'],
    ['57P01', 'unreachable', 'lost', 'connect', 'connection_refused', 'elsewhere'],
    ['EMFILE', 'unreachable', 'ignore', 'connect', 'connection_refused', 'same'],
    ['57P03', 'starting', 'soft', 'connect', 'connection_refused', 'elsewhere'],
    ['53300', 'too-many-connections', 'ignore', 'connect', 'connection_refused', 'same'],
    ['28P01', 'authentication', 'ignore', 'connect', 'authentication_failed', 'once-credentials'],
    ['28000', 'authentication', 'ignore', 'connect', 'authentication_failed', 'once-credentials'],
    ['3D000', 'authentication', 'ignore', 'connect', 'authentication_failed', 'never'],
    ['42501', 'authentication', 'ignore', 'connect', 'authentication_failed', 'never'],
    ['SELF_SIGNED_CERT_IN_CHAIN', 'authentication', 'ignore', 'connect', 'authentication_failed', 'never'],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'authentication', 'ignore', 'connect', 'authentication_failed', 'never'],
    ['CERT_HAS_EXPIRED', 'authentication', 'ignore', 'connect', 'authentication_failed', 'never'],
    ['ERR_TLS_CERT_ALTNAME_INVALID', 'authentication', 'ignore', 'connect', 'authentication_failed', 'never'],
    ['53200', 'server-resources', 'failure', 'connect', 'query_error', 'elsewhere'],
    // A setting in the startup message that the server does not know.
    ['42704', 'authentication', 'ignore', 'connect', 'authentication_failed', 'never'],
  ])('%s is %s', (code, faultClass, breaker, tells, category, retry) => {
    expect(inConnect(code)).toEqual({
      class: faultClass,
      code,
      dropsConnection: true,
      breaker,
      tells,
      category,
      retry,
    })
  })
})

describe('our own codes', () => {
  test.each([
    ['SMARTPG_QUERY_TIMEOUT', 'cancelled', 'slow', 'query', 'query_timeout', 'never'],
    ['SMARTPG_CONNECT_FAILED', 'unreachable', 'lost', 'connect', 'connection_refused', 'elsewhere'],
    ['SMARTPG_ACQUIRE_TIMEOUT', 'refused', 'ignore', 'query', 'pool_exhausted', 'never'],
    ['SMARTPG_QUEUE_FULL', 'refused', 'ignore', 'query', 'pool_exhausted', 'never'],
    ['SMARTPG_CIRCUIT_OPEN', 'refused', 'ignore', 'query', 'circuit_open', 'elsewhere'],
    ['SMARTPG_OUTCOME_UNKNOWN', 'outcome-unknown', 'lost', 'query', 'connection_lost', 'never'],
    ['SMARTPG_NOT_EXECUTED', 'refused', 'ignore', 'query', 'connection_lost', 'never'],
    ['SMARTPG_INVALID_QUERY', 'query', 'ignore', 'query', 'query_error', 'never'],
    ['SMARTPG_RELEASED', 'query', 'ignore', 'query', 'query_error', 'never'],
    ['SMARTPG_CLOSED', 'refused', 'ignore', 'query', 'cancelled', 'never'],
    ['ABORT_ERR', 'cancelled', 'ignore', 'query', 'cancelled', 'never'],
  ])('%s is %s', (code, faultClass, breaker, tells, category, retry) => {
    expect(inQuery(code)).toMatchObject({ class: faultClass, breaker, tells, category, retry })
  })

  test('a timed-out statement costs the connection, unless the server answered the cancel', () => {
    expect(inQuery('SMARTPG_QUERY_TIMEOUT').dropsConnection).toBe(true)
    expect(inQuery('SMARTPG_QUERY_TIMEOUT', { innerCodes: ['57014'] }).dropsConnection).toBe(false)
  })

  test('a connection that we closed ourselves never counts against the server', () => {
    expect(inQuery('SMARTPG_CONNECTION_LOST', { innerCodes: ['ABORT_ERR'] }).breaker).toBe('ignore')
    expect(inQuery('SMARTPG_CONNECTION_LOST', { innerCodes: ['SMARTPG_CLOSED'] }).breaker).toBe('ignore')
    expect(inQuery('SMARTPG_CONNECTION_LOST', { innerCodes: ['SMARTPG_QUERY_TIMEOUT'] }).breaker).toBe('lost')
  })
})

describe('what the code alone does not tell', () => {
  test('FATAL means that the connection is gone, whatever the code', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[0-9A-Z]{5}$/), fc.constantFrom('FATAL', 'PANIC'), (code, severity) => {
        expect(server(code, '', severity).dropsConnection).toBe(true)
      }),
    )
  })

  test('an ERROR with a code of a user never counts against the server nor costs the connection', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^(22|23|42|P0|U0)[0-9A-Z]{3}$/), (code) => {
        fc.pre(code !== '42P05')
        expect(server(code)).toMatchObject({ class: 'query', breaker: 'success', dropsConnection: false })
      }),
    )
  })

  test('a full disk is an error of one statement or, as PANIC, the end of the server', () => {
    expect(server('53100')).toMatchObject({ class: 'server-resources', dropsConnection: false, breaker: 'failure' })
    expect(server('53100', '', 'PANIC')).toMatchObject({
      class: 'server-resources',
      dropsConnection: true,
      breaker: 'lost',
    })
  })

  test('a PANIC counts against the server even where an error of that code never does', () => {
    expect(server('XX000', '', 'PANIC')).toMatchObject({ class: 'connection-lost', breaker: 'lost' })
  })

  test('a FATAL of an unknown reason is a lost connection', () => {
    expect(server('XX000', 'too many clients', 'FATAL')).toMatchObject({ class: 'connection-lost', breaker: 'ignore' })
  })

  test('a conflict with recovery is told from a serialization failure by its message', () => {
    expect(server('40001', 'canceling statement due to conflict with recovery')).toMatchObject({
      class: 'recovery-conflict',
      dropsConnection: false,
      breaker: 'success',
      retry: 'elsewhere',
    })
    expect(server('40001', 'could not serialize access due to concurrent update').class).toBe('rolled-back')
  })

  test('a conflict with recovery is recognised in every language by its routine', () => {
    const message = 'storniere Anfrage wegen Konflikt mit der Wiederherstellung'
    expect(server('40001', message, 'FEHLER', 'ProcessRecoveryConflictInterrupt').class).toBe('recovery-conflict')
    expect(server('40001', message, 'FEHLER', 'ProcessInterrupts').class).toBe('recovery-conflict')
    expect(server('40001', 'x', 'FEHLER', 'ExecUpdate').class).toBe('rolled-back')
  })

  test('a conflict with recovery of an idle transaction takes the connection', () => {
    expect(server('40001', 'terminating connection due to conflict with recovery', 'FATAL')).toMatchObject({
      class: 'recovery-conflict',
      dropsConnection: true,
    })
  })

  test.each([
    ['0A000', 'cannot use serializable mode in a hot standby'],
    ['55000', 'recovery is in progress'],
    ['XX000', 'cannot assign OIDs during recovery'],
    ['25006', 'cannot execute INSERT in a read-only transaction'],
  ])('%s with "%s" is the refusal of a standby', (code, message) => {
    expect(server(code, message)).toMatchObject({ class: 'read-only', retry: 'primary', breaker: 'success' })
  })

  test('XX000 by its code alone is never the refusal of a standby', () => {
    expect(server('XX000', 'cache lookup failed for relation 1234').class).toBe('internal')
    expect(server('55000', 'currval of sequence "s" is not yet defined in this session').class).toBe('query')
  })

  test('0A000 from RevalidateCachedQuery means that the prepared statement is stale', () => {
    const message = 'cached plan must not change result type'
    expect(server('0A000', message, 'ERROR', 'RevalidateCachedQuery').retry).toBe('once-prepared')
    expect(server('0A000', message, 'ERROR', 'transformSelectStmt').class).toBe('query')
  })

  test('a broken foreign server behind postgres_fdw does not open our breaker', () => {
    for (const code of ['08001', '08006', '57P01', '53300']) {
      expect(server(code, 'could not connect to server "far"')).toMatchObject({
        class: 'query',
        dropsConnection: false,
        breaker: 'success',
      })
    }
  })

  test('a statement with too few parameters does not open the breaker', () => {
    const message = 'bind message supplies 1 parameters, but prepared statement "" requires 2'
    expect(server('08P01', message)).toMatchObject({ class: 'query', dropsConnection: false, breaker: 'success' })
  })

  test('a pooler that refuses a setting is not asked again, a pooler that lost its server is', () => {
    const message = 'unsupported startup parameter: statement_timeout'
    expect(inConnect('08P01', { message, severity: 'FATAL' })).toMatchObject({
      class: 'authentication',
      retry: 'never',
    })
    expect(inConnect('08P01', { message: 'server login has been failing', severity: 'FATAL' })).toMatchObject({
      class: 'unreachable',
      retry: 'elsewhere',
    })
  })

  test('an aggregate of addresses that all failed is known by the codes inside', () => {
    expect(classify({ message: '', during: 'connect', innerCodes: ['ENETUNREACH', 'ECONNREFUSED'] })).toMatchObject({
      class: 'unreachable',
      code: 'ENETUNREACH',
    })
    expect(classify({ code: 'ODD', message: '', during: 'connect', innerCodes: ['ETIMEDOUT'] })).toMatchObject({
      code: 'ETIMEDOUT',
      category: 'connection_timeout',
    })
  })

  test('an exception of user code says nothing about the server', () => {
    expect(classify({ message: 'x is not a function', during: 'query' })).toEqual({
      class: 'query',
      code: undefined,
      dropsConnection: false,
      breaker: 'ignore',
      tells: 'query',
      category: 'query_error',
      retry: 'never',
    })
    expect(classify({ message: 'vault is sealed', during: 'connect' })).toMatchObject({
      class: 'internal',
      breaker: 'ignore',
      retry: 'never',
    })
  })

  test('a connection slot that is missing never counts against the server', () => {
    expect(inConnect('53300', { severity: 'FATAL' }).breaker).toBe('ignore')
  })
})
