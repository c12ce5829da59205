import { describe, expect, test } from 'vitest'
import { Breaker, refused } from '../../src/core/breaker.ts'
import type { BreakerStatus, Outcome, Permit, Transition } from '../../src/core/breaker.ts'
import type { BreakerSettings } from '../../src/core/breaker-rules.ts'
import { openMs, rampShare } from '../../src/core/breaker-rules.ts'

const settings: BreakerSettings = {
  failureThreshold: 5,
  errorRate: 0.5,
  windowMs: 10_000,
  minimumCalls: 20,
  slowCallMs: 0,
  slowCallRate: 0.8,
  recoveryMinMs: 1000,
  recoveryMaxMs: 60_000,
  halfOpenMaxCalls: 3,
  metricsOnly: false,
}
const outcomes: readonly Outcome[] = ['success', 'failure', 'lost', 'soft', 'slow', 'ignore']
// The middle of ±20 %: exactly the plain time.
const middle = (): number => 0.5

const breakerWith = (changed: Partial<BreakerSettings> = {}): Breaker => new Breaker({ ...settings, ...changed })

/** So many calls that are admitted, and come to this. */
function calls(breaker: Breaker, times: number, outcome: Outcome, now = 0, cause?: unknown, tookMs = 0): void {
  for (let i = 0; i < times; i++) breaker.settle(breaker.admit(now), outcome, now, middle, cause, tookMs)
}

/** Opened at 0, until 1000. */
function opened(changed: Partial<BreakerSettings> = {}): Breaker {
  const breaker = breakerWith(changed)
  calls(breaker, settings.failureThreshold, 'failure')
  return breaker
}

/** Half open since 1000, with one trial call under way. */
function halfOpen(changed: Partial<BreakerSettings> = {}): { breaker: Breaker; trial: Permit } {
  const breaker = opened(changed)
  return { breaker, trial: breaker.admit(1000) }
}

/** Closed by its trial calls at 1000, recovering until 6000. */
function recovering(changed: Partial<BreakerSettings> = {}): Breaker {
  const breaker = opened(changed)
  calls(breaker, settings.halfOpenMaxCalls, 'success', 1000)
  return breaker
}

describe('what a call comes to, state by state', () => {
  type Told = Partial<BreakerStatus>
  interface Start {
    /** A circuit and the permit that is settled `at`. */
    readonly begin: () => { breaker: Breaker; permit: Permit }
    readonly at: number
    readonly becomes: Readonly<Record<Outcome, Told>>
  }
  const every = (told: Told): Record<Outcome, Told> =>
    Object.fromEntries(outcomes.map((outcome) => [outcome, told])) as Record<Outcome, Told>

  const starts: Record<string, Start> = {
    'closed, four failures in a row': {
      begin: () => {
        const breaker = breakerWith()
        calls(breaker, 4, 'failure')
        return { breaker, permit: breaker.admit(1) }
      },
      at: 1,
      becomes: {
        success: { state: 'closed', consecutive_failures: 0, error_rate: 4 / 5, slow_rate: 0 },
        failure: { state: 'open', consecutive_failures: 5, error_rate: 1, retry_after_ms: 1000 },
        lost: { state: 'open', consecutive_failures: 5, error_rate: 1, retry_after_ms: 1000 },
        soft: { state: 'open', consecutive_failures: 5, error_rate: 1, retry_after_ms: 1000 },
        slow: { state: 'closed', consecutive_failures: 4, error_rate: 4 / 5, slow_rate: 1 / 5 },
        ignore: { state: 'closed', consecutive_failures: 4, error_rate: 1, slow_rate: 0 },
      },
    },
    'closed, a connection was lost 999 ms ago': {
      begin: () => {
        const breaker = breakerWith()
        calls(breaker, 1, 'lost')
        return { breaker, permit: breaker.admit(999) }
      },
      at: 999,
      becomes: {
        success: { state: 'closed', consecutive_failures: 0, error_rate: 1 / 2 },
        failure: { state: 'closed', consecutive_failures: 2, error_rate: 1 },
        lost: { state: 'closed', consecutive_failures: 1, error_rate: 1 },
        soft: { state: 'closed', consecutive_failures: 1, error_rate: 1 },
        slow: { state: 'closed', consecutive_failures: 1, error_rate: 1 / 2, slow_rate: 1 / 2 },
        ignore: { state: 'closed', consecutive_failures: 1, error_rate: 1 },
      },
    },
    'closed, a connection was lost 1000 ms ago': {
      begin: () => {
        const breaker = breakerWith()
        calls(breaker, 1, 'lost')
        return { breaker, permit: breaker.admit(1000) }
      },
      at: 1000,
      becomes: {
        ...every({ state: 'closed', consecutive_failures: 2 }),
        success: { state: 'closed', consecutive_failures: 0 },
        slow: { state: 'closed', consecutive_failures: 1 },
        ignore: { state: 'closed', consecutive_failures: 1 },
      },
    },
    'open, and the call was admitted before': {
      begin: () => {
        const breaker = breakerWith()
        const permit = breaker.admit(0)
        calls(breaker, 5, 'failure')
        return { breaker, permit }
      },
      at: 10,
      becomes: every({ state: 'open', consecutive_failures: 5, retry_after_ms: 990, transitions: expect.any(Array) }),
    },
    'open, and it is a probe': {
      begin: () => {
        const breaker = opened()
        return { breaker, permit: breaker.admitProbe(250) }
      },
      at: 300,
      becomes: {
        ...every({ state: 'open', consecutive_failures: 5, retry_after_ms: 700 }),
        success: { state: 'half-open', consecutive_failures: 5, retry_after_ms: null },
        ignore: { state: 'half-open', consecutive_failures: 5, retry_after_ms: null },
      },
    },
    'half open, and it is the first trial call': {
      begin: () => {
        const { breaker, trial } = halfOpen()
        return { breaker, permit: trial }
      },
      at: 1000,
      becomes: {
        ...every({ state: 'open', consecutive_failures: 6, retry_after_ms: 2000 }),
        soft: { state: 'open', consecutive_failures: 6, retry_after_ms: 1000 },
        success: { state: 'half-open', consecutive_failures: 5, retry_after_ms: null },
        ignore: { state: 'half-open', consecutive_failures: 5, retry_after_ms: null },
      },
    },
    'half open, and it is the last trial call': {
      begin: () => {
        const { breaker, trial } = halfOpen()
        breaker.settle(trial, 'success', 1000, middle)
        calls(breaker, 1, 'ignore', 1000)
        return { breaker, permit: breaker.admit(1000) }
      },
      at: 1000,
      becomes: {
        ...every({ state: 'open', consecutive_failures: 6, retry_after_ms: 2000 }),
        soft: { state: 'open', consecutive_failures: 6, retry_after_ms: 1000 },
        success: { state: 'closed', consecutive_failures: 0, error_rate: 0, admitting: 0.1 },
        ignore: { state: 'closed', consecutive_failures: 0, error_rate: 0, admitting: 0.1 },
      },
    },
    'half open, and the call was admitted when it was closed': {
      begin: () => {
        const breaker = breakerWith()
        const permit = breaker.admit(0)
        calls(breaker, 5, 'failure')
        breaker.admit(1000)
        return { breaker, permit }
      },
      at: 1000,
      becomes: every({ state: 'half-open', consecutive_failures: 5 }),
    },
    'closed again, and the call is a trial that had been given up': {
      begin: () => {
        const { breaker, trial } = halfOpen({ halfOpenMaxCalls: 1 })
        calls(breaker, 1, 'success', 61_000)
        return { breaker, permit: trial }
      },
      at: 61_001,
      becomes: every({ state: 'closed', consecutive_failures: 0, error_rate: 0, slow_rate: 0 }),
    },
    'forced open': {
      begin: () => {
        const breaker = breakerWith()
        const permit = breaker.admit(0)
        breaker.forceOpen('by hand', 0)
        return { breaker, permit }
      },
      at: 0,
      becomes: every({ state: 'open', forced: true, consecutive_failures: 0, error_rate: 0, retry_after_ms: null }),
    },
    'without a breaker': {
      begin: () => {
        const breaker = new Breaker(null)
        calls(breaker, 100, 'failure')
        return { breaker, permit: breaker.admit(0) }
      },
      at: 0,
      becomes: every({ state: 'closed', consecutive_failures: 0, error_rate: 0 }),
    },
  }

  describe.each(Object.entries(starts))('%s', (_, { begin, at, becomes }) => {
    test.each(outcomes)('%s', (outcome) => {
      const { breaker, permit } = begin()
      breaker.settle(permit, outcome, at, middle)
      expect(breaker.status(at)).toMatchObject(becomes[outcome])
    })
  })
})

