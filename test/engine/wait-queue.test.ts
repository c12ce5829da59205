// The queue against a plain list: whatever joins, leaves, expires and is served, both tell the same.

import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { WaitQueue } from '../../src/engine/wait-queue.ts'
import type { Ticket, Waiter } from '../../src/engine/wait-queue.ts'

type Step =
  { do: 'join'; deadline: number } | { do: 'next' } | { do: 'leave'; which: number } | { do: 'expire'; now: number }

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('join' as const), deadline: fc.nat(100) }),
  fc.record({ do: fc.constant('next' as const) }),
  fc.record({ do: fc.constant('leave' as const), which: fc.nat(20) }),
  fc.record({ do: fc.constant('expire' as const), now: fc.nat(100) }),
)

const waiterUntil = (deadline: number, since: number): Waiter<string> => ({
  since,
  deadline,
  resolve: () => undefined,
  reject: () => undefined,
})

test('first come, first served, whoever leaves from the middle', () => {
  fc.assert(
    fc.property(fc.array(anyStep, { maxLength: 60 }), (steps) => {
      const queue = new WaitQueue<string>()
      let model: { waiter: Waiter<string>; ticket: Ticket<string> }[] = []
      const everybody: typeof model = []
      steps.forEach((step, i) => {
        if (step.do === 'join') {
          const waiter = waiterUntil(step.deadline, i)
          const place = { waiter, ticket: queue.join(waiter) }
          model.push(place)
          everybody.push(place)
        } else if (step.do === 'next') {
          expect(queue.next()).toBe(model.shift()?.waiter ?? null)
        } else if (step.do === 'leave') {
          const place = everybody[step.which % Math.max(1, everybody.length)]
          if (place === undefined) return
          expect(queue.leave(place.ticket)).toBe(model.includes(place))
          model = model.filter((one) => one !== place)
        } else {
          const gone = model.filter(({ waiter }) => waiter.deadline <= step.now)
          expect(queue.expired(step.now, Infinity)).toEqual(gone.map(({ waiter }) => waiter))
          model = model.filter((one) => !gone.includes(one))
        }
        expect(queue.length).toBe(model.length)
        expect(queue.head?.since ?? null).toBe(model[0]?.waiter.since ?? null)
        expect(queue.earliestDeadline()).toBe(Math.min(Infinity, ...model.map(({ waiter }) => waiter.deadline)))
      })
    }),
  )
})
