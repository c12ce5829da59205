// From what was said about TLS to the options of pg's client. The ssl object is always made here, and anew for each
// connection: files are read again, so that a certificate may be exchanged while the process runs, and pg, which
// hides the key in the object it is given, hides it in a copy.

import { readFile } from 'node:fs/promises'
import * as nodeTls from 'node:tls'
import type { ClientConfig } from 'pg'
import type { ConnectionConfig, ConnectionTarget, SslOptions } from '../config/options.ts'
import { ConfigError } from '../core/errors.ts'
import type { ConfigFault } from '../core/errors.ts'
import { planTls, splitTlsWords } from '../core/tls.ts'
import type { TlsPlan } from '../core/tls.ts'

export interface Prepared {
  /** For pg's client: without a word about TLS that it would interpret by itself. */
  readonly config: ClientConfig
  /** Whether the SCRAM exchange is bound to the TLS channel: where it can be, always, never. */
  readonly binding: 'disable' | 'prefer' | 'require'
  readonly tls: 'unsaid' | 'off' | 'checked' | 'unchecked'
}

/** Throws ConfigError for what contradicts itself, and for a file that cannot be read. */
export async function prepareTls(
  target: ConnectionTarget,
  shared: SslOptions | undefined,
  node: string,
): Promise<Prepared> {
  const { ssl: own, ...rest }: ConnectionConfig = typeof target === 'string' ? { connectionString: target } : target
  const { rest: url, words } = splitTlsWords(rest.connectionString ?? '')
  const faults: ConfigFault[] = []
  const plan = planTls({ words, own, shared, environment: process.env['PGSSLMODE'] }, node, faults)
  if (faults.length > 0) throw new ConfigError(faults, { node, phase: 'connect' })
  const config: ClientConfig = { ...rest }
  if (rest.connectionString !== undefined) config.connectionString = url
  if (plan.at === 'unsaid') return { config, tls: 'unsaid', binding: 'prefer' }
  if (plan.at === 'off') return { config: withoutTls(config), tls: 'off', binding: 'disable' }
  config.ssl = await optionsOf(plan, node)
  if (plan.direct) Object.assign(config, { sslnegotiation: 'direct' })
  return { config, tls: plan.trust === 'anybody' ? 'unchecked' : 'checked', binding: plan.binding }
}

/** Neither the environment nor pg's defaults turn it on again. */
export function withoutTls(config: ClientConfig): ClientConfig {
  return Object.assign({ ...config, ssl: false }, { sslnegotiation: 'postgres' })
}

async function optionsOf(plan: Extract<TlsPlan, { at: 'on' }>, node: string): Promise<nodeTls.ConnectionOptions> {
  const options = { ...plan.options } as nodeTls.ConnectionOptions
  // Said aloud, because NODE_TLS_REJECT_UNAUTHORIZED and --tls-min-v1.0 decide where nothing is said.
  options.rejectUnauthorized = plan.trust === null ? options.rejectUnauthorized !== false : plan.trust !== 'anybody'
  if (plan.minVersion !== undefined) options.minVersion = plan.minVersion as nodeTls.SecureVersion
  else if (options.secureProtocol === undefined) options.minVersion ??= 'TLSv1.2'
  if (plan.trust === 'authority') options.checkServerIdentity = () => undefined
  // pg asks for the name that is connected to, whatever stands here: a tunnel's end is `localhost`.
  const name = options.servername ?? options.host
  if (name !== undefined) options.checkServerIdentity ??= (_, peer) => nodeTls.checkServerIdentity(name, peer)
  if (plan.passphrase !== undefined) options.passphrase = plan.passphrase
  for (const [option, file] of Object.entries(plan.files)) {
    Object.assign(options, { [option]: await contentOf(option, file, node) })
  }
  return concealed(options)
}

async function contentOf(option: string, file: string, node: string): Promise<string | readonly string[]> {
  // As libpq's word: the CAs that this machine trusts. Older versions of Node know only those of their own bundle.
  if (option === 'ca' && file === 'system') {
    const { getCACertificates } = nodeTls as { getCACertificates?: (of: 'system') => string[] }
    return getCACertificates?.('system') ?? nodeTls.rootCertificates
  }
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    const { code = 'unknown' } = error as NodeJS.ErrnoException
    const fault = { path: `${node}?${wordOf[option]}`, received: `a file that cannot be read (${code})` }
    throw new ConfigError([{ ...fault, expected: 'a file in PEM that this process may read' }], {
      node,
      phase: 'connect',
      cause: error,
    })
  }
}

const wordOf: Record<string, string> = { ca: 'sslrootcert', cert: 'sslcert', key: 'sslkey', crl: 'sslcrl' }

/** Usable by node:tls, hidden from whoever looks at a client that was lent. */
function concealed<T extends object>(options: T): T {
  const hidden = { value: () => '[TLS options]' }
  return Object.defineProperties(options, { toJSON: hidden, [Symbol.for('nodejs.util.inspect.custom')]: hidden })
}
