import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Breaker, openMs, refused } from '../../src/core/breaker.ts'
import type { BreakerSettings, Outcome, Permit, Transition } from '../../src/core/breaker.ts'

const settings: BreakerSettings = {
  failureThreshold: 5,
  recoveryMinMs: 1000,
  recoveryMaxMs: 60_000,
  halfOpenMaxCalls: 3,
}
// The middle of ±20 %: exactly the plain time.
const middle = (): number => 0.5

function fail(breaker: Breaker, times: number, now = 0, outcome: Outcome = 'failure', cause?: unknown): void {
  for (let i = 0; i < times; i++) breaker.settle(breaker.admit(now), outcome, now, middle, cause)
}

function opened(): Breaker {
  const breaker = new Breaker(settings)
  fail(breaker, 5)
  return breaker
}

function halfOpen(): { breaker: Breaker; trial: Permit } {
  const breaker = opened()
  return { breaker, trial: breaker.admit(1000) }
}

describe('a closed circuit', () => {
  test('opens after as many failures in a row as the threshold says', () => {
    const breaker = new Breaker(settings)
    fail(breaker, 4)
    expect(breaker.state).toBe('closed')
    fail(breaker, 1)
    expect(breaker.state).toBe('open')
  })

  test('opens after five failures even if these are the only calls', () => {
    expect(opened().status(0)).toMatchObject({ state: 'open', consecutive_failures: 5 })
  })

  test('counts from zero after each success', () => {
    const breaker = new Breaker(settings)
    fail(breaker, 4)
    fail(breaker, 1, 0, 'success')
    fail(breaker, 4)
    expect(breaker.state).toBe('closed')
  })

  test('takes what says nothing about the server for neither success nor failure', () => {
    const breaker = new Breaker(settings)
    fail(breaker, 4)
    fail(breaker, 100, 0, 'ignore')
    expect(breaker.status(0)).toMatchObject({ state: 'closed', consecutive_failures: 4 })
    fail(breaker, 1)
    expect(breaker.state).toBe('open')
  })

  test('is opened by a server that says it is starting, but never for longer than the shortest time', () => {
    const breaker = new Breaker(settings)
    fail(breaker, 5, 0, 'soft')
    expect(breaker.status(0)).toMatchObject({ state: 'open', retry_after_ms: 1000 })
    breaker.settle(breaker.admit(1000), 'failure', 1000, middle)
    breaker.settle(breaker.admit(3000), 'soft', 3000, middle)
    expect(breaker.status(3000).retry_after_ms).toBe(1000)
  })

  test('admits everything without settings, whatever comes back', () => {
    const breaker = new Breaker(null)
    fail(breaker, 1000)
    expect(breaker.admit(0)).not.toBe(refused)
  })
})

describe('an open circuit', () => {
  test('refuses everything until its time is over', () => {
    const breaker = opened()
    expect(breaker.admit(999)).toBe(refused)
    expect(breaker.admits(999)).toBe(false)
    expect(breaker.admits(1000)).toBe(true)
    expect(breaker.admit(1000)).not.toBe(refused)
    expect(breaker.state).toBe('half-open')
  })

  test('keeps nothing of ten thousand refused calls but their number', () => {
    const breaker = opened()
    const before = { ...breaker.status(500), rejections: 10_000 }
    for (let i = 0; i < 10_000; i++) expect(breaker.admit(500)).toBe(refused)
    expect(breaker.status(500)).toEqual(before)
  })

  test('takes no notice of results that are still on their way', () => {
    const breaker = new Breaker(settings)
    const late = breaker.admit(0)
    fail(breaker, 5)
    for (const outcome of ['success', 'failure', 'ignore', 'soft'] as const) breaker.settle(late, outcome, 10, middle)
    expect(breaker.status(10)).toMatchObject({ state: 'open', retry_after_ms: 990, consecutive_failures: 5 })
  })

  test('stays open twice as long after each failed trial, up to the maximum', () => {
    const breaker = opened()
    const waits: number[] = []
    let now = 0
    for (let i = 0; i < 8; i++) {
      waits.push(breaker.status(now).retry_after_ms!)
      now += waits.at(-1)!
      breaker.settle(breaker.admit(now), 'failure', now, middle)
    }
    expect(waits).toEqual([1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000])
  })

  test('starts again with the shortest time once it was closed', () => {
    const { breaker, trial } = halfOpen()
    breaker.settle(trial, 'failure', 1000, middle)
    for (const permit of [3000, 3000, 3000].map((now) => breaker.admit(now))) {
      breaker.settle(permit, 'success', 3000, middle)
    }
    fail(breaker, 5, 3000)
    expect(breaker.status(3000).retry_after_ms).toBe(1000)
  })

  test('stays open for its time ±20 %, so that processes do not come back together', () => {
    expect(openMs(1, settings, 0)).toBeCloseTo(800)
    expect(openMs(1, settings, 1)).toBeCloseTo(1200)
    expect(openMs(40, settings, 0.5)).toBe(60_000)
  })

  test('tells a refused caller since when, for how long and why', () => {
    const breaker = new Breaker(settings, { wallOffsetMs: 1_700_000_000_000 })
    const cause = Object.assign(new Error('connect ECONNREFUSED 10.0.0.1:5432'), { code: 'ECONNREFUSED' })
    fail(breaker, 5, 100, 'failure', cause)
    expect(breaker.refusal(400)).toEqual({
      since: 1_700_000_000_100,
      retryAfterMs: 700,
      because: '5 failures in a row, the last ECONNREFUSED',
      cause,
    })
  })
})

