// Any sequence of what may be done to a circuit, against a model that says what a caller may count on. The model is
// slow and plain: it keeps every call that was counted and every permit that was given, and looks through all of them.
// Of the recovery it knows no more than is promised: nobody is refused who comes seldom, and no more get through than
// the share.

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Breaker, refused } from '../../src/core/breaker.ts'
import type { Outcome, Permit, Transition } from '../../src/core/breaker.ts'
import type { BreakerSettings } from '../../src/core/breaker-rules.ts'
import { rampShare } from '../../src/core/breaker-rules.ts'

const small: BreakerSettings = {
  failureThreshold: 3,
  errorRate: 0.5,
  windowMs: 2000,
  minimumCalls: 6,
  slowCallMs: 100,
  slowCallRate: 0.75,
  recoveryMinMs: 1000,
  recoveryMaxMs: 4000,
  halfOpenMaxCalls: 2,
  metricsOnly: false,
}
const RAMP_MS = 5000
const SHORTEST_PROBE_MS = 250
const ONE_EVENT_MS = 1000

type Plain = 'admit' | 'admit-probe' | 'give-back' | 'force-open' | 'force-close' | 'isolate'
type Step =
  | { do: Plain }
  | { do: 'wait'; ms: number }
  | { do: 'settle'; which: number; outcome: Outcome; tookMs: number }
  /** So many calls one after the other, each admitted and settled. */
  | { do: 'calls'; count: number; outcome: Outcome; tookMs: number }
  /** By somebody who has not asked. */
  | { do: 'unasked'; outcome: Outcome; tookMs: number }
  | { do: 'end-isolation'; which: number }

type Chosen = BreakerSettings & { readonly closesAtOnce: boolean }
interface Call {
  readonly permit: Permit
  /** In which stretch between two changes of state it was admitted; null: let through for metrics only. */
  readonly stretch: number | null
}
interface Counted {
  readonly at: number
  readonly failed: boolean
  readonly slow: boolean
}

/** What is promised of a circuit, and the circuit. Each method does the same to both, and compares. */
class Pair {
  readonly breaker: Breaker
  readonly #settings: BreakerSettings
  readonly #chance: number
  readonly #closesAtOnce: boolean
  readonly #told: Transition[] = []
  now = 0
  held: Call[] = []

  state: 'closed' | 'open' | 'half-open' | 'forced' = 'closed'
  #isolated = false
  /** The outage that it was isolated in. */
  #over: { failures: number; openings: number } | null = null
  #stretch = 0
  #since = 0
  #failures = 0
  #counted: Counted[] = []
  #lostAt = -Infinity
  #rejections = 0
  /** Of the recovery: since when, what may have got through, and when somebody did last. */
  #ramp: { since: number; mostAdmitted: number; admitted: number; asked: number; lastAt: number } | null = null
  #openings = 0
  #until = 0
  #probeAfter = 0
  #probing = false
  #trialsLeft = 0
  #trialsOut = 0
  #answered = 0
  #renewAt = 0
  #isolations: { end: (now: number) => void; ended: boolean }[] = []

  constructor({ closesAtOnce, ...settings }: Chosen, chance: number) {
    this.#settings = settings
    this.#chance = chance
    this.#closesAtOnce = closesAtOnce
    const onTransition = (transition: Transition): void => void this.#told.push(transition)
    this.breaker = new Breaker(settings, { onTransition, closesAtOnce })
  }

