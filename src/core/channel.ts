// Names of channels, for LISTEN and UNLISTEN. A name is quoted, so that it means itself, upper case included; what
// PostgreSQL would cut short or could never send back is refused before it is sent.

/** NAMEDATALEN − 1: LISTEN cuts a longer name short, and nobody would hear what `pg_notify` refuses to send there. */
export const LONGEST_CHANNEL_BYTES = 63

/** Why nobody can listen on a channel of this name; null when he can. */
export function channelFault(name: unknown): { readonly received: string; readonly expected: string } | null {
  if (typeof name !== 'string') return { received: typeof name, expected: 'the name of a channel' }
  const refused = (expected: string): ReturnType<typeof channelFault> => ({ received: JSON.stringify(name), expected })
  if (name === '') return refused('a name that is not empty')
  if (name.includes('\0')) return refused('a name without a zero character')
  // Half of a pair has no UTF-8, so the server would answer under another name.
  if (/\p{Surrogate}/u.test(name)) return refused('a name of whole characters')
  const bytes = new TextEncoder().encode(name).length
  if (bytes <= LONGEST_CHANNEL_BYTES) return null
  return refused(`a name of at most ${LONGEST_CHANNEL_BYTES} bytes, and this has ${bytes}`)
}

export function listenSql(channel: string): string {
  return `listen ${quoted(channel)}`
}

export function unlistenSql(channel: string): string {
  return `unlisten ${quoted(channel)}`
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
