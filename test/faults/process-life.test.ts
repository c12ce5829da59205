// What a script sees of the event loop: idle connections do not keep it alive, and whatever somebody awaits does. A
// timer that is not counted ends the process in silence, with the promise unsettled and exit code 13.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, inject, test } from 'vitest'
import { freePort } from '../support/postgres/free-port.ts'

async function script(body: string, ...args: string[]): Promise<string> {
  const head = `
    import { Kysely, sql } from 'kysely'
    import { SmartPgDialect } from ${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)}
    const [url] = process.argv.slice(-1)
    import { wire } from ${JSON.stringify(new URL('../support/wire.ts', import.meta.url).href)}
    const dialect = (options) => new SmartPgDialect({ wire, primary: url, ...options })
    const open = (options) => new Kysely({ dialect: dialect(options) })
    const code = (error) => error.code
  `
  const flags = ['--input-type=module-typescript', '--disable-warning=ExperimentalWarning', '--eval', head + body]
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, ...args], {
    cwd: import.meta.dirname,
    timeout: 25_000,
  })
  return stdout.trim()
}

test('a script that has done its work ends by itself, without destroy', async () => {
  const done = script(
    `const { rows } = await sql\`select 1 as n\`.execute(open()); console.log(rows[0].n)`,
    inject('primaryUrl'),
  )
  expect(await done).toBe('1')
})

test('a script that only said ready() ends by itself, too', async () => {
  const body = `await dialect().ready(); console.log('ready')`
  expect(await script(body, inject('primaryUrl'))).toBe('ready')
})

test('a script that waits for a server that is not there gets its error, not silence', async () => {
  const url = `postgres://app@127.0.0.1:${await freePort()}/app`
  const refused = `console.log(await sql\`select 1\`.execute(open({ pool: { acquireTimeout: '2s' } })).catch(code))`
  expect(await script(refused, url)).toMatch(/^SMARTPG_(ACQUIRE_TIMEOUT|CONNECT_FAILED|CIRCUIT_OPEN)$/)
  const patient = `console.log(await sql\`select 1\`.execute(open({ breaker: false, pool: { acquireTimeout: '2s' } })).catch(code))`
  expect(await script(patient, url)).toBe('SMARTPG_ACQUIRE_TIMEOUT')
})

test('destroy settles before the process may end', async () => {
  const body = `
    const db = open({ replicas: [url] })
    for (let i = 0; i < 20; i++) await db.selectNoFrom(sql\`1\`.as('n')).execute()
    await db.destroy()
    console.log('destroyed')`
  expect(await script(body, inject('primaryUrl'))).toBe('destroyed')
})