  /** Calls that are tried at once. */
  get #trials(): number {
    return this.#closesAtOnce ? 1 : this.#settings.halfOpenMaxCalls
  }

  do(step: Step): void {
    this.#do(step)
    this.#compare(step)
  }

  #do(step: Step): void {
    if (step.do === 'wait') this.now += step.ms
    else if (step.do === 'settle') this.#settleOne(step)
    else if (step.do === 'unasked') this.settle({ permit: this.breaker.current, stretch: this.#stretch }, step)
    else if (step.do === 'calls') for (let i = 0; i < step.count; i++) this.#call(step)
    else if (step.do === 'end-isolation') this.#endIsolation(step.which)
    else this.#doPlain(step.do)
  }

  #doPlain(what: Plain): void {
    if (what === 'admit') this.admit()
    else if (what === 'admit-probe') this.#admitProbe()
    else if (what === 'give-back') this.#giveBack()
    else if (what === 'force-open') this.#forceOpen()
    else if (what === 'force-close') this.#forceClose()
    else this.#isolate()
  }

  /** Whether somebody got through, and heard. */
  admit(): Call | null {
    const { now, breaker } = this
    const { metricsOnly } = this.#settings
    const answer = breaker.admits(now)
    const permit = breaker.admit(now)
    expect(permit !== refused, 'admits() says what admit() does').toBe(answer)
    const through = this.#mayPass(permit)
    if (!through) this.#rejections++
    const lets = through || (metricsOnly && this.state !== 'forced')
    expect(permit === refused, `refused while ${this.state}`).toBe(!lets)
    if (!lets) return null
    const call = { permit, stretch: through ? this.#stretch : null }
    this.held.push(call)
    return call
  }

  settle(call: Call, { outcome, tookMs }: { outcome: Outcome; tookMs: number }): void {
    this.breaker.settle(call.permit, outcome, this.now, () => this.#chance, undefined, tookMs)
    if (call.stretch === null && this.state === 'open' && outcome === 'success') {
      this.#halfOpen()
      this.#trialAnswered()
      return
    }
    if (call.stretch !== this.#stretch) return
    const answered = outcome === 'success' || outcome === 'ignore'
    if (this.state === 'closed') this.#settleClosed(outcome, tookMs)
    else if (this.state === 'half-open' && this.#trialsOut > 0) {
      this.#trialsOut--
      if (answered) this.#trialAnswered()
      else this.#open(outcome === 'soft' ? 1 : this.#openings + 1, this.#failures + 1)
    } else if (this.state === 'open' && this.#probing) {
      this.#probing = false
      if (!answered) return
      this.#halfOpen()
      this.#trialAnswered()
    }
  }

  #mayPass(permit: Permit): boolean {
    if (this.state === 'forced') return false
    if (this.state === 'closed') return this.#passesRamp(permit)
    if (this.state === 'open') {
      if (this.now < this.#until) return false
      this.#halfOpen()
    }
    if (this.#trialsLeft === 0 && this.now >= this.#renewAt) {
      this.#trialsLeft = this.#trials - this.#answered
      this.#renewAt = this.now + this.#settings.recoveryMaxMs
    }
    if (this.#trialsLeft === 0) return false
    this.#trialsLeft--
    this.#trialsOut++
    return true
  }

  #passesRamp(permit: Permit): boolean {
    const ramp = this.#ramp
    if (ramp === null || this.now - ramp.since >= RAMP_MS) return true
    const { halfOpenMaxCalls } = this.#settings
    const passes = permit === this.breaker.current
    const floor = ((this.now - ramp.since) * halfOpenMaxCalls) / 100
    ramp.asked++
    ramp.mostAdmitted += rampShare(this.now - ramp.since)
    if (passes) ramp.admitted++
    expect(ramp.admitted, 'no more than the share').toBeLessThanOrEqual(1 + ramp.mostAdmitted + floor + 1e-6)
    if (!passes) expect(this.now - ramp.lastAt, 'seldom').toBeLessThan(100 / halfOpenMaxCalls)
    if (passes) ramp.lastAt = this.now
    return passes
  }

  #settleClosed(outcome: Outcome, tookMs: number): void {
    const { slowCallMs, recoveryMinMs, failureThreshold, errorRate, slowCallRate, minimumCalls } = this.#settings
    if (outcome === 'ignore') return
    if (outcome === 'lost' || outcome === 'soft') {
      if (this.now < this.#lostAt + Math.min(recoveryMinMs, ONE_EVENT_MS)) return
      this.#lostAt = this.now
    }
    const failed = outcome === 'failure' || outcome === 'lost' || outcome === 'soft'
    const slow = outcome === 'slow' || (slowCallMs > 0 && tookMs >= slowCallMs)
    this.#counted.push({ at: this.now, failed, slow })
    if (outcome === 'success') this.#failures = 0
    if (failed) this.#failures++
    if (!failed && !slow) return
    const [calls, failures, slows] = this.#inWindow()
    const enough = calls >= minimumCalls
    const opens =
      this.#failures >= failureThreshold ||
      (enough && failures / calls >= errorRate) ||
      (enough && slows / calls >= slowCallRate)
    if (!opens) return
    const recovering = this.#ramp !== null && this.now - this.#ramp.since < RAMP_MS
    this.#open(recovering ? this.#openings + 1 : 1, this.#failures)
  }

  #inWindow(): [calls: number, failed: number, slow: number] {
    const bucketMs = this.#settings.windowMs / 10
    const oldest = Math.floor(this.now / bucketMs) - 9
    const kept = this.#counted.filter(({ at }) => Math.floor(at / bucketMs) >= oldest)
    return [kept.length, kept.filter(({ failed }) => failed).length, kept.filter(({ slow }) => slow).length]
  }

  #open(openings: number, failures: number): void {
    const { recoveryMinMs, recoveryMaxMs } = this.#settings
    let plainMs = recoveryMinMs
    for (let i = 1; i < openings && plainMs < recoveryMaxMs; i++) plainMs *= 2
    this.#openFor(Math.min(plainMs, recoveryMaxMs) * (0.8 + 0.4 * this.#chance), openings, failures)
  }

  #openFor(forMs: number, openings: number, failures: number): void {
    this.#openings = openings
    this.#failures = failures
    this.#until = this.now + forMs
    this.#probeAfter = this.now + Math.max(SHORTEST_PROBE_MS, forMs / 4)
    this.#probing = false
    this.#become('open')
  }

  #halfOpen(): void {
    this.#trialsLeft = this.#trials
    this.#trialsOut = 0
    this.#answered = 0
    this.#renewAt = this.now + this.#settings.recoveryMaxMs
    this.#become('half-open')
  }

  #trialAnswered(): void {
    this.#answered++
    if (this.#answered < this.#trials) return
    const openings = this.#openings
    this.#close()
    if (this.#closesAtOnce) return
    this.#openings = openings
    this.#ramp = { since: this.now, mostAdmitted: 0, admitted: 0, asked: 0, lastAt: this.now }
  }

  #close(): void {
    this.#failures = 0
    this.#counted = []
    this.#lostAt = -Infinity
    this.#ramp = null
    this.#openings = 0
    this.#become('closed')
  }

  #become(state: Pair['state']): void {
    this.state = state
    this.#stretch++
    this.#since = this.now
  }

  #admitProbe(): void {
    const due = this.now >= this.#probeAfter && this.now < this.#until
    const expected = this.state === 'open' && !this.#probing && due
    const until = this.#until
    const permit = this.breaker.admitProbe(this.now)
    expect(permit !== refused, 'a probe').toBe(expected)
    if (!expected) return
    this.#probing = true
    const forMs = until - this.#since
    this.#probeAfter = this.now + Math.max(SHORTEST_PROBE_MS, forMs / 4)
    this.held.push({ permit, stretch: this.#stretch })
  }

  #giveBack(): void {
    const call = this.held.pop()
    if (call === undefined) return
    this.breaker.giveBack(call.permit)
    if (call.stretch !== this.#stretch) return
    if (this.state === 'open') this.#probing = false
    if (this.state !== 'half-open' || this.#trialsOut === 0) return
    this.#trialsOut--
    this.#trialsLeft = Math.min(this.#trialsLeft + 1, this.#trials - this.#answered)
  }

  #settleOne(step: Step & { do: 'settle' }): void {
    if (this.held.length === 0) return
    const [call] = this.held.splice(step.which % this.held.length, 1)
    this.settle(call!, step)
  }

  #call(step: { outcome: Outcome; tookMs: number }): void {
    const call = this.admit()
    if (call === null) return
    this.held.pop()
    this.settle(call, step)
  }

  #forceOpen(): void {
    this.breaker.forceOpen('by hand', this.now)
    this.#isolated = false
    this.#failures = 0
    this.#become('forced')
  }

  #forceClose(): void {
    this.breaker.forceClose('by hand', this.now)
    for (const isolation of this.#isolations) isolation.ended = true
    this.#close()
  }

  #isolate(): void {
    const end = this.breaker.isolate('by hand', this.now)
    this.#isolations.push({ end, ended: false })
    if (this.state === 'forced') return
    const broken = this.state === 'open' || this.state === 'half-open'
    this.#over = broken ? { failures: this.#failures, openings: this.#openings } : null
    this.#isolated = true
    this.#failures = 0
    this.#become('forced')
  }

  /** Any of those there ever were, those that have ended included. */
  #endIsolation(which: number): void {
    if (this.#isolations.length === 0) return
    const isolation = this.#isolations[which % this.#isolations.length]!
    isolation.end(this.now)
    if (isolation.ended) return
    isolation.ended = true
    if (this.state !== 'forced' || !this.#isolated || this.#isolations.some(({ ended }) => !ended)) return
    if (this.#over === null) this.#close()
    else this.#openFor(0, this.#over.openings, this.#over.failures)
  }

  #compare(step: Step): void {
    const { now, state } = this
    const [calls, failed, slow] = this.#inWindow()
    const status = this.breaker.status(now)
    const recovering = state === 'closed' && this.#ramp !== null
    expect(status, `after ${JSON.stringify(step)}`).toEqual({
      state: state === 'forced' ? 'open' : state,
      forced: state === 'forced',
      since: this.#since,
      consecutive_failures: this.#failures,
      error_rate: calls === 0 ? 0 : failed / calls,
      slow_rate: calls === 0 ? 0 : slow / calls,
      admitting: state !== 'closed' ? 0 : recovering ? rampShare(now - this.#ramp!.since) : 1,
      retry_after_ms: state === 'open' ? expect.closeTo(Math.max(0, this.#until - now), 6) : null,
      rejections: this.#rejections,
      transitions: this.#told.slice(-5),
    })
    expect(this.#told).toHaveLength(this.#stretch)
    this.#told.slice(1).forEach(({ from }, i) => expect(from, 'nothing happens untold').toBe(this.#told[i]!.to))
  }

  get trialsUnderWay(): number {
    return this.state === 'half-open' ? this.held.filter(({ stretch }) => stretch === this.#stretch).length : 0
  }

  get forgotten(): boolean {
    return this.now >= this.#renewAt
  }
}

const outcome = fc.oneof(
  { weight: 3, arbitrary: fc.constant<Outcome>('success') },
  { weight: 4, arbitrary: fc.constantFrom<Outcome>('failure', 'lost', 'soft', 'slow', 'ignore') },
)
const tookMs = fc.constantFrom(0, 99, 100, 5000)
const chance = fc.constantFrom(0, 0.5, 0.9, 1)
const waits = fc.oneof(
  fc.nat({ max: 60 }),
  fc.constantFrom(199, 200, 249, 250, 500, 799, 800, 999, 1000, 1999, 2000, 3999, 4000, 4999, 5000),
  fc.nat({ max: 6000 }),
)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 10, arbitrary: fc.constant<Step>({ do: 'admit' }) },
  { weight: 10, arbitrary: fc.record({ do: fc.constant('settle' as const), which: fc.nat(), outcome, tookMs }) },
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constant('calls' as const),
      count: fc.integer({ min: 1, max: 8 }),
      outcome,
      tookMs,
    }),
  },
  { weight: 10, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: waits }) },
  { weight: 4, arbitrary: fc.constant<Step>({ do: 'admit-probe' }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('unasked' as const), outcome, tookMs }) },
  { weight: 2, arbitrary: fc.constant<Step>({ do: 'give-back' }) },
  { weight: 2, arbitrary: fc.constantFrom<Step>({ do: 'force-open' }, { do: 'force-close' }, { do: 'isolate' }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('end-isolation' as const), which: fc.nat() }) },
)
const steps = fc.array(step, { maxLength: 80, size: 'max' })
const settings: fc.Arbitrary<Chosen> = fc
  .record({
    failureThreshold: fc.constantFrom(1, 3, 1000),
    minimumCalls: fc.constantFrom(1, 6),
    recoveryMinMs: fc.constantFrom(500, 1000, 2000),
    slowCallMs: fc.constantFrom(0, 100),
    halfOpenMaxCalls: fc.constantFrom(1, 2, 3),
    metricsOnly: fc.boolean(),
    closesAtOnce: fc.boolean(),
  })
  .map((some) => ({ ...small, ...some }))