describe('failures in a row', () => {
  test('open it at the threshold, however few calls there were', () => {
    const breaker = breakerWith({ minimumCalls: 1000 })
    calls(breaker, 4, 'failure')
    expect(breaker.state).toBe('closed')
    calls(breaker, 1, 'failure')
    expect(breaker.status(0)).toMatchObject({ state: 'open', consecutive_failures: 5 })
  })

  test('are counted from zero after each success', () => {
    const breaker = breakerWith()
    calls(breaker, 4, 'failure')
    calls(breaker, 1, 'success')
    calls(breaker, 4, 'failure')
    expect(breaker.state).toBe('closed')
  })

  test('may lie a day apart', () => {
    const breaker = breakerWith()
    for (let day = 0; day < 5; day++) calls(breaker, 1, 'failure', day * 86_400_000)
    expect(breaker.state).toBe('open')
  })

  test('go on through what says nothing about the server, which is no call at all', () => {
    const breaker = breakerWith()
    calls(breaker, 4, 'failure')
    calls(breaker, 1000, 'ignore', 0, undefined, 1e9)
    expect(breaker.status(0)).toMatchObject({ state: 'closed', consecutive_failures: 4, error_rate: 1, slow_rate: 0 })
    calls(breaker, 1, 'failure')
    expect(breaker.state).toBe('open')
  })

  test('are one where many lose their connections at the same time', () => {
    const breaker = breakerWith()
    calls(breaker, 500, 'lost')
    calls(breaker, 500, 'soft', 999)
    expect(breaker.status(999)).toMatchObject({ state: 'closed', consecutive_failures: 1 })
  })

  test('are five when connections cannot be had for four seconds', () => {
    const breaker = breakerWith()
    for (let now = 0; now < 4000; now += 50) calls(breaker, 1, now % 100 === 0 ? 'lost' : 'soft', now)
    expect(breaker.status(3999)).toMatchObject({ state: 'closed', consecutive_failures: 4 })
    calls(breaker, 1, 'lost', 4000)
    expect(breaker.state).toBe('open')
  })

  test.each([
    [300, 300],
    [30_000, 1000],
  ])('are one within the shortest open time of %i ms, a second at most: %i ms', (recoveryMinMs, oneEventMs) => {
    const breaker = breakerWith({ recoveryMinMs })
    calls(breaker, 1, 'lost', 0)
    calls(breaker, 1, 'lost', oneEventMs - 1)
    expect(breaker.status(oneEventMs).consecutive_failures).toBe(1)
    calls(breaker, 1, 'lost', oneEventMs)
    expect(breaker.status(oneEventMs).consecutive_failures).toBe(2)
  })

  test('count from anew who has lost connections before it was closed by hand', () => {
    const breaker = breakerWith({ failureThreshold: 1 })
    calls(breaker, 1, 'lost')
    breaker.forceClose('mended', 1)
    calls(breaker, 1, 'lost', 2)
    expect(breaker.state).toBe('open')
  })
})

