// The cells of a node: what a dashboard may rely on before anything has happened, and that nodes share nothing.

import { describe, expect, test } from 'vitest'
import {
  ACQUIRE_RESULTS,
  BATCH_RESULTS,
  BATCH_STRATEGIES,
  BREAKER_STATES,
  CLOSE_REASONS,
  ERROR_CATEGORIES,
  NodeCells,
  QUERY_KINDS,
  RETRY_OUTCOMES,
  RETRY_REASONS,
  ROUTE_REASONS,
} from '../../src/core/cells.ts'
import { Histogram } from '../../src/core/histogram.ts'

/** Every number in the cells, histograms by their count, each under its path. */
function numbers(cells: object, path = ''): Record<string, number> {
  return Object.entries(cells).reduce<Record<string, number>>((found, [name, value]) => {
    const at = `${path}${name}`
    if (typeof value === 'number') return { ...found, [at]: value }
    if (value instanceof Histogram) return { ...found, [at]: value.count }
    return { ...found, ...numbers(value as object, `${at}.`) }
  }, {})
}

describe('a new node', () => {
  test('has counted nothing', () => {
    const counted = numbers(new NodeCells())
    expect(Object.keys(counted)).toContain('connectionsClosed.failover')
    expect(Object.keys(counted)).toContain('operations.read_simple.duration')
    expect(new Set(Object.values(counted))).toEqual(new Set([0]))
  })

  test('has a cell for each name of each closed set, so that no increment makes a NaN', () => {
    const cells = new NodeCells()
    expect(Object.keys(cells.errorsByCategory)).toEqual(ERROR_CATEGORIES)
    expect(Object.keys(cells.connectErrors)).toEqual(ERROR_CATEGORIES)
    expect(Object.keys(cells.operations)).toEqual(QUERY_KINDS)
    expect(Object.keys(cells.acquires)).toEqual(ACQUIRE_RESULTS)
    expect(Object.keys(cells.connectionsClosed)).toEqual(CLOSE_REASONS)
    expect(Object.keys(cells.breakerTransitions)).toEqual(BREAKER_STATES)
    expect(Object.keys(cells.breakerTransitions.open)).toEqual(BREAKER_STATES)
    expect(Object.keys(cells.retries)).toEqual(RETRY_REASONS)
    expect(Object.keys(cells.retries.starting)).toEqual(RETRY_OUTCOMES)
    expect(Object.keys(cells.routed)).toEqual(['primary', 'replica'])
    expect(Object.keys(cells.routed.replica)).toEqual(ROUTE_REASONS)
    expect(Object.keys(cells.batches)).toEqual(BATCH_STRATEGIES)
    expect(Object.keys(cells.batches.transactional.results)).toEqual(BATCH_RESULTS)
  })
})

describe('counting', () => {
  test('on one node leaves every other node alone', () => {
    const one = new NodeCells()
    const untouched = numbers(new NodeCells())
    const other = new NodeCells()
    one.queries++
    one.errorsByCategory.deadlock++
    one.operations.ddl.queries++
    one.operations.ddl.duration.observe(3)
    one.breakerTransitions.closed.open++
    one.routed.primary.write++
    one.batches.parallel.results.ok++
    expect(numbers(other)).toEqual(untouched)
  })

  test('in one row of a pair leaves the other rows alone', () => {
    const cells = new NodeCells()
    cells.breakerTransitions.closed.open++
    cells.retries.unreachable.ok++
    const counted = Object.entries(numbers(cells)).filter(([, value]) => value !== 0)
    expect(counted).toEqual([
      ['breakerTransitions.closed.open', 1],
      ['retries.unreachable.ok', 1],
    ])
  })
})

test('the categories of errors are those of the documentation', () => {
  expect(ERROR_CATEGORIES).toEqual([
    'connection_timeout',
    'connection_refused',
    'authentication_failed',
    'query_timeout',
    'query_error',
    'pool_exhausted',
    'circuit_open',
    'connection_lost',
    'serialization_failure',
    'deadlock',
    'cancelled',
  ])
})
