// Watches how a server asks for the password, and answers in pg's place where the answer must be no: a password in
// the clear or as MD5 hash that anybody on the way could take, a server that lets us in without having shown that it
// knows the password, too, or a channel that is bound to nothing although that was required. It hears each message
// before pg does, and a connection that it gives up is closed before pg can answer.

import { ConfigError, SmartPgError } from '../core/errors.ts'
import { isLoopback } from '../core/tls.ts'
import type { PgClient } from './pg-client.ts'

export interface AuthenticationRules {
  readonly node: string
  readonly allowInsecureAuth: boolean
  readonly bindingRequired: boolean
}

/** Before pg connects, because who listens first hears first. `giveUp` must close the socket at once. */
export function guardAuthentication(client: PgClient, rules: AuthenticationRules, giveUp: (why: Error) => void): void {
  const { connection } = client
  let proof: 'not asked for' | 'owed' | 'given' = 'not asked for'
  const askedFor = (how: string) => (): void => {
    if (rules.bindingRequired) giveUp(unbound(client, rules))
    else if (!rules.allowInsecureAuth && !isPrivate(client)) giveUp(insecure(how, client, rules))
  }
  connection.on('authenticationCleartextPassword', askedFor('in the clear'))
  connection.on('authenticationMD5Password', askedFor('as an MD5 hash, which is as good as the password'))
  connection.on('authenticationSASL', ({ mechanisms }) => {
    proof = 'owed'
    if (rules.bindingRequired && !mechanisms.includes('SCRAM-SHA-256-PLUS')) giveUp(unbound(client, rules))
  })
  connection.on('authenticationSASLFinal', () => (proof = 'given'))
  connection.on('authenticationOk', () => {
    if (proof === 'owed') giveUp(unproven(rules))
    else if (proof === 'not asked for' && rules.bindingRequired) giveUp(unbound(client, rules))
  })
}

/** Encrypted, or never leaves this machine. */
function isPrivate(client: PgClient): boolean {
  return isEncrypted(client) || isLoopback(peerOf(client))
}

export function isEncrypted({ connection }: PgClient): boolean {
  return connection.stream.encrypted === true
}

/** The address that it really is connected to, for a name may mean any; the path of a Unix socket, which has none. */
export function peerOf({ connection, host }: PgClient): string {
  return connection.stream.remoteAddress ?? host
}

function insecure(how: string, client: PgClient, { node }: AuthenticationRules): ConfigError {
  const fault = {
    path: 'allowInsecureAuth',
    received: 'false',
    expected: `true before a password is sent ${how} and without TLS, as ${peerOf(client)} asks for`,
  }
  const hint =
    'The password was not sent. Use TLS (`ssl: true`, or sslmode=verify-full in the URL), or let the server ask for ' +
    'SCRAM (scram-sha-256 in pg_hba.conf); `allowInsecureAuth: true` sends it all the same.'
  return new ConfigError([fault], { node, phase: 'connect', hint })
}

function unbound(client: PgClient, { node }: AuthenticationRules): ConfigError {
  const fault = {
    path: `${node}?channel_binding`,
    received: 'require',
    expected: `another word, for ${peerOf(client)} does not ask for a password that is bound to the TLS channel`,
  }
  const hint = 'The password was not sent. A pooler or proxy in between may end TLS: it cannot be required there.'
  return new ConfigError([fault], { node, phase: 'connect', hint })
}

function unproven({ node }: AuthenticationRules): SmartPgError {
  return new SmartPgError(
    'SMARTPG_CONNECT_FAILED',
    `Cannot connect to node '${node}': it has not shown that it knows the password, as SCRAM demands`,
    { node, phase: 'connect', retryable: true, hint: 'Somebody else may answer in its place: check host and network.' },
  )
}
