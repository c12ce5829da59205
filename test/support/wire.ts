// The wire that this run of the tests is about: every dialect and every session that a test opens takes it from here.
// TEST_WIRE says it, because processes that a test starts inherit it.

export type Wire = 'pg' | 'native'

/** Over what this process goes. */
export const wire: Wire = wireNamed(process.env['TEST_WIRE'] ?? 'native')

function wireNamed(name: string): Wire {
  if (name === 'pg' || name === 'native') return name
  throw new Error(`TEST_WIRE is '${name}'; it may be 'pg' or 'native'`)
}
