// A misspelt name is answered with the right one. The distance is optimal string alignment: an insertion, a
// deletion, a replacement or two letters swapped count one each; case and `_` or `-` count nothing.

/** Longer keys are no typing errors, and the distance costs the product of both lengths. */
const longestName = 64

/** The candidate that was most likely meant, if one is near enough: a third of the letters may differ. */
export function nearestName(name: string, candidates: Iterable<string>): string | undefined {
  if (name.length > longestName) return undefined
  const wanted = plain(name)
  let best: string | undefined
  let fewest = Infinity
  for (const candidate of candidates) {
    const edits = distance(wanted, plain(candidate))
    const allowed = Math.max(1, Math.floor(Math.max(wanted.length, candidate.length) / 3))
    if (edits <= allowed && edits < fewest) {
      best = candidate
      fewest = edits
    }
  }
  return best
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[_-]/g, '')
}

function distance(a: string, b: string): number {
  let beforeLast: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1]
      let edits = Math.min(last[column]! + 1, current[column - 1]! + 1, last[column - 1]! + (same ? 0 : 1))
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]
      if (swapped) edits = Math.min(edits, beforeLast[column - 2]! + 1)
      current.push(edits)
    }
    beforeLast = last
    last = current
  }
  return last[b.length]!
}
