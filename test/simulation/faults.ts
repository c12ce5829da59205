// What goes wrong in one run, and when: drawn from the seed before anything begins, over by the time of the heal.

import { QUERY_MS } from './house.ts'
import type { VirtualPostgres } from './server.ts'
import type { Connection } from './connection.ts'
import type { Dice, World } from './world.ts'

export interface Storm {
  readonly faults: number
  /** By then it has blown over. */
  readonly longestMs: number
  /** How long a line may be silent before it is known to be dead. */
  readonly longestSilenceMs: number
  /** From now on nothing is wrong any more. */
  readonly heal: () => void
}

const LONGEST_SILENCE_MS = 8_000
/** Everything begins to go wrong within this. */
export const STORM_MS = 4_000

/** Until somebody is busy. */
const TRY_AGAIN_MS = 2
const MOST_TRIES = 200

interface Land {
  readonly world: World
  readonly server: VirtualPostgres
  readonly dice: Dice
  /** Later, unless all has been made well by then. */
  readonly later: (ms: number, run: () => void) => void
}

/** Something goes wrong; what it says is for the trace. Null: there was nothing that could. */
type Fault = (land: Land) => string | null

/** Somebody who is heard of, and mostly one who is busy: what befalls an idle connection hurts nobody. */
function victim({ server, world, dice }: Land): Connection | null {
  const wantsBusy = dice.happens(0.8)
  const all = [...server.connections].filter(({ line, busy }) => line.silentUntil <= world.now && (busy || !wantsBusy))
  return all.length === 0 ? null : dice.oneOf(all)
}

function lostCommit({ server, dice }: Land): string {
  if (dice.happens(0.5)) {
    server.commitAnswersToLose++
    return 'the answer to the next COMMIT will be lost'
  }
  server.commitsToCut++
  return 'the line will be cut when the next COMMIT has come'
}

const faults: readonly Fault[] = [
  function reset(land) {
    const line = victim(land)?.line
    line?.reset('by the network')
    return line === undefined ? null : 'a connection is reset'
  },
  function brokenMessage(land) {
    const line = victim(land)?.line
    if (line === undefined) return null
    line.breaksWithin = land.dice.whole(0, 150)
    return `line ${line.id} will break within its next message`
  },
  function lostAnswer({ server }) {
    server.answersToLose++
    return 'the answer to the next write will be lost'
  },
  lostCommit,
  lostCommit,
  function refusedBegin({ server }) {
    server.beginsToRefuse++
    return 'the next BEGIN will be refused'
  },
  function hang({ server, dice }) {
    // Best of all so long that its answer and the cancel meet.
    server.hangMs = dice.happens(0.5) ? dice.between(QUERY_MS - 8, QUERY_MS + 12) : dice.between(50, 1_500)
    return `the next statement takes ${server.hangMs.toFixed(0)} ms longer`
  },
  function killed(land) {
    const connection = victim(land)
    if (connection === null) return null
    land.server.terminate(connection)
    return `line ${connection.line.id} is terminated`
  },
  function silence(land) {
    const line = victim(land)?.line
    if (line === undefined) return null
    const { later, dice } = land
    const ms = dice.between(300, LONGEST_SILENCE_MS)
    line.silentUntil = Infinity
    later(ms, () => line.reset('after a silence'))
    return `line ${line.id} falls silent and will not be heard of again`
  },
  function stall(land) {
    const line = victim(land)?.line
    if (line === undefined) return null
    const { world, dice } = land
    const ms = dice.between(100, 3_000)
    line.silentUntil = world.now + ms
    return `line ${line.id} stalls for ${ms.toFixed(0)} ms`
  },
  function restart({ later, server, dice }) {
    server.goesDown(dice.happens(0.5) ? 'in an orderly way' : 'by a crash')
    server.accepts = 'refuses'
    const ms = dice.between(20, 600)
    later(ms, () => (server.accepts = 'starting'))
    later(ms + dice.between(0, 400), () => (server.accepts = 'all'))
    return 'the server restarts'
  },
  function deaf({ later, server, dice }) {
    server.accepts = 'deaf'
    later(dice.between(100, 1200), () => (server.accepts = 'all'))
    return 'the server does not hear who wants to connect'
  },
  function slowStart({ later, server, dice }) {
    server.slowStartMs = dice.between(100, 1200)
    later(dice.between(200, 1500), () => (server.slowStartMs = 0))
    return 'connecting takes its time'
  },
  function full({ later, server, dice }) {
    server.maxConnections = dice.whole(0, 2)
    later(dice.between(200, 1500), () => (server.maxConnections = Infinity))
    return `the server has ${server.maxConnections} slots`
  },
  function slow({ later, server, dice }) {
    server.slowness = dice.between(3, 20)
    later(dice.between(100, 800), () => (server.slowness = server.usualSlowness))
    return 'the server is slow'
  },
  function far({ later, server, dice }) {
    server.weather.most = server.weather.least + dice.between(20, 200)
    later(dice.between(200, 1000), () => Object.assign(server.weather, server.usualWeather))
    return 'the network is slow'
  },
  function blocked({ world, dice }) {
    const ms = dice.between(200, 1500)
    world.process.setTimeout(() => world.process.spend(ms), 0)
    return `the process is blocked for ${ms.toFixed(0)} ms`
  },
  function newShape({ server }) {
    server.changesShape()
    return 'the columns of a table change'
  },
]

/** Draws what goes wrong and lets it happen. In one run of eight nothing does. */
export function brew(world: World, server: VirtualPostgres): Storm {
  const dice = world.newChance()
  let healed = false
  const later = (ms: number, run: () => void): void => void world.after(ms, () => void (healed || run()))
  const land: Land = { world, server, dice, later }
  const count = dice.happens(0.125) ? 0 : dice.whole(1, 10)
  for (let n = 0; n < count; n++) {
    const fault = dice.oneOf(faults)
    const strike = (triesLeft: number): void => {
      const what = fault(land)
      if (what !== null) world.note('FAULT', what)
      else if (triesLeft > 0) later(TRY_AGAIN_MS, () => strike(triesLeft - 1))
    }
    later(dice.between(0, STORM_MS), () => strike(MOST_TRIES))
  }
  return {
    faults: count,
    longestMs: STORM_MS + LONGEST_SILENCE_MS,
    longestSilenceMs: LONGEST_SILENCE_MS,
    heal: () => {
      healed = true
      heal(world, server)
    },
  }
}

function heal(world: World, server: VirtualPostgres): void {
  world.note('FAULT', 'all is well again')
  Object.assign(server.weather, server.usualWeather)
  Object.assign(server, {
    accepts: 'all',
    slowness: server.usualSlowness,
    slowStartMs: 0,
    maxConnections: Infinity,
    hangMs: 0,
  })
  Object.assign(server, { answersToLose: 0, commitAnswersToLose: 0, commitsToCut: 0, beginsToRefuse: 0 })
  for (const { line } of server.connections) {
    line.breaksWithin = -1
    if (line.silentUntil > world.now) line.reset('at the heal')
  }
}
