// Passwords and certificates for a cluster of a test's own, whose `initdb` trusts everybody on this machine.

import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { serverAccount } from '../support/postgres/account.ts'
import type { Cluster } from '../support/postgres/cluster.ts'

export async function superuserQueries(cluster: Cluster, ...statements: readonly string[]): Promise<void> {
  for (const statement of statements) await cluster.primary.query(statement)
}

/** Puts a line above all others of pg_hba.conf; settles when it is in force. */
export async function hba(cluster: Cluster, line: string): Promise<void> {
  const file = join(cluster.folder!, 'primary', 'pg_hba.conf')
  writeFileSync(file, `${line}\n${readFileSync(file, 'utf8')}`)
  const [before] = await cluster.primary.query<{ at: string }>('select clock_timestamp()::text as at')
  await superuserQueries(cluster, 'select pg_reload_conf()')
  const inForce = 'select pg_conf_load_time() > $1::timestamptz as answer'
  const waits = async (): Promise<boolean> => {
    const [row] = await cluster.primary.query<{ answer: boolean }>(inForce, [before!.at])
    return !row!.answer
  }
  while (await waits()) await sleep(5)
}

export const hasOpenssl = spawnSync('openssl', ['version']).status === 0

export interface Certificates {
  /** The CA that signed the server's certificate. */
  readonly ca: string
  /** A CA that has nothing to do with it. */
  readonly stranger: string
  /** The server's certificate alone, with its CA's behind it, and one that it signed itself. */
  readonly leaf: string
  readonly chain: string
  readonly selfSigned: string
  readonly key: string
}

const openssl = (...args: string[]): Buffer => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] })

/** Certificates for 127.0.0.1, made by the program openssl. */
export function makeCertificates(): Certificates {
  const folder = mkdtempSync(join(tmpdir(), 'smartpg-certificates-'))
  const at = (name: string): string => join(folder, name)
  const san = 'subjectAltName=IP:127.0.0.1,DNS:localhost'
  const rsa = ['-newkey', 'rsa:2048', '-nodes', '-days', '2']
  try {
    for (const ca of ['ca', 'stranger']) {
      openssl('req', '-x509', ...rsa, '-subj', `/CN=${ca}`, '-keyout', at(`${ca}.key`), '-out', at(`${ca}.crt`))
    }
    writeFileSync(at('san'), san)
    openssl('req', ...rsa, '-subj', '/CN=server', '-keyout', at('server.key'), '-out', at('server.csr'))
    const signedBy = [
      '-CA',
      at('ca.crt'),
      '-CAkey',
      at('ca.key'),
      '-CAcreateserial',
      '-extfile',
      at('san'),
      '-days',
      '2',
    ]
    openssl('x509', '-req', '-in', at('server.csr'), ...signedBy, '-out', at('server.crt'))
    openssl(
      'req',
      '-x509',
      '-key',
      at('server.key'),
      '-subj',
      '/CN=self',
      '-addext',
      san,
      '-days',
      '2',
      '-out',
      at('self.crt'),
    )
    const read = (name: string): string => readFileSync(at(name), 'utf8')
    const [ca, leaf] = [read('ca.crt'), read('server.crt')]
    const selfSigned = read('self.crt')
    return { ca, stranger: read('stranger.crt'), leaf, chain: `${leaf}${ca}`, selfSigned, key: read('server.key') }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Gives the primary a certificate and turns TLS on; settles when new connections are greeted with it. */
export async function turnTlsOn(cluster: Cluster, certificate: string, key: string): Promise<void> {
  const data = join(cluster.folder!, 'primary')
  const account = serverAccount()
  for (const [name, text] of [
    ['server.crt', certificate],
    ['server.key', key],
  ] as const) {
    const file = join(data, name)
    writeFileSync(file, text)
    chmodSync(file, 0o600)
    if (account !== undefined) chownSync(file, account.uid, account.gid)
  }
  await superuserQueries(cluster, 'alter system set ssl = on', 'select pg_reload_conf()')
}
