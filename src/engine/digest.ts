// The name of a text: 128 bits of SHA-256, in hex. Two texts of one name would be a wrong answer, so no less.

import { createHash } from 'node:crypto'

export function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}
