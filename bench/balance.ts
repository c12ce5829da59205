// What the strategies do to the slowest reads: `node bench/balance.ts`. No server and no time: a simulation by a seed, of
// reads that arrive at random at three replicas. Milliseconds of the most frequent text, and the share of the reads that
// the replica took with which something is wrong; above it, the middle of the seeds.

import { runLoad, shareOf } from '../test/support/read-load.ts'
import type { LoadReplica, LoadText } from '../test/support/read-load.ts'
import { medianOf, percentile } from './statistics.ts'

const seeds = [1, 2, 3]
const seconds = 60
const strategies = ['round-robin', 'random', 'least-connections', 'performance', 'adaptive'] as const

const texts: Record<string, readonly LoadText[]> = {
  'one text': [{ share: 1, ms: 1, sigma: 0.4 }],
  'one text with long tails': [{ share: 1, ms: 1, sigma: 1.3 }],
  '0.5 ms, 5 ms and 1 % reports of 300 ms': [
    { share: 0.9, ms: 0.5, sigma: 0.5 },
    { share: 0.09, ms: 5, sigma: 0.8 },
    { share: 0.01, ms: 300, sigma: 0.8 },
  ],
}

const good: LoadReplica = {}
const cases: Record<string, readonly LoadReplica[]> = {
  'all alike': [good, good, good],
  'one five times as slow': [{ slowness: () => 5 }, good, good],
  'one five times as slow from 20 s to 30 s': [
    { slowness: (now) => (now > 20_000 && now < 30_000 ? 5 : 1) },
    good,
    good,
  ],
  'one stalls from 20 s to 23 s': [{ stalls: [20_000, 23_000] }, good, good],
}

for (const [textName, mix] of Object.entries(texts)) {
  for (const perSecond of [200, 2_000]) {
    for (const [caseName, replicas] of Object.entries(cases)) {
      console.log(`\n${caseName}; ${textName}; ${perSecond.toLocaleString('en-US')} reads a second`)
      for (const strategy of strategies) {
        const results = seeds.map((seed) => runLoad({ texts: mix, replicas, perSecond, seconds, strategy, seed }))
        const at = (q: number): string => medianOf(results.map(({ took }) => percentile(took, q))).toFixed(1)
        const share = medianOf(results.map((result) => shareOf(result, 0)))
        const told = `p50 ${at(0.5)}  p99 ${at(0.99)}  p99.9 ${at(0.999)}  worst ${at(1)}  its share ${(100 * share).toFixed(1)} %`
        console.log(`  ${strategy.padEnd(18)} ${told}`)
        if (process.argv[2] === '--verdicts')
          console.log(results[0]!.verdicts.map((verdict) => `    ${verdict}`).join('\n'))
      }
    }
  }
}
