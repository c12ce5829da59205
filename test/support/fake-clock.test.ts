import { expect, test } from 'vitest'
import { pause } from '../../src/engine/clock.ts'
import { FakeClock } from './fake-clock.ts'

test('timers run when their time has come, in the order in which they are due', async () => {
  const clock = new FakeClock()
  const ran: string[] = []
  clock.setTimeout(() => ran.push('second'), 20)
  clock.setTimeout(() => ran.push('first'), 10)
  clock.setTimeout(() => ran.push('also second'), 20)
  await clock.advance(19)
  expect(ran).toEqual(['first'])
  await clock.advance(1)
  expect(ran).toEqual(['first', 'second', 'also second'])
  expect(clock.pendingTimers).toBe(0)
})

test('a timer sees the time at which it is due, and the caller the time advanced to', async () => {
  const clock = new FakeClock(500)
  const seen: number[] = []
  clock.setTimeout(() => seen.push(clock.now()), 30)
  await clock.advance(100)
  expect(seen).toEqual([530])
  expect(clock.now()).toBe(600)
})

test('a cleared timer never runs', async () => {
  const clock = new FakeClock()
  let ran = false
  const timer = clock.setTimeout(() => (ran = true), 10)
  clock.clearTimeout(timer)
  await clock.advance(100)
  expect(ran).toBe(false)
})

test('what a timer sets in motion goes on within the same advance', async () => {
  const clock = new FakeClock(0)
  const done = (async () => {
    for (let i = 0; i < 3; i++) await pause(clock, 10)
    return clock.now()
  })()
  await clock.advance(1_000)
  expect(await done).toBe(30)
})

test('advancing by nothing lets promises settle and runs what is due now', async () => {
  const clock = new FakeClock()
  let ran = false
  clock.setTimeout(() => (ran = true), 0)
  expect(clock.nextTimerMs).toBe(0)
  await clock.advance()
  expect(ran).toBe(true)
  expect(clock.nextTimerMs).toBeNull()
})

test('a timer that sets itself again without waiting is reported instead of hanging the test', async () => {
  const clock = new FakeClock()
  const again = (): void => void clock.setTimeout(again, 0)
  again()
  await expect(clock.advance(1)).rejects.toThrow('one sets itself again')
})