describe('a half-open circuit', () => {
  test('lets as many trial calls through as it may and refuses the rest at once', () => {
    const { breaker } = halfOpen()
    expect(breaker.admit(1000)).not.toBe(refused)
    expect(breaker.admit(1000)).not.toBe(refused)
    expect(breaker.admits(1000)).toBe(false)
    expect(breaker.admit(1000)).toBe(refused)
  })

  test('closes when all trial calls were answered', () => {
    const { breaker, trial } = halfOpen()
    const others = [breaker.admit(1000), breaker.admit(1000)]
    breaker.settle(trial, 'success', 1001, middle)
    breaker.settle(others[0]!, 'success', 1001, middle)
    expect(breaker.state).toBe('half-open')
    breaker.settle(others[1]!, 'success', 1001, middle)
    expect(breaker.status(1001)).toMatchObject({ state: 'closed', consecutive_failures: 0 })
  })

  test('opens again at the first failure, and the other trial calls change nothing any more', () => {
    const { breaker, trial } = halfOpen()
    const other = breaker.admit(1000)
    breaker.settle(trial, 'failure', 1001, middle)
    breaker.settle(other, 'success', 1002, middle)
    expect(breaker.status(1002)).toMatchObject({ state: 'open', retry_after_ms: 1999, consecutive_failures: 6 })
  })

  test('closes on three unique violations, which are answers too', () => {
    const { breaker, trial } = halfOpen()
    const others = [breaker.admit(1000), breaker.admit(1000)]
    for (const permit of [trial, ...others]) breaker.settle(permit, 'ignore', 1001, middle)
    expect(breaker.state).toBe('closed')
  })

  test('gives the place of a call that never reached the server to another', () => {
    const { breaker, trial } = halfOpen()
    breaker.giveBack(trial)
    for (const permit of [1, 2, 3].map(() => breaker.admit(1001))) breaker.settle(permit, 'success', 1001, middle)
    expect(breaker.state).toBe('closed')
  })

  test('does not stay half open for ever when callers never come back', () => {
    const { breaker } = halfOpen()
    breaker.admit(1000)
    breaker.admit(1000)
    expect(breaker.admit(60_999)).toBe(refused)
    for (const permit of [1, 2, 3].map(() => breaker.admit(61_000))) breaker.settle(permit, 'success', 61_000, middle)
    expect(breaker.state).toBe('closed')
  })

  test('is not closed by settling what was not admitted', () => {
    const { breaker, trial } = halfOpen()
    for (let i = 0; i < 10; i++) breaker.settle(trial, 'success', 1000, middle)
    breaker.settle(refused, 'success', 1000, middle)
    expect(breaker.state).toBe('half-open')
  })
})

describe('by hand', () => {
  test('a circuit that is forced open stays open until it is forced closed', () => {
    const breaker = new Breaker(settings)
    breaker.forceOpen('maintenance', 0)
    expect(breaker.admit(1e12)).toBe(refused)
    expect(breaker.status(1e12)).toMatchObject({ state: 'open', forced: true, retry_after_ms: null })
    expect(breaker.refusal(0)).toMatchObject({ retryAfterMs: null, because: 'forced open: maintenance' })
    breaker.forceClose('done', 1e12)
    expect(breaker.admit(1e12)).not.toBe(refused)
    expect(breaker.status(1e12)).toMatchObject({ state: 'closed', forced: false })
  })

  test('a circuit that is forced closed counts from zero', () => {
    const breaker = opened()
    breaker.forceClose('I know better', 1)
    fail(breaker, 4, 1)
    expect(breaker.state).toBe('closed')
    fail(breaker, 1, 1)
    expect(breaker.status(1).retry_after_ms).toBe(1000)
  })

  test('a circuit can be forced open even where there is no breaker', () => {
    const breaker = new Breaker(null)
    breaker.forceOpen('drill', 0)
    expect(breaker.admit(0)).toBe(refused)
  })
})