describe('the rate of failures', () => {
  /** Answers and failures by turns, so that there are never two in a row. */
  function everySecondFails(breaker: Breaker, times: number, now: number): void {
    for (let i = 0; i < times; i++) calls(breaker, 1, i % 2 === 0 ? 'success' : 'failure', now)
  }

  test('opens it when a server fails every other call', () => {
    const breaker = breakerWith()
    everySecondFails(breaker, 19, 0)
    expect(breaker.state).toBe('closed')
    everySecondFails(breaker, 2, 0)
    expect(breaker.status(0)).toMatchObject({ state: 'closed', error_rate: 10 / 21 })
    calls(breaker, 1, 'failure')
    expect(breaker.status(0)).toMatchObject({ state: 'open', error_rate: 11 / 22 })
    expect(breaker.status(0).transitions.at(-1)!.because).toBe('11 of 22 calls within 10 s failed')
  })

  test('says nothing below the minimum of calls', () => {
    const breaker = breakerWith({ minimumCalls: 100 })
    for (let i = 0; i < 33; i++) {
      calls(breaker, 2, 'failure')
      calls(breaker, 1, 'success')
    }
    expect(breaker.status(0)).toMatchObject({ state: 'closed', error_rate: 66 / 99 })
    calls(breaker, 1, 'failure')
    expect(breaker.state).toBe('open')
  })

  test('is not diluted by what is no call', () => {
    const breaker = breakerWith({ minimumCalls: 2 })
    calls(breaker, 1, 'success')
    calls(breaker, 1000, 'ignore')
    calls(breaker, 1, 'failure')
    expect(breaker.state).toBe('open')
  })

  test('looks back at the window and no further', () => {
    const breaker = breakerWith()
    everySecondFails(breaker, 19, 0)
    everySecondFails(breaker, 19, 10_000)
    expect(breaker.status(10_000)).toMatchObject({ state: 'closed', error_rate: 9 / 19 })
    expect(breaker.status(30_000)).toMatchObject({ state: 'closed', error_rate: 0 })
  })

  test('is forgotten when it closes', () => {
    const breaker = breakerWith({ failureThreshold: 1000, minimumCalls: 4 })
    calls(breaker, 4, 'failure')
    calls(breaker, 3, 'success', 1000)
    expect(breaker.status(1000)).toMatchObject({ state: 'closed', error_rate: 0 })
  })

  test('counts one loss of all connections once', () => {
    const breaker = breakerWith({ failureThreshold: 1000 })
    calls(breaker, 100, 'success')
    calls(breaker, 1000, 'lost')
    expect(breaker.status(0)).toMatchObject({ state: 'closed', error_rate: 1 / 101 })
  })
})

describe('the rate of slow calls', () => {
  test('opens it when nearly all run into their timeout', () => {
    const breaker = breakerWith()
    calls(breaker, 4, 'success')
    calls(breaker, 15, 'slow')
    expect(breaker.state).toBe('closed')
    calls(breaker, 1, 'slow')
    expect(breaker.status(0)).toMatchObject({ state: 'open', slow_rate: 16 / 20, error_rate: 0 })
    expect(breaker.status(0).transitions.at(-1)!.because).toBe('16 of 20 calls within 10 s were slow')
  })

  test('says nothing below the minimum of calls, and ten timeouts in a row are no failures in a row', () => {
    const breaker = breakerWith()
    calls(breaker, 19, 'slow')
    expect(breaker.status(0)).toMatchObject({ state: 'closed', consecutive_failures: 0, slow_rate: 1 })
  })

  test('knows by default none but those', () => {
    const breaker = breakerWith()
    calls(breaker, 100, 'success', 0, undefined, 3_600_000)
    expect(breaker.status(0)).toMatchObject({ state: 'closed', slow_rate: 0 })
  })

  test('counts answers as well that took as long as `slowCall` says', () => {
    const breaker = breakerWith({ slowCallMs: 500 })
    calls(breaker, 4, 'success', 0, undefined, 499)
    calls(breaker, 15, 'success', 0, undefined, 500)
    expect(breaker.status(0)).toMatchObject({ state: 'closed', consecutive_failures: 0, slow_rate: 15 / 19 })
    calls(breaker, 1, 'success', 0, undefined, 9999)
    expect(breaker.status(0)).toMatchObject({ state: 'open', slow_rate: 16 / 20, error_rate: 0 })
  })

  test('counts a failure that took as long twice: as failed and as slow', () => {
    const breaker = breakerWith({ slowCallMs: 500 })
    calls(breaker, 1, 'failure', 0, undefined, 500)
    expect(breaker.status(0)).toMatchObject({ consecutive_failures: 1, error_rate: 1, slow_rate: 1 })
  })

  test('an answer that took long is an answer: it ends a row of failures', () => {
    const breaker = breakerWith({ slowCallMs: 500 })
    calls(breaker, 4, 'failure')
    calls(breaker, 1, 'success', 0, undefined, 500)
    calls(breaker, 4, 'failure')
    expect(breaker.state).toBe('closed')
  })

  test('a trial call that was answered late was answered', () => {
    const { breaker, trial } = halfOpen({ slowCallMs: 500, halfOpenMaxCalls: 1 })
    breaker.settle(trial, 'success', 2000, middle, undefined, 1000)
    expect(breaker.state).toBe('closed')
  })
})

