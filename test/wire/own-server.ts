// Passwords and certificates for a cluster of a test's own, whose `initdb` trusts everybody on this machine.

import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { serverAccount } from '../support/postgres/account.ts'
import type { Cluster } from '../support/postgres/cluster.ts'

export async function superuserQueries(cluster: Cluster, ...statements: readonly string[]): Promise<void> {
  for (const statement of statements) await cluster.primary.query(statement)
}

/** Puts a line above all others of pg_hba.conf; settles when it is in force. */
export function hba(cluster: Cluster, line: string): Promise<void> {
  return prepend(cluster, 'pg_hba.conf', line)
}

/** Puts a line above all others of pg_ident.conf, which says who may be whom; settles when it is in force. */
export function mapUsers(cluster: Cluster, line: string): Promise<void> {
  return prepend(cluster, 'pg_ident.conf', line)
}

async function prepend(cluster: Cluster, name: string, line: string): Promise<void> {
  const file = join(cluster.folder!, 'primary', name)
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

export interface Identity {
  readonly certificate: string
  readonly key: string
}

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
  /** Of the same CA and for the same names, and yet somebody else. */
  readonly other: Identity
  /** Of the same CA for db.example.com; and over since yesterday. */
  readonly elsewhere: Identity
  readonly expired: Identity
  /** Of the same CA for the role `app`. */
  readonly client: Identity
}

const openssl = (...args: string[]): Buffer => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] })
const elliptic = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

/** Certificates for 127.0.0.1, made by the program openssl. */
export function makeCertificates(): Certificates {
  const folder = mkdtempSync(join(tmpdir(), 'smartpg-certificates-'))
  const at = (name: string): string => join(folder, name)
  const read = (name: string): string => readFileSync(at(name), 'utf8')
  const here = 'IP:127.0.0.1,DNS:localhost'
  const authority = (name: string): string => {
    const files = ['-keyout', at(`${name}.key`), '-out', at(`${name}.crt`)]
    openssl('req', '-x509', ...elliptic, '-days', '2', '-subj', `/CN=${name}`, ...files)
    return read(`${name}.crt`)
  }
  const signed = (name: string, names: string, { keyed = elliptic, days = 2 } = {}): Identity => {
    writeFileSync(at(`${name}.names`), `subjectAltName=${names}`)
    const request = at(`${name}.csr`)
    openssl('req', ...keyed, '-subj', `/CN=${name}`, '-keyout', at(`${name}.key`), '-out', request)
    const by = ['-CA', at('ca.crt'), '-CAkey', at('ca.key'), '-CAcreateserial', '-extfile', at(`${name}.names`)]
    openssl('x509', '-req', '-in', request, ...by, '-days', String(days), '-out', at(`${name}.crt`))
    return { certificate: read(`${name}.crt`), key: read(`${name}.key`) }
  }
  try {
    const [ca, stranger] = ['ca', 'stranger'].map(authority) as [string, string]
    const { certificate: leaf, key } = signed('server', here, { keyed: ['-newkey', 'rsa:2048', '-nodes'] })
    const itself = ['-key', at('server.key'), '-subj', '/CN=self', '-addext', `subjectAltName=${here}`, '-days', '2']
    openssl('req', '-x509', ...itself, '-out', at('self.crt'))
    return {
      ca,
      stranger,
      leaf,
      chain: `${leaf}${ca}`,
      selfSigned: read('self.crt'),
      key,
      other: signed('other', here),
      elsewhere: signed('elsewhere', 'DNS:db.example.com'),
      expired: signed('expired', here, { days: -1 }),
      client: signed('app', 'DNS:app'),
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * Gives the primary a certificate and turns TLS on; it asks clients for certificates of `clientsCa`, if there is one.
 * New connections see it a moment later.
 */
export async function turnTlsOn(cluster: Cluster, certificate: string, key: string, clientsCa?: string): Promise<void> {
  const data = join(cluster.folder!, 'primary')
  const account = serverAccount()
  const files = { 'server.crt': certificate, 'server.key': key, 'clients.crt': clientsCa ?? '' }
  for (const [name, text] of Object.entries(files)) {
    const file = join(data, name)
    writeFileSync(file, text)
    chmodSync(file, 0o600)
    if (account !== undefined) chownSync(file, account.uid, account.gid)
  }
  const ca = clientsCa === undefined ? '' : 'clients.crt'
  await superuserQueries(cluster, `alter system set ssl_ca_file = '${ca}'`, 'alter system set ssl = on')
  await superuserQueries(cluster, 'select pg_reload_conf()')
}

/**
 * An address of this machine that is not 127.0.0.1 or ::1: to a client it is a network, and yet nothing leaves the
 * machine. Undefined where there is none.
 */
export const ownAddress: string | undefined = Object.values(networkInterfaces())
  .flatMap((addresses) => addresses ?? [])
  .find(({ family, internal }) => family === 'IPv4' && !internal)?.address