describe('what is told', () => {
  test('each change of state with its reason, of which the last five are kept', () => {
    const heard: Transition[] = []
    const breaker = new Breaker(settings, { onTransition: (transition) => heard.push(transition), wallOffsetMs: 5000 })
    fail(breaker, 5, 10)
    breaker.settle(breaker.admit(2000), 'failure', 2000, middle)
    breaker.forceClose('a', 3000)
    breaker.forceOpen('b', 4000)
    breaker.forceClose('c', 5000)
    expect(heard.map(({ from, to, at }) => [from, to, at])).toEqual([
      ['closed', 'open', 5010],
      ['open', 'half-open', 7000],
      ['half-open', 'open', 7000],
      ['open', 'closed', 8000],
      ['closed', 'open', 9000],
      ['open', 'closed', 10_000],
    ])
    expect(breaker.status(5000).transitions).toEqual(heard.slice(-5))
  })

  test('no message of the server, which may hold values', () => {
    const breaker = new Breaker(settings)
    fail(breaker, 5, 0, 'failure', Object.assign(new Error('canary'), { code: '58030' }))
    expect(JSON.stringify(breaker)).not.toContain('canary')
    expect(JSON.stringify(breaker)).toContain('58030')
  })
})

describe('whatever happens', () => {
  type Step =
    | { do: 'admit' | 'give-back' | 'force-open' | 'force-close' }
    | { do: 'wait'; ms: number }
    | { do: 'settle'; which: number; outcome: Outcome }
  const outcome = fc.constantFrom<Outcome>('success', 'failure', 'soft', 'ignore')
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 6, arbitrary: fc.constant<Step>({ do: 'admit' }) },
    { weight: 6, arbitrary: fc.record({ do: fc.constant('settle' as const), which: fc.nat(), outcome }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.nat({ max: 3000 }) }) },
    { weight: 1, arbitrary: fc.constantFrom<Step>({ do: 'give-back' }, { do: 'force-open' }, { do: 'force-close' }) },
  )
  const small: BreakerSettings = {
    failureThreshold: 2,
    recoveryMinMs: 1000,
    recoveryMaxMs: 4000,
    halfOpenMaxCalls: 2,
  }

  /** Runs the steps; the model knows only what a caller may count on. */
  function live(steps: readonly Step[], chance: () => number): { breaker: Breaker; now: number } {
    let now = 0
    // Model: what a caller holds and in which stretch between two transitions he got it.
    let stretch = 0
    let failuresInARow = 0
    let trialsOut = 0
    let renewable = Infinity
    const held: { permit: Permit; stretch: number }[] = []
    const breaker = new Breaker(small, {
      onTransition: ({ to }) => {
        stretch += 1
        failuresInARow = 0
        trialsOut = 0
        renewable = to === 'half-open' ? now + small.recoveryMaxMs : Infinity
      },
    })
    for (const todo of steps) {
      if (todo.do === 'wait') now += todo.ms
      if (todo.do === 'force-open') breaker.forceOpen('test', now)
      if (todo.do === 'force-close') breaker.forceClose('test', now)
      if (todo.do === 'admit') {
        const before = breaker.status(now)
        const expected = breaker.admits(now)
        const permit = breaker.admit(now)
        expect(permit !== refused).toBe(expected)
        if (before.state === 'closed') expect(permit).not.toBe(refused)
        if (before.state === 'open') expect(permit === refused).toBe(before.forced || before.retry_after_ms! > 0)
        if (permit === refused) continue
        held.push({ permit, stretch })
        if (breaker.state === 'half-open' && now < renewable) {
          trialsOut += 1
          expect(trialsOut).toBeLessThanOrEqual(small.halfOpenMaxCalls)
        }
      }
      if (todo.do === 'give-back') {
        const call = held.pop()
        if (call === undefined) continue
        if (call.stretch === stretch && breaker.state === 'half-open') trialsOut -= 1
        breaker.giveBack(call.permit)
      }
      if (todo.do === 'settle' && held.length > 0) {
        const [call] = held.splice(todo.which % held.length, 1)
        const before = breaker.toJSON()
        const late = call!.stretch !== stretch
        if (!late && before.state === 'closed') {
          if (todo.outcome === 'success') failuresInARow = 0
          else if (todo.outcome !== 'ignore') failuresInARow += 1
        }
        const mustOpen = !late && before.state === 'closed' && failuresInARow === small.failureThreshold
        breaker.settle(call!.permit, todo.outcome, now, chance)
        if (late) expect(breaker.toJSON()).toEqual(before)
        else if (before.state === 'closed') expect(breaker.state).toBe(mustOpen ? 'open' : 'closed')
        else if (todo.outcome === 'failure' || todo.outcome === 'soft') expect(breaker.state).toBe('open')
        else expect(breaker.state).not.toBe('open')
      }
    }
    return { breaker, now }
  }

  test('a circuit opens exactly at the threshold, admits exactly what it may, and ignores what comes late', () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 60, size: 'max' }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (steps, chance) => {
          live(steps, () => chance)
        },
      ),
    )
  })

  test('a circuit always closes again once the server answers, and no permit is lost on the way', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
        const { breaker, now } = live(steps, () => 0.9)
        fc.pre(!breaker.status(now).forced)
        // Longer than it may stay open or wait for callers who never came back.
        let later = now + 2 * small.recoveryMaxMs
        for (let i = 0; i < small.halfOpenMaxCalls; i++) {
          const permit = breaker.admit(later++)
          expect(permit).not.toBe(refused)
          breaker.settle(permit, 'success', later)
        }
        expect(breaker.state).toBe('closed')
      }),
    )
  })
})
