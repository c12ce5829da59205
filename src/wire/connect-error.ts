// What is thrown when a connection cannot be opened: which node, the reason as it was said, and what to do about it.

import { ConfigError, SmartPgError, isSmartPgError } from '../core/errors.ts'

export interface Attempt {
  readonly node: string
  /** Empty while it is not known. */
  readonly host: string
  /** Startup parameters of ours. */
  readonly settings: { readonly [setting: string]: string }
}

export function connectError(error: unknown, attempt: Attempt): unknown {
  if (isSmartPgError(error)) return error
  const { node, settings } = attempt
  const message = messageOf(error)
  const refused = /unsupported startup parameter(?: in options)?:? "?([\w.]+)/i.exec(message)?.[1]
  const setting = Object.keys(settings).find((name) => name.toLowerCase() === refused?.toLowerCase())
  if (setting !== undefined || refused === 'options') {
    return new ConfigError(
      [
        {
          path: setting === undefined ? `options of node '${node}'` : `session.settings.${setting}`,
          received: 'a setting that the pooler in between refuses at startup',
          expected: 'settings that it lets through; the others by ALTER ROLE … SET or ALTER DATABASE … SET',
        },
      ],
      { node, cause: error },
    )
  }
  const code = textOf(error, 'code')
  return new SmartPgError(
    'SMARTPG_CONNECT_FAILED',
    `Cannot connect to node '${node}': ${message}${code === undefined ? '' : ` (${code})`}`,
    { node, phase: 'connect', retryable: true, hint: hintFor(error, message, attempt), cause: error },
  )
}

function hintFor(error: unknown, message: string, { host }: Attempt): string | undefined {
  const code = textOf(error, 'code')
  if (code === '28000' && scramRoutines.has(textOf(error, 'routine') ?? '')) return somebodyBetween
  if (message.startsWith('SASL channel binding:')) return 'Say channel_binding=disable in the URL.'
  if (code !== undefined && unknownAuthority.has(code)) return rdsHost.test(host) ? rdsBundle : ownAuthority
  if (host.startsWith('/') && code !== undefined && code in socketHints) return socketHints[code]
  if (code !== undefined && code in hints) return hints[code]
  return hintsByWords.find(([words]) => words.test(message))?.[1]
}

// PostgreSQL's functions, which are never translated; at 28000 both speak of channel binding and of nothing else.
const scramRoutines: ReadonlySet<string> = new Set(['read_client_first_message', 'read_client_final_message'])
const somebodyBetween =
  "Somebody in between ends TLS with a certificate that is not the server's: a proxy, or an attacker. " +
  'Connect to the server itself; if you run that proxy, say channel_binding=disable in the URL.'

const unknownAuthority: ReadonlySet<string> = new Set([
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'SELF_SIGNED_CERT_IN_CHAIN',
])
const ownAuthority =
  'The CA is not known here: give it by `ssl: { ca }`, or sslrootcert in the URL. Providers offer theirs for ' +
  'download (Amazon RDS: its bundle).'
const rdsHost = /\.rds(?:\.[\w-]+)?\.amazonaws\.com(?:\.cn)?$/i
const rdsBundle =
  'Amazon RDS has CAs of its own: download https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem and ' +
  'give it by `ssl: { ca }`, or sslrootcert in the URL.'

const socketHints: Record<string, string> = {
  ENOENT: 'There is no such socket: check the directory and the port, and that the server runs.',
  EACCES: 'This user may not use the socket: check the rights of its directory, and unix_socket_permissions.',
  ENOTDIR: 'The path is no directory: give the one that holds the socket, not the socket.',
  ECONNREFUSED: 'A socket is there, but nobody listens: the server does not run, or it is no socket of a server.',
}

const hints: Record<string, string> = {
  ECONNREFUSED: 'Nothing listens there: check host and port, and that the server runs.',
  ENOTFOUND: 'The host name does not resolve: check it, and the DNS.',
  EAI_AGAIN: 'The host name could not be looked up for now: check the DNS.',
  ETIMEDOUT: 'No answer in time: check the network and firewalls, or raise `pool.connectTimeout`.',
  '28P01': 'Wrong user or password.',
  '28000': 'The server refuses this user from this address: see pg_hba.conf.',
  '3D000': 'The database does not exist on that server.',
  '53300': 'The server has no free connection slots: lower `pool.max`.',
  ERR_TLS_CERT_ALTNAME_INVALID:
    'The certificate is for another host: connect by the name it was made for, or name that by `ssl: { servername }`.',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'The certificate is self-signed: give it as CA by `ssl: { ca }`.',
  CERT_HAS_EXPIRED: "The server's certificate has expired: renew it there. (Or this machine's clock is wrong.)",
  CERT_NOT_YET_VALID: "The server's certificate is not valid yet: look at this machine's clock, and the server's.",
  CERT_REVOKED: "The server's certificate has been revoked: give the server another one.",
}

const hintsByWords: readonly (readonly [words: RegExp, hint: string])[] = [
  [
    /unsupported startup parameter/,
    'A pooler in between refuses it: leave it out, and use ALTER ROLE … SET or ALTER DATABASE … SET.',
  ],
  [
    /does not support SSL/,
    'The server speaks no TLS, and was sent nothing: turn it on there (ssl = on), or say `ssl: false` ' +
      '(sslmode=disable in the URL).',
  ],
  [
    /alert protocol version|unsupported protocol|no protocols available/,
    'Server and client have no version of TLS in common, and ours begin at 1.2: mend the server, or say ' +
      '`ssl: { minVersion }`.',
  ],
  [
    /error establishing an SSL connection/,
    'What answers there is no PostgreSQL with TLS, or somebody puts words into its mouth: check host and port.',
  ],
]

function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map((one) => messageOf(one)).join('; ')
  }
  return error instanceof Error ? error.message : String(error)
}

function textOf(error: unknown, name: 'code' | 'routine'): string | undefined {
  if (typeof error !== 'object' || error === null || !(name in error)) return undefined
  const value = (error as Record<string, unknown>)[name]
  return typeof value === 'string' ? value : undefined
}
