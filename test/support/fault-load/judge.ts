// The judge of a fault run. It is handed what every caller was told, and asks the database what really happened. What
// does not fit is a number other than 0 in its verdict, with a few examples in words.

import { ask } from '../postgres/server.ts'
import type { Entry } from './load.ts'
import { accountCount, firstBalance } from './operations.ts'
import type { Part } from './operations.ts'

/** What the database holds when everything is over. */
export interface Found {
  readonly written: readonly { readonly n: number; readonly part: Part; readonly times: number }[]
  readonly transfers: readonly { readonly n: number; readonly times: number }[]
  /** Accounts whose balance is not what the transfers add up to. */
  readonly offBalance: readonly number[]
  /** Of all accounts. */
  readonly sum: number
}

export interface Verdict {
  /** Acknowledged, and not there. */
  readonly lost: number
  readonly twice: number
  /** A batch or a transfer of which only a part is there. */
  readonly torn: number
  /** There, although its caller was told that it certainly is not. */
  readonly untrue: number
  /** An answer that is not what was asked for. */
  readonly wrong: number
  /** A stream that ended early as if it were whole. */
  readonly short: number
  /** A read that has seen what is not there. */
  readonly dirty: number
  /** Not settled within the budget and a second. */
  readonly hung: number
  /** Of each the first, in words. */
  readonly examples: readonly string[]
}

export const blameless: Verdict = { lost: 0, twice: 0, torn: 0, untrue: 0, wrong: 0, short: 0, dirty: 0, hung: 0, examples: [] } // prettier-ignore

/** Over a connection of its own, to the server itself. */
export async function findOut(url: string): Promise<Found> {
  const written = await ask<Found['written'][number]>(
    url,
    'select n, part, count(*)::int as times from public.written group by n, part',
  )
  const transfers = await ask<Found['transfers'][number]>(
    url,
    'select n, count(*)::int as times from public.transfers group by n',
  )
  const balances = await ask<{ id: number; balance: number; due: number }>(
    url,
    `select id, balance, (${firstBalance}
       + coalesce((select sum(amount) from public.transfers where target = id), 0)
       - coalesce((select sum(amount) from public.transfers where origin = id), 0))::int as due
     from public.accounts`,
  )
  const offBalance = balances.filter(({ balance, due }) => balance !== due).map(({ id }) => id)
  return { written, transfers, offBalance, sum: balances.reduce((sum, { balance }) => sum + balance, 0) }
}

/** `budgetMs`: how long an operation may take, from the moment it was due. */
export function judge(entries: readonly Entry[], found: Found, budgetMs: number): Verdict {
  const there = whatIsThere(found)
  const examples: string[] = []
  const count = (what: string, guilty: readonly unknown[]): number => {
    if (guilty.length > 0) examples.push(`${what}: ${JSON.stringify(guilty[0])}`)
    return guilty.length
  }
  const isThere = ({ kind, n }: Entry): boolean => partsOf(kind, n).every((key) => there.has(key))
  const isPartlyThere = ({ kind, n }: Entry): boolean => partsOf(kind, n).some((key) => there.has(key))
  const expectedSum = accountCount * firstBalance
  const torn = entries.filter((entry) => isPartlyThere(entry) && !isThere(entry))
  return {
    lost: count('lost', entries.filter((entry) => entry.wrote === 'yes' && !isThere(entry))), // prettier-ignore
    twice: count(
      'twice',
      [...there].filter(([, times]) => times > 1),
    ),
    torn:
      count('torn', torn) +
      count('an account does not add up', found.offBalance) +
      count('the sum of all accounts', found.sum === expectedSum ? [] : [found.sum]),
    untrue: count('said not to be there', entries.filter((entry) => entry.wrote === 'no' && isPartlyThere(entry))), // prettier-ignore
    wrong: count(
      'wrong',
      entries.filter(({ wrong }) => wrong !== null && !isShort(wrong)),
    ),
    short: count(
      'short',
      entries.filter(({ wrong }) => wrong !== null && isShort(wrong)),
    ),
    dirty: count(
      'seen and not there',
      entries.filter((entry) => sawWhatIsNotThere(entry, there)),
    ),
    hung: count('hung', entries.filter(({ due, settled }) => settled === null || settled - due > budgetMs + 1_000)), // prettier-ignore
    examples,
  }
}

/** How often each part of what was written is there. */
function whatIsThere({ written, transfers }: Found): ReadonlyMap<string, number> {
  return new Map([
    ...written.map(({ n, part, times }) => [`${part} ${n}`, times] as const),
    ...transfers.map(({ n, times }) => [`transfer ${n}`, times] as const),
  ])
}

function partsOf(kind: Entry['kind'], n: number): readonly string[] {
  switch (kind) {
    case 'insert':
    case 'own-write':
      return [`whole ${n}`]
    case 'batch':
      return [`left ${n}`, `right ${n}`]
    case 'transfer':
      return [`transfer ${n}`]
    default:
      return []
  }
}

function isShort(wrong: string): boolean {
  return wrong.startsWith('short')
}

function sawWhatIsNotThere({ kind, of, told, wrong }: Entry, there: ReadonlyMap<string, number>): boolean {
  return kind === 'recall' && told === 'ok' && wrong === null && !there.has(`whole ${of}`)
}
