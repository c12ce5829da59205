// This room leans on parts of pg that its public types leave out. They are named in src/wire; here each of them is
// looked for in the installed pg, so that a new version without one is found by a test and not by a user.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Connection, Result } from 'pg'
import { prepareValue } from 'pg/lib/utils.js'
import { describe, expect, test } from 'vitest'
import { clientOf, open } from './sessions.ts'

const wire = join(import.meta.dirname, '..', '..', 'src', 'wire')

/** Members of an interface as the source writes them, in the order in which they stand there. */
function membersOf(file: string, name: string): { name: string; kind: 'method' | 'property' }[] {
  const source = readFileSync(join(wire, file), 'utf8')
  const body = new RegExp(`interface ${name}\\b[^{]*\\{\\n([^]*?)\\n\\}`).exec(source)?.[1]
  if (body === undefined) throw new Error(`${file} has no interface ${name}`)
  return [...body.matchAll(/^ {2}(?:readonly )?(\w+)\??([(:])/gm)].map(([, member, mark]) => ({
    name: member!,
    kind: mark === '(' ? ('method' as const) : ('property' as const),
  }))
}

async function expectMembers(of: object, file: string, name: string): Promise<void> {
  const members = membersOf(file, name)
  expect(members.length).toBeGreaterThan(0)
  const missing = members.filter((member) => {
    const value = (of as Record<string, unknown>)[member.name]
    return member.kind === 'method' ? typeof value !== 'function' : !(member.name in of)
  })
  expect(missing, `${file} names parts of pg that are not there`).toEqual([])
}

describe('the installed pg has what is named', () => {
  test('of its client', async () => {
    const client = clientOf(await open())
    await expectMembers(client, 'pg-client.ts', 'PgClient')
    expect(client.processID).toBeTypeOf('number')
    expect(client.secretKey).toBeTypeOf('number')
    expect(client.getTransactionStatus()).toBe('I')
  })

  test('of its connection', async () => {
    const { connection } = clientOf(await open())
    await expectMembers(connection, 'pg-client.ts', 'PgConnection')
    expect(connection.parsedStatements).toEqual({})
    expect(connection.stream).toMatchObject({ destroy: expect.any(Function), setKeepAlive: expect.any(Function) })
  })

  test('of a connection made for a cancel request', async () => {
    const Channel = Connection as unknown as new (config: object) => object
    await expectMembers(new Channel({ ssl: false }), 'cancel.ts', 'CancelConnection')
  })

  test('of its results, which parse the rows of portals', async () => {
    await expectMembers(new Result('object', undefined as never), 'cursor.ts', 'PgRowParser')
  })

  test('of what it calls a submittable: every message it hands on is taken', async () => {
    const cursor = readFileSync(join(wire, 'cursor.ts'), 'utf8')
    const client = readFileSync(join(import.meta.dirname, '../../node_modules/pg/lib/client.js'), 'utf8')
    const handed = [...new Set([...client.matchAll(/activeQuery\.(handle\w+)\(/g)].map(([, name]) => name!))]
    expect(handed.length).toBeGreaterThan(5)
    expect(handed.filter((name) => !new RegExp(`^ {2}${name}\\(`, 'm').test(cursor))).toEqual([])
  })

  test('of its value serialization', () => {
    expect([new Date(0), [1, 'two'], Buffer.from('x'), null].map((value) => typeof prepareValue(value))).toEqual([
      'string',
      'string',
      'object',
      'object',
    ])
  })
})