describe('whatever is done to a circuit', () => {
  test('it is in the state that was promised, with the numbers that were promised', () => {
    fc.assert(
      fc.property(settings, steps, chance, (chosen, todo, always) => {
        const pair = new Pair(chosen, always)
        for (const one of todo) pair.do(one)
      }),
      { numRuns: 300 },
    )
  })

  test('it never has more trial calls under way than it may, unless some were given up', () => {
    fc.assert(
      fc.property(settings, steps, chance, (chosen, todo, always) => {
        fc.pre(!chosen.metricsOnly)
        const pair = new Pair(chosen, always)
        for (const one of todo) {
          pair.do(one)
          if (pair.state === 'half-open' && pair.forgotten) return
          expect(pair.trialsUnderWay).toBeLessThanOrEqual(chosen.halfOpenMaxCalls)
        }
      }),
      { numRuns: 150 },
    )
  })

  test('it closes by itself once the server answers again, and no permit is lost on the way', () => {
    fc.assert(
      fc.property(settings, steps, chance, (chosen, todo, always) => {
        const pair = new Pair(chosen, always)
        for (const one of todo) pair.do(one)
        fc.pre(pair.state !== 'forced')
        // Longer than it may stay open, wait for callers who never came back, and recover.
        for (let i = 0; i <= chosen.halfOpenMaxCalls; i++) {
          pair.do({ do: 'wait', ms: 2 * chosen.recoveryMaxMs })
          pair.do({ do: 'calls', count: 1, outcome: 'success', tookMs: 0 })
        }
        expect(pair.state).toBe('closed')
        pair.do({ do: 'wait', ms: RAMP_MS })
        for (let i = 0; i < 100; i++) expect(pair.breaker.admit(pair.now)).not.toBe(refused)
      }),
      { numRuns: 150 },
    )
  })

  test('for metrics only nobody is ever refused but by hand', () => {
    fc.assert(
      fc.property(settings, steps, chance, (chosen, todo, always) => {
        const pair = new Pair({ ...chosen, metricsOnly: true }, always)
        for (const one of todo) {
          pair.do(one)
          expect(pair.breaker.admits(pair.now)).toBe(pair.state !== 'forced')
        }
      }),
      { numRuns: 100 },
    )
  })
})
