/**
 * The connections of a server, seen from below HTTP: how many there may be, and which go first. Node's own
 * `maxConnections` turns newcomers away, so whoever holds enough idle connections locks all others out. Here the one
 * goes that has been waited for longest: idle, or in the middle of sending its request.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http"
import type { Socket } from "node:net"

export interface ConnectionLimits {
  readonly maxConnections: number
  /** Seconds in which a client must have sent its request, and must go on taking what it is sent. */
  readonly clientSeconds: number
  /** Seconds that answering may take, before it is written. */
  readonly requestSeconds: number
}

/** A request whose response is not over. */
interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
}

export interface Connections {
  /** Closes what has no request at work, now and from now on, and after so many seconds the rest. */
  readonly drain: (seconds: number) => void
  readonly count: () => number
}

export const watchConnections = (server: Server, limits: ConnectionLimits): Connections => {
  /** What each connection is at; first who has been waited for longest. */
  const open = new Map<Socket, Set<Exchange>>()
  const isAtWork = (exchanges: ReadonlySet<Exchange> | undefined): boolean =>
    [...(exchanges ?? [])].some(({ request }) => request.complete)
  let draining = false

  const makeRoom = () => {
    for (const [socket, exchanges] of open) {
      if (open.size <= limits.maxConnections) return
      if (!isAtWork(exchanges)) {
        open.delete(socket)
        socket.destroy()
      }
    }
  }

  server.on("connection", (socket: Socket) => {
    open.set(socket, new Set())
    socket.on("close", () => open.delete(socket))
    if (open.size <= limits.maxConnections) return
    makeRoom()
    // All others are being answered.
    if (open.size > limits.maxConnections) socket.destroy()
  })

  const began = (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request
    const exchange = { request, response }
    open.get(socket)?.add(exchange)
    // The engine ends an answer in time, but not whoever takes it a byte at a time.
    const longest = setTimeout(() => socket.destroy(), (limits.requestSeconds + limits.clientSeconds) * 1000)
    response.on("close", () => {
      clearTimeout(longest)
      const exchanges = open.get(socket)
      if (exchanges === undefined) return
      exchanges.delete(exchange)
      if (exchanges.size > 0) return
      open.delete(socket)
      open.set(socket, exchanges)
      if (draining) setImmediate(() => socket.destroySoon())
    })
  }
  server.on("request", began)
  server.on("checkContinue", began)

  // Nothing was read and nothing was taken for so long. A response that has only nothing to say yet is waited for.
  server.setTimeout(limits.clientSeconds * 1000, (socket: Socket) => {
    if (socket.writableLength > 0 || !isAtWork(open.get(socket))) socket.destroy()
  })

  return {
    drain: (seconds) => {
      draining = true
      for (const [socket, exchanges] of open) if (!isAtWork(exchanges)) socket.destroy()
      setTimeout(() => server.closeAllConnections(), seconds * 1000).unref()
    },
    count: () => open.size
  }
}
