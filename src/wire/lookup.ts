// Host names looked up by a function of the user, anew at each connect. Node takes it as it comes: one that throws, or
// answers in another shape than it was asked for, would end the process from within a socket. Here it fails a connect.

import { Socket, isIP } from 'node:net'
import type { LookupFunction } from 'node:net'
import type { Lookup } from '../config/options.ts'

/** What pg takes as its `stream`. */
export function socketsBy(lookup: Lookup): () => Socket {
  const checked = checkedLookup(lookup)
  return () => {
    const socket = new Socket()
    const connect = socket.connect.bind(socket)
    // pg says port and host, or the path of a Unix socket alone.
    const connectBy = (port: number | string, host?: string): Socket =>
      host === undefined ? connect(port as string) : connect({ port: Number(port), host, lookup: checked })
    return Object.assign(socket, { connect: connectBy })
  }
}

function checkedLookup(lookup: Lookup): LookupFunction {
  return (hostname, options, callback) => {
    let told = false
    const tell = (error: Error | null, addresses: Address[]): void => {
      if (told) return
      told = true
      // Not within the call: whoever connects has not begun to listen for errors.
      process.nextTick(() => {
        if (error !== null) callback(error, '')
        else if (options.all) callback(null, addresses)
        else callback(null, addresses[0]!.address, addresses[0]!.family)
      })
    }
    const fail = (reason: unknown): void => tell(reason instanceof Error ? reason : new Error(String(reason)), [])
    try {
      const left: unknown = lookup(hostname, options, (error: unknown, answer: unknown) => {
        const addresses = addressesIn(answer)
        if (error !== null && error !== undefined) fail(error)
        else if (addresses.length > 0) tell(null, addresses)
        else fail(noAddress(hostname))
      })
      // An async function is one, too.
      if (left instanceof Promise) left.catch(fail)
    } catch (error) {
      fail(error)
    }
  }
}

interface Address {
  readonly address: string
  readonly family: number
}

/** One address or several, bare or as `dns.lookup` gives them, whatever was asked for. */
function addressesIn(answer: unknown): Address[] {
  const all: unknown[] = Array.isArray(answer) ? answer : [answer]
  return all.flatMap((one) => {
    const address = typeof one === 'object' && one !== null && 'address' in one ? one.address : one
    const family = typeof address === 'string' ? isIP(address) : 0
    return family === 0 ? [] : [{ address: address as string, family }]
  })
}

function noAddress(hostname: string): Error {
  return Object.assign(new Error(`routing.lookup gave no address of '${hostname}'`), { code: 'ENOTFOUND' })
}