describe('an open circuit', () => {
  test('refuses everything until its time is over', () => {
    const breaker = opened()
    expect(breaker.admit(999)).toBe(refused)
    expect(breaker.admits(999)).toBe(false)
    expect(breaker.admits(1000)).toBe(true)
    expect(breaker.state).toBe('open')
    expect(breaker.admit(1000)).not.toBe(refused)
    expect(breaker.state).toBe('half-open')
  })

  test('keeps nothing of ten thousand refused calls but their number', () => {
    const breaker = opened()
    const before = { ...breaker.status(500), rejections: 10_000 }
    for (let i = 0; i < 10_000; i++) expect(breaker.admit(500)).toBe(refused)
    expect(breaker.status(500)).toEqual(before)
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

  test('doubles from the shortest time again once the server has said that it is starting', () => {
    const breaker = opened()
    const waits: number[] = []
    let now = 0
    for (const outcome of ['failure', 'failure', 'soft', 'failure', 'failure'] as const) {
      now += breaker.status(now).retry_after_ms!
      breaker.settle(breaker.admit(now), outcome, now, middle)
      waits.push(breaker.status(now).retry_after_ms!)
    }
    expect(waits).toEqual([2000, 4000, 1000, 2000, 4000])
  })

  test('stays open for its time ±20 %, so that processes do not come back together', () => {
    expect(openMs(1, settings, 0)).toBeCloseTo(800)
    expect(openMs(1, settings, 1)).toBeCloseTo(1200)
    expect(openMs(3, settings, 0.5)).toBe(4000)
    expect(openMs(40, settings, 0.5)).toBe(60_000)
    expect(openMs(5000, settings, 0.5)).toBe(60_000)
  })

  test('tells a refused caller since when, for how long and why', () => {
    const breaker = new Breaker(settings, { wallOffsetMs: 1_700_000_000_000 })
    const cause = Object.assign(new Error('connect ECONNREFUSED 10.0.0.1:5432'), { code: 'ECONNREFUSED' })
    calls(breaker, 5, 'failure', 100, cause)
    expect(breaker.refusal(400)).toEqual({
      since: 1_700_000_000_100,
      retryAfterMs: 700,
      because: '5 failures in a row, the last ECONNREFUSED',
      cause,
    })
  })

  test('says that the server is starting when that was its last word', () => {
    const breaker = breakerWith()
    calls(breaker, 4, 'failure')
    calls(breaker, 1, 'soft', 0, Object.assign(new Error('starting up'), { code: '57P03' }))
    expect(breaker.refusal(0).because).toBe('the server is starting or stopping, 5 failures in a row, the last 57P03')
  })
})

describe('a probe', () => {
  test('may be made every quarter of the open time, one at a time', () => {
    const breaker = opened()
    expect(breaker.admitProbe(249)).toBe(refused)
    const first = breaker.admitProbe(250)
    expect(first).not.toBe(refused)
    expect(breaker.admitProbe(600)).toBe(refused)
    breaker.settle(first, 'lost', 700, middle)
    expect(breaker.admitProbe(700)).not.toBe(refused)
  })

  test('that fails at once is not followed by another before its time', () => {
    const breaker = opened()
    breaker.settle(breaker.admitProbe(250), 'lost', 250, middle)
    for (let i = 0; i < 10_000; i++) expect(breaker.admitProbe(499)).toBe(refused)
    expect(breaker.admitProbe(500)).not.toBe(refused)
  })

  test.each([
    [1000, 250],
    [2000, 500],
    [60_000, 15_000],
    [400, 250],
  ])('comes after %i ms of open time not before %i ms', (openForMs, probedAfterMs) => {
    const breaker = opened({ recoveryMinMs: openForMs, recoveryMaxMs: openForMs })
    expect(breaker.admitProbe(probedAfterMs - 1)).toBe(refused)
    expect(breaker.admitProbe(probedAfterMs)).not.toBe(refused)
  })

  test('is not needed where the circuit is open for less', () => {
    const breaker = opened({ recoveryMinMs: 200, recoveryMaxMs: 200 })
    for (const now of [0, 100, 199, 200, 250, 1_000]) expect(breaker.admitProbe(now)).toBe(refused)
    expect(breaker.admit(1_000)).not.toBe(refused)
  })

  test('is no rejection and no call: it leaves the counters as they are', () => {
    const breaker = opened()
    const before = breaker.status(250)
    breaker.admitProbe(100)
    breaker.settle(breaker.admitProbe(250), 'failure', 250, middle)
    expect(breaker.status(250)).toEqual(before)
  })

  test('that fails leaves the open time as it is, and those who are refused later its cause', () => {
    const breaker = opened()
    const cause = new Error('still refused')
    breaker.settle(breaker.admitProbe(250), 'lost', 260, middle, cause)
    expect(breaker.refusal(260)).toMatchObject({ retryAfterMs: 740, cause })
    breaker.settle(breaker.admit(1000), 'failure', 1000, middle)
    expect(breaker.status(1000).retry_after_ms).toBe(2000)
  })

  test('that was answered counts as the first trial call', () => {
    const breaker = opened()
    breaker.settle(breaker.admitProbe(250), 'success', 260, middle)
    expect(breaker.state).toBe('half-open')
    calls(breaker, 1, 'success', 260)
    expect(breaker.state).toBe('half-open')
    calls(breaker, 1, 'success', 260)
    expect(breaker.state).toBe('closed')
  })

  test('that was answered closes it where one trial call is enough', () => {
    const breaker = opened({ halfOpenMaxCalls: 1 })
    breaker.settle(breaker.admitProbe(250), 'success', 260, middle)
    expect(breaker.status(260)).toMatchObject({ state: 'closed', admitting: 0.1 })
    expect(breaker.status(260).transitions.map(({ to }) => to)).toEqual(['open', 'half-open', 'closed'])
  })

  test('that comes back when the trials have begun without it changes nothing', () => {
    const breaker = opened()
    const late = breaker.admitProbe(250)
    breaker.admit(1000)
    breaker.settle(late, 'lost', 1001, middle)
    breaker.settle(late, 'success', 1001, middle)
    expect(breaker.state).toBe('half-open')
    calls(breaker, 2, 'success', 1001)
    expect(breaker.state).toBe('half-open')
  })

  test('that was never made leaves room for another', () => {
    const breaker = opened()
    breaker.giveBack(breaker.admitProbe(250))
    expect(breaker.admitProbe(500)).not.toBe(refused)
  })

  test('that nobody ever settles does not keep the trials away', () => {
    const breaker = opened()
    breaker.admitProbe(250)
    calls(breaker, 3, 'success', 1000)
    expect(breaker.state).toBe('closed')
  })

  test.each([
    ['closed', () => breakerWith()],
    ['recovering', () => recovering()],
    ['half open', () => halfOpen().breaker],
    ['forced open', () => forced()],
    ['without a breaker', () => new Breaker(null)],
  ])('is not to be had from a circuit that is %s', (_, begin) => {
    expect(begin().admitProbe(1e9)).toBe(refused)
  })

  function forced(): Breaker {
    const breaker = opened()
    breaker.forceOpen('by hand', 1)
    return breaker
  }
})

describe('a half-open circuit', () => {
  test('lets as many trial calls through as it may and refuses the rest at once', () => {
    const { breaker } = halfOpen()
    expect(breaker.admit(1000)).not.toBe(refused)
    expect(breaker.admit(1000)).not.toBe(refused)
    expect(breaker.admits(1000)).toBe(false)
    expect(breaker.admit(1000)).toBe(refused)
  })

  test('gives no place of a trial call that was answered to another', () => {
    const { breaker, trial } = halfOpen()
    breaker.settle(trial, 'success', 1000, middle)
    expect([1, 2, 3].map(() => breaker.admit(1000) === refused)).toEqual([false, false, true])
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

  test.each(['failure', 'lost', 'soft', 'slow'] as const)(
    'opens again at the first %s, and the other trial calls change nothing any more',
    (outcome) => {
      const { breaker, trial } = halfOpen()
      const other = breaker.admit(1000)
      breaker.settle(trial, outcome, 1001, middle)
      const before = breaker.status(1002)
      breaker.settle(other, 'success', 1002, middle)
      expect(before.state).toBe('open')
      expect(breaker.status(1002)).toEqual(before)
    },
  )

  test('opens again although a connection was lost a moment ago', () => {
    const breaker = breakerWith({ failureThreshold: 1 })
    calls(breaker, 1, 'lost', 0)
    calls(breaker, 1, 'lost', 1000)
    calls(breaker, 1, 'lost', 3000)
    expect(breaker.status(3000).retry_after_ms).toBe(4000)
  })

  test('closes on three calls that say nothing of the server, else they would be an outage for ever', () => {
    const { breaker, trial } = halfOpen()
    const others = [breaker.admit(1000), breaker.admit(1000)]
    for (const permit of [trial, ...others]) breaker.settle(permit, 'ignore', 1001, middle)
    expect(breaker.state).toBe('closed')
  })

  test('gives the place of a call that never reached the server to another', () => {
    const { breaker, trial } = halfOpen()
    breaker.giveBack(trial)
    const permits = [1, 2, 3].map(() => breaker.admit(1001))
    expect(breaker.admit(1001)).toBe(refused)
    for (const permit of permits) breaker.settle(permit, 'success', 1001, middle)
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

  test('tries no more at once than it may when those come back who had been given up', () => {
    const { breaker, trial } = halfOpen()
    const forgotten = [trial, breaker.admit(1000), breaker.admit(1000)]
    const renewed = [1, 2, 3].map(() => breaker.admit(61_000))
    for (const permit of [...forgotten, ...renewed]) breaker.giveBack(permit)
    expect([1, 2, 3, 4].map(() => breaker.admit(61_001) === refused)).toEqual([false, false, false, true])
  })

  test('closes with one answer, and admits all at once, where that was asked for', () => {
    const breaker = new Breaker(settings, { closesAtOnce: true })
    calls(breaker, 5, 'failure')
    const trials = [1, 2, 3].map(() => breaker.admit(1000))
    expect(breaker.admit(1000)).toBe(refused)
    breaker.settle(trials[0]!, 'success', 1001, middle)
    expect(breaker.status(1001)).toMatchObject({ state: 'closed', admitting: 1 })
    for (let i = 0; i < 100; i++) expect(breaker.admit(1001)).not.toBe(refused)
    breaker.settle(trials[1]!, 'failure', 1002, middle)
    expect(breaker.status(1002)).toMatchObject({ state: 'closed', consecutive_failures: 0 })
  })

  test('gives no more places to others than are left, whoever comes back late', () => {
    const { breaker, trial } = halfOpen()
    const forgotten = [breaker.admit(1000), breaker.admit(1000)]
    breaker.settle(trial, 'success', 1000, middle)
    const renewed = [1, 2].map(() => breaker.admit(61_000))
    expect(breaker.admit(61_000)).toBe(refused)
    for (const permit of [...forgotten, ...renewed]) breaker.giveBack(permit)
    expect([1, 2, 3].map(() => breaker.admit(61_001) === refused)).toEqual([false, false, true])
  })

  test('forgives who gives a place back twice', () => {
    const { breaker, trial } = halfOpen()
    breaker.giveBack(trial)
    breaker.giveBack(trial)
    calls(breaker, 3, 'success', 1001)
    expect(breaker.state).toBe('closed')
  })

  test('is not closed by settling what was not admitted', () => {
    const { breaker, trial } = halfOpen()
    for (let i = 0; i < 10; i++) breaker.settle(trial, 'success', 1000, middle)
    breaker.settle(refused, 'success', 1000, middle)
    expect(breaker.state).toBe('half-open')
  })
})

describe('a circuit that recovers', () => {
  /** How many of the calls get through that come `perMs` in each millisecond from `from` on. */
  function through(breaker: Breaker, from: number, to: number, perMs: number): number {
    let admitted = 0
    for (let now = from; now < to; now++) {
      for (let i = 0; i < perMs; i++) if (breaker.admit(now) !== refused) admitted++
    }
    return admitted
  }

  test('admits a tenth of the calls at first, then more and more, and all of them after five seconds', () => {
    const breaker = recovering()
    const shares = [0, 1, 2, 3, 4].map((second) => through(breaker, 1000 + second * 1000, 2000 + second * 1000, 100))
    // Of 100,000 each; three in 100 ms may go in any case.
    const expected = [0.19, 0.37, 0.55, 0.73, 0.91].map((share) => share * 100_000 + 30)
    shares.forEach((admitted, second) => expect(Math.abs(admitted - expected[second]!)).toBeLessThan(200))
    expect(through(breaker, 6000, 6010, 100)).toBe(1000)
  })

  test('admits them evenly: at a tenth every tenth', () => {
    const breaker = recovering()
    const turns = Array.from({ length: 1000 }, (_, i) => (breaker.admit(1000) === refused ? [] : [i])).flat()
    const gaps = turns.slice(1).map((turn, i) => turn - turns[i]!)
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(9)
    expect(Math.max(...gaps)).toBeLessThanOrEqual(11)
  })

  test('is none for little traffic: as many calls as trials are admitted in every 100 ms', () => {
    const breaker = recovering()
    for (let now = 1100; now < 6000; now += 100) {
      for (let i = 0; i < 3; i++) expect(breaker.admit(now)).not.toBe(refused)
    }
    const slower = recovering()
    for (let now = 1000; now < 6000; now += 34) expect(slower.admit(now)).not.toBe(refused)
  })

  test('does not save up for a burst what nobody has asked for', () => {
    const breaker = recovering()
    let admitted = 0
    for (let i = 0; i < 10; i++) if (breaker.admit(1900) !== refused) admitted++
    expect(admitted).toBeLessThanOrEqual(3 + 3)
  })

  test('says so: the share grows from a tenth to one', () => {
    const breaker = recovering()
    const seen = [1000, 2250, 3500, 5999, 6000, 1e9].map((now) => breaker.status(now).admitting)
    expect(seen.map((share) => Math.round(share * 100))).toEqual([10, 33, 55, 100, 100, 100])
    expect(rampShare(4999)).toBeLessThan(1)
    expect(rampShare(5000)).toBe(1)
  })

  test('counts whom it turns away', () => {
    const breaker = recovering()
    const admitted = through(breaker, 1000, 1001, 100)
    expect(breaker.status(1001).rejections).toBe(100 - admitted)
  })

  test('opens for twice as long when it breaks again meanwhile: it was not mended', () => {
    const breaker = recovering({ failureThreshold: 5 })
    for (let i = 0; i < 5; i++) breaker.settle(breaker.current, 'failure', 5999, middle)
    expect(breaker.status(5999)).toMatchObject({ state: 'open', retry_after_ms: 2000 })
    calls(breaker, 3, 'success', 7999)
    for (let i = 0; i < 5; i++) breaker.settle(breaker.current, 'failure', 8000, middle)
    expect(breaker.status(8000)).toMatchObject({ state: 'open', retry_after_ms: 4000 })
  })

  test('opens for the shortest time again once it has recovered, whether or not anybody asked meanwhile', () => {
    for (const asked of [true, false]) {
      const breaker = recovering()
      if (asked) breaker.admit(6000)
      for (let i = 0; i < 5; i++) breaker.settle(breaker.current, 'failure', 6000, middle)
      expect(breaker.status(6000)).toMatchObject({ state: 'open', retry_after_ms: 1000 })
    }
  })

  test('learns from an empty window and from a first failure', () => {
    const breaker = recovering()
    for (let i = 0; i < 4; i++) breaker.settle(breaker.current, 'failure', 1000, middle)
    expect(breaker.status(1000)).toMatchObject({ state: 'closed', consecutive_failures: 4, error_rate: 1 })
  })
})

describe('by hand', () => {
  test('a circuit that is forced open stays open until it is forced closed', () => {
    const breaker = breakerWith()
    breaker.forceOpen('maintenance', 0)
    expect(breaker.admit(1e12)).toBe(refused)
    expect(breaker.admits(1e12)).toBe(false)
    expect(breaker.status(1e12)).toMatchObject({ state: 'open', forced: true, admitting: 0, retry_after_ms: null })
    expect(breaker.refusal(0)).toMatchObject({ retryAfterMs: null, because: 'forced open: maintenance' })
    breaker.forceClose('done', 1e12)
    expect(breaker.admit(1e12)).not.toBe(refused)
    expect(breaker.status(1e12)).toMatchObject({ state: 'closed', forced: false })
  })

  test('a circuit that is forced closed admits everything at once, and counts from zero', () => {
    const breaker = opened()
    breaker.forceClose('I know better', 1)
    expect(breaker.status(1)).toMatchObject({ consecutive_failures: 0, error_rate: 0, admitting: 1 })
    for (let i = 0; i < 1000; i++) expect(breaker.admit(1)).not.toBe(refused)
    calls(breaker, 4, 'failure', 1)
    expect(breaker.state).toBe('closed')
    calls(breaker, 1, 'failure', 1)
    expect(breaker.status(1).retry_after_ms).toBe(1000)
  })

  test('a circuit that is forced closed forgets how often it had opened', () => {
    const { breaker, trial } = halfOpen()
    breaker.settle(trial, 'failure', 1000, middle)
    breaker.forceClose('mended', 1001)
    calls(breaker, 5, 'failure', 1002)
    expect(breaker.status(1002).retry_after_ms).toBe(1000)
  })

  test('a circuit can be forced open and isolated even where there is no breaker', () => {
    const breaker = new Breaker(null)
    breaker.forceOpen('drill', 0)
    expect(breaker.admit(0)).toBe(refused)
    breaker.forceClose('over', 0)
    const end = breaker.isolate('drill', 0)
    expect(breaker.admit(0)).toBe(refused)
    end(1)
    expect(breaker.admit(1)).not.toBe(refused)
  })

  test('an isolated circuit is closed when the last isolation has ended, in whatever order', () => {
    const breaker = breakerWith()
    const ends = [breaker.isolate('a', 0), breaker.isolate('b', 1), breaker.isolate('c', 2)]
    expect(breaker.status(2)).toMatchObject({ state: 'open', forced: true, retry_after_ms: null })
    expect(breaker.refusal(2)).toMatchObject({ retryAfterMs: null, because: 'isolated: a' })
    ends[1]!(3)
    ends[0]!(4)
    expect(breaker.admit(1e12)).toBe(refused)
    ends[2]!(5)
    expect(breaker.status(5)).toMatchObject({ state: 'closed', forced: false, admitting: 1 })
    expect(breaker.status(5).transitions.map(({ to }) => to)).toEqual(['open', 'closed'])
  })

  test.each(['open', 'half-open'] as const)(
    'a server that was not there when it was isolated has to show first that it is back (%s)',
    (state) => {
      const breaker = state === 'open' ? opened() : halfOpen().breaker
      breaker.isolate('maintenance', 1000)(2000)
      expect(breaker.status(2000)).toMatchObject({ state: 'open', forced: false, retry_after_ms: 0 })
      expect(breaker.status(2000).consecutive_failures).toBe(5)
      const trial = breaker.admit(2000)
      expect(breaker.state).toBe('half-open')
      breaker.settle(trial, 'failure', 2000, middle)
      // As before: twice as long.
      expect(breaker.status(2000)).toMatchObject({ state: 'open', retry_after_ms: 2000 })
    },
  )

  test('forceClose closes what was not there when it was isolated', () => {
    const breaker = opened()
    const end = breaker.isolate('maintenance', 1)
    breaker.forceClose('it is back', 2)
    end(3)
    expect(breaker.status(3)).toMatchObject({ state: 'closed', consecutive_failures: 0 })
  })

  test('an isolation ends once: a second time it does nothing to another', () => {
    const breaker = breakerWith()
    const first = breaker.isolate('a', 0)
    const second = breaker.isolate('b', 0)
    first(1)
    first(2)
    expect(breaker.admit(3)).toBe(refused)
    second(4)
    expect(breaker.admit(5)).not.toBe(refused)
    second(6)
    expect(breaker.status(6).transitions).toHaveLength(2)
  })

  test('what is forced open outlives every isolation, whichever came first', () => {
    const before = breakerWith()
    before.forceOpen('by hand', 0)
    before.isolate('meanwhile', 1)(2)
    expect(before.status(3)).toMatchObject({ state: 'open', forced: true })
    const after = breakerWith()
    const end = after.isolate('first', 0)
    after.forceOpen('by hand', 1)
    end(2)
    after.isolate('again', 3)(4)
    expect(after.status(5)).toMatchObject({ state: 'open', forced: true })
    expect(after.refusal(5).because).toBe('forced open: by hand')
  })

  test('forceClose ends every isolation, and their ends do nothing any more', () => {
    const breaker = breakerWith()
    const ends = [breaker.isolate('a', 0), breaker.isolate('b', 0)]
    breaker.forceClose('over', 1)
    expect(breaker.admit(2)).not.toBe(refused)
    const another = breaker.isolate('c', 3)
    for (const end of ends) end(4)
    expect(breaker.admit(5)).toBe(refused)
    another(6)
    expect(breaker.state).toBe('closed')
  })

  test('forceClose ends isolations that nobody ends otherwise', () => {
    const breaker = breakerWith()
    breaker.isolate('a', 0)
    breaker.forceClose('over', 1)
    breaker.isolate('b', 2)(3)
    expect(breaker.state).toBe('closed')
  })

  test('what was under way when it was isolated is not heard afterwards', () => {
    const breaker = breakerWith({ failureThreshold: 1 })
    const late = breaker.admit(0)
    breaker.isolate('x', 1)(2)
    breaker.settle(late, 'failure', 3, middle)
    expect(breaker.status(3)).toMatchObject({ state: 'closed', consecutive_failures: 0 })
  })

  test.each(['half-open', 'closed'] as const)(
    'who forces it open the moment he hears that it is %s is obeyed',
    (heard) => {
      const breaker = new Breaker(
        { ...settings, halfOpenMaxCalls: 1 },
        {
          onTransition: ({ to }) => to === heard && breaker.forceOpen('not yet', 1000),
        },
      )
      calls(breaker, 5, 'failure')
      const permit = breaker.admit(1000)
      if (heard === 'half-open') expect(permit).toBe(refused)
      breaker.settle(permit, 'success', 1000, middle)
      expect(breaker.status(1000)).toMatchObject({ state: 'open', forced: true })
    },
  )

  test('who forces it open the moment a probe was answered is obeyed', () => {
    const breaker = new Breaker(
      { ...settings, halfOpenMaxCalls: 1 },
      {
        onTransition: ({ to }) => to === 'half-open' && breaker.forceOpen('not yet', 300),
      },
    )
    calls(breaker, 5, 'failure')
    breaker.settle(breaker.admitProbe(250), 'success', 300, middle)
    expect(breaker.status(300)).toMatchObject({ state: 'open', forced: true })
  })
})

describe('for metrics only', () => {
  test('its state changes as ever and nobody is refused', () => {
    const breaker = breakerWith({ metricsOnly: true })
    calls(breaker, 5, 'failure')
    expect(breaker.state).toBe('open')
    for (let i = 0; i < 1000; i++) {
      expect(breaker.admits(500)).toBe(true)
      expect(breaker.admit(500)).not.toBe(refused)
    }
    expect(breaker.status(500)).toMatchObject({ state: 'open', retry_after_ms: 500 })
  })

  test('it counts those whom it would have refused', () => {
    const breaker = opened({ metricsOnly: true })
    for (let i = 0; i < 7; i++) breaker.admit(500)
    expect(breaker.status(500).rejections).toBe(7)
  })

  test('it hears its trial calls and no others, and closes by itself', () => {
    const breaker = opened({ metricsOnly: true })
    const permits = Array.from({ length: 10 }, () => breaker.admit(1000))
    expect(permits).not.toContain(refused)
    // Of ten the first three are trials.
    for (const permit of permits.slice(3)) breaker.settle(permit, 'success', 1000, middle)
    for (const permit of permits.slice(3)) breaker.giveBack(permit)
    expect(breaker.state).toBe('half-open')
    for (const permit of permits.slice(0, 3)) breaker.settle(permit, 'success', 1000, middle)
    expect(breaker.state).toBe('closed')
  })

  test('what was let through while it is open does not open it for longer, nor close it', () => {
    const breaker = opened({ metricsOnly: true })
    const permit = breaker.admit(500)
    breaker.admit(1000)
    for (const outcome of outcomes) breaker.settle(permit, outcome, 1000, middle)
    expect(breaker.state).toBe('half-open')
  })

  test('it refuses by hand all the same', () => {
    const breaker = breakerWith({ metricsOnly: true })
    const end = breaker.isolate('drill', 0)
    expect(breaker.admits(0)).toBe(false)
    expect(breaker.admit(0)).toBe(refused)
    end(1)
    expect(breaker.admit(1)).not.toBe(refused)
    breaker.forceOpen('drill', 2)
    expect(breaker.admit(2)).toBe(refused)
  })

  test('it admits everybody while it recovers', () => {
    const breaker = recovering({ metricsOnly: true })
    for (let i = 0; i < 100; i++) expect(breaker.admit(1000)).not.toBe(refused)
    expect(breaker.status(1000).admitting).toBe(0.1)
  })
})

describe('what is told', () => {
  test('each change of state with its reason, of which the last five are kept', () => {
    const heard: Transition[] = []
    const breaker = new Breaker(settings, { onTransition: (transition) => heard.push(transition), wallOffsetMs: 5000 })
    calls(breaker, 5, 'failure', 10)
    calls(breaker, 1, 'failure', 2000)
    breaker.forceClose('a', 3000)
    breaker.forceOpen('b', 4000)
    breaker.forceClose('c', 5000)
    expect(heard.map(({ from, to, at, because }) => [from, to, at, because])).toEqual([
      ['closed', 'open', 5010, '5 failures in a row'],
      ['open', 'half-open', 7000, 'its time is over'],
      ['half-open', 'open', 7000, 'a trial call failed'],
      ['open', 'closed', 8000, 'forced closed: a'],
      ['closed', 'open', 9000, 'forced open: b'],
      ['open', 'closed', 10_000, 'forced closed: c'],
    ])
    expect(breaker.status(5000).transitions).toEqual(heard.slice(-5))
    expect(breaker.status(5000).since).toBe(10_000)
  })

  test('how it came back', () => {
    const breaker = recovering()
    const because = (): string => breaker.status(1000).transitions.at(-1)!.because
    expect(because()).toBe('3 trial calls were answered')
    const probed = opened()
    probed.settle(probed.admitProbe(250), 'success', 250, middle)
    expect(probed.status(250).transitions.at(-1)!.because).toBe('a probe was answered')
  })

  test('a refused caller what keeps him out, in every state that may', () => {
    const trials = halfOpen().breaker
    expect(trials.refusal(1000).because).toContain('trial calls')
    const ramp = recovering()
    expect(ramp.refusal(1000).because).toContain('share of the calls')
    for (const breaker of [trials, ramp]) expect(breaker.refusal(1000).retryAfterMs).toBe(100)
  })

  test('a cause for as long as it lasts, and none of an outage that is over', () => {
    const breaker = breakerWith()
    const cause = new Error('disk full')
    calls(breaker, 5, 'failure', 0, cause)
    expect(breaker.refusal(0).cause).toBe(cause)
    calls(breaker, 1, 'success', 1000)
    expect(breaker.refusal(1000).cause).toBe(cause)
    calls(breaker, 2, 'success', 1000)
    expect(breaker.refusal(1000).cause).toBeUndefined()
    breaker.forceOpen('drill', 1000)
    expect(breaker.refusal(1000).cause).toBeUndefined()
  })

  test('everything under its name', () => {
    expect(Object.keys(breakerWith().status(0)).toSorted()).toEqual(
      [
        'state',
        'forced',
        'since',
        'consecutive_failures',
        'error_rate',
        'slow_rate',
        'admitting',
        'retry_after_ms',
        'rejections',
        'transitions',
      ].toSorted(),
    )
  })

  test('no message of the server, which may hold values', () => {
    const breaker = breakerWith()
    calls(breaker, 5, 'failure', 0, Object.assign(new Error('canary'), { code: '58030' }))
    expect(JSON.stringify(breaker)).not.toContain('canary')
    expect(JSON.stringify(breaker)).toContain('58030')
  })
})
