/** Clients that mean harm or know no better, over bare sockets. */
import { readFileSync, readdirSync, readlinkSync } from "node:fs"
import { connect } from "node:net"
import { setTimeout } from "node:timers/promises"

import { post, question } from "./support.ts"

/** A connection on which anything can be said. */
export const dial = async (port: number) => {
  // The half that the server has closed stays open here, until it is ended.
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true })
  let said = ""
  socket.on("data", (chunk: Buffer) => (said += chunk.toString("latin1")))
  socket.on("error", () => {})
  let over = false
  const closed = new Promise<void>((done) => {
    for (const event of ["end", "close"] as const) {
      socket.once(event, () => {
        over = true
        done()
      })
    }
  })
  await new Promise<void>((done) => {
    socket.once("connect", done)
    socket.once("close", () => done())
  })
  return {
    socket,
    said: () => said,
    /** The statuses of all responses that have come. */
    statuses: () => [...said.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status)),
    isOver: () => over,
    /** Whether the server ends it within so many seconds. */
    ends: (seconds: number) =>
      Promise.race([closed.then(() => true), setTimeout(seconds * 1000, false, { ref: false })])
  }
}
export type Line = Awaited<ReturnType<typeof dial>>

/** Sends a text and goes on a byte at a time, until the connection ends. */
export const dribble = async ({ socket, isOver }: Line, text: string, rest: string) => {
  socket.write(text)
  for (const byte of rest) {
    await setTimeout(250)
    if (isOver() || !socket.writable) return
    socket.write(byte)
  }
}

export const head = (length: number | "chunked", path = "/v1/chat/completions") =>
  [
    `POST ${path} HTTP/1.1`,
    "host: localhost",
    "content-type: application/json",
    length === "chunked" ? "transfer-encoding: chunked" : `content-length: ${length}`,
    "",
    ""
  ].join("\r\n")

/** A whole request as it stands on the wire. */
export const wire = (body: object | string, path?: string) => {
  const text = typeof body === "string" ? body : JSON.stringify({ model: "m", ...body })
  return head(Buffer.byteLength(text), path) + text
}

/** One who does no harm, again and again: how long each answer took, and what was no answer. */
export const neighbour = (
  url: string,
  { key, pause = 50 }: { readonly key?: string; readonly pause?: number } = {}
) => {
  const times: Array<number> = []
  const failures: Array<string> = []
  let going = true
  const headers: Record<string, string> = key === undefined ? {} : { authorization: `Bearer ${key}` }
  const ran = (async () => {
    while (going) {
      const began = performance.now()
      const body = { ...question("一只猫"), max_tokens: 8, temperature: 1 }
      try {
        const response = await post(url, body, { headers, signal: AbortSignal.timeout(20_000) })
        await response.text()
        if (response.status === 200) times.push(performance.now() - began)
        else failures.push(String(response.status))
      } catch (error) {
        failures.push(String((error as Error).cause ?? error))
      }
      await setTimeout(pause)
    }
  })()
  return async () => {
    going = false
    await ran
    return { times, failures, slowest: Math.max(...times) / 1000 }
  }
}

/** Sockets that a process has open. */
export const socketsOf = (pid: number): number =>
  readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith("socket:")
    } catch {
      return false
    }
  }).length

/** Files that this process may have open. */
export const openFiles = (): number =>
  Number(/Max open files\s+(\d+)/.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? 1024)
