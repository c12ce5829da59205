// Listeners: they hear everything they asked for, and hurt nobody.

import { describe, expect, test } from 'vitest'
import { Listeners } from '../../src/engine/listeners.ts'
import { startedEngine } from '../support/engine.ts'

const retry = { node: 'primary', attempt: 1, fault: 'connection-lost', because: 'a read' } as const

describe('a listener', () => {
  test('hears every event of its name and no other', () => {
    const listeners = new Listeners()
    const heard: unknown[] = []
    listeners.on('retry', (event) => heard.push(event))
    listeners.emit('retry', retry)
    listeners.emit('error', { during: 'probe', error: new Error('x') })
    expect(heard).toEqual([retry])
  })

  test('hears nothing any more once it was disposed of, twice included', () => {
    const listeners = new Listeners()
    const heard: string[] = []
    const first = listeners.on('retry', () => heard.push('first'))
    listeners.on('retry', () => heard.push('second'))
    first[Symbol.dispose]()
    first[Symbol.dispose]()
    listeners.emit('retry', retry)
    expect(heard).toEqual(['second'])
  })

  test('that throws hurts neither the query nor the next listener, and is told of', async () => {
    const { engine, run, events } = await startedEngine()
    const heard: string[] = []
    engine.listeners.on('query', () => {
      throw new Error('a bug of the listener')
    })
    engine.listeners.on('query', ({ summary }) => heard.push(summary))
    await run('select a from t')
    expect(heard).toEqual(['SELECT t'])
    expect(events.error).toMatchObject([{ during: "listener of 'query'", error: { message: 'a bug of the listener' } }])
  })

  test('of errors that throws itself does not go round in circles', () => {
    const listeners = new Listeners()
    listeners.on('error', () => {
      throw new Error('again')
    })
    expect(() => listeners.emit('error', { during: 'probe', error: new Error('x') })).not.toThrow()
  })

  test('may leave while it is being told, and the others are told all the same', () => {
    const listeners = new Listeners()
    const heard: string[] = []
    const first = listeners.on('retry', () => first[Symbol.dispose]())
    listeners.on('retry', () => heard.push('second'))
    listeners.emit('retry', retry)
    expect(heard).toEqual(['second'])
  })
})

test('nobody is heard of where nobody listens, so that no event need be made', () => {
  const listeners = new Listeners()
  expect(listeners.heard('query')).toBe(false)
  const listening = listeners.on('query', () => undefined)
  expect(listeners.heard('query')).toBe(true)
  listening[Symbol.dispose]()
  expect(listeners.heard('query')).toBe(false)
})
