/**
 * Clients that mean harm, over the real program and a small model: each is answered or closed within its limits, and
 * one who does no harm goes on being answered beside them. Times are wide: machines of tests are slow.
 */
import { writeFileSync } from "node:fs"
import { setTimeout } from "node:timers/promises"

import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"

import { dial, dribble, head, neighbour, openFiles, socketsOf, wire } from "./hostile-support.ts"
import { makeModel, metric, post, question, residentMB, startServer } from "./support.ts"

type Server = Awaited<ReturnType<typeof startServer>>
let model: Awaited<ReturnType<typeof makeModel>>
let server: Server
const begun: Array<Server> = []
const serve = async (of: string, ...flags: ReadonlyArray<string>) => {
  const started = await startServer(of, ...flags)
  begun.push(started)
  return started
}

const seconds = 3
/** In which a client of `--client-timeout 3` is certainly gone. */
const patience = seconds + 12
const prompt = { ...question("三只猫"), max_tokens: 4, temperature: 1 }

beforeAll(async () => {
  model = await makeModel()
  server = await serve(model.ofLength(1_000_000), "--client-timeout", `${seconds}`, "--cache-memory", "64GiB")
}, 120_000)
afterAll(() => {
  for (const { child } of begun) child.kill("SIGKILL")
  model.remove()
})
const until = async (what: () => boolean | Promise<boolean>, seconds: number) => {
  const end = Date.now() + seconds * 1000
  while (!(await what())) {
    if (Date.now() > end) return false
    await setTimeout(20)
  }
  return true
}

describe("a server among strangers", () => {
  afterEach(async () => {
    // Whatever came, nothing is left over, and nothing was worth a line.
    await expect.poll(() => metric(server.url, "requests_running"), { timeout: 20_000 }).toBe(0)
    expect(await metric(server.url, "cache_bytes")).toBe(0)
    expect(
      server
        .error()
        .split("\n")
        .filter((line) => line !== "")
    ).toHaveLength(1)
  })

  it("closes who dawdles with headers or bodies, or never says a thing", async () => {
    const stop = neighbour(server.url)
    const lines = await Promise.all(Array.from({ length: 96 }, () => dial(server.port)))
    const long = "x".repeat(1000)
    for (const [place, line] of lines.entries()) {
      const upgrade = head(1000).replace("\r\n\r\n", "\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
      if (place >= 90) {
        void dribble(line, upgrade, long)
        continue
      }
      if (place % 3 === 0)
        void dribble(line, "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-a: ", long)
      if (place % 3 === 1) void dribble(line, head(place % 2 === 0 ? 1000 : "chunked"), long)
    }
    const ended = await Promise.all(lines.map((line) => line.ends(patience)))
    expect(ended).toEqual(lines.map(() => true))
    const { failures, slowest, times } = await stop()
    expect(failures).toEqual([])
    expect(times.length).toBeGreaterThan(3)
    expect(slowest).toBeLessThan(10)
  })

  it("refuses bodies without end, said or not, and holds none of them", async () => {
    const before = residentMB(server.child.pid ?? 0)
    const said = await dial(server.port)
    said.socket.write(head(10_000_000_000) + "{")
    const chunked = await dial(server.port)
    chunked.socket.write(head("chunked"))
    const piece = `10000\r\n${" ".repeat(0x1_0000)}\r\n`
    let sent = 0
    while (sent < 1600 && !chunked.isOver()) {
      sent += 1
      if (!chunked.socket.write(piece)) await Promise.race([setTimeout(100), chunked.ends(5)])
    }
    for (const line of [said, chunked]) {
      expect(await line.ends(patience)).toBe(true)
      expect(line.statuses()).toEqual([413])
      expect(line.said()).toContain('"type":"invalid_request_error"')
    }
    expect(residentMB(server.child.pid ?? 0) - before).toBeLessThan(60)
  })

  it("refuses what is no JSON, too deep or no UTF-8, in the caller's form", async () => {
    const deep = "[".repeat(500_000) + "]".repeat(500_000)
    const broken = Buffer.concat([
      Buffer.from('{"model":"m","messages":[{"role":"user","content":"'),
      Buffer.from([0xc3, 0x28, 0xff]),
      Buffer.from('"}]}')
    ])
    const bodies = [
      "{",
      "",
      "nul",
      '{"model":"m","messages":[}',
      "\u0000",
      `{"model":"m","messages":${deep}}`,
      `{"model":"m","messages":[{"role":"user","content":"a"}],"tools":${deep}}`,
      broken,
      Buffer.from('{"model":"m"}', "utf16le")
    ]
    for (const body of bodies) {
      for (const [path, status, key] of [
        ["/v1/chat/completions", 400, "error"],
        ["/v1/completions", 400, "error"],
        ["/api/chat", 422, "detail"]
      ] as const) {
        const began = performance.now()
        const response = await fetch(server.url + path, {
          method: "POST",
          body,
          headers: { "content-type": "application/json" }
        })
        expect([response.status, Object.keys((await response.json()) as object)]).toEqual([status, [key]])
        expect(performance.now() - began).toBeLessThan(5000)
      }
    }
  })

  it("answers or closes whatever is no HTTP, or too much of it", async () => {
    const get = "GET /health HTTP/1.1\r\nhost: localhost\r\n"
    const cases: ReadonlyArray<readonly [string, string, ReadonlyArray<number>]> = [
      ["headers too large", `${get}x-a: ${"x".repeat(20_000)}\r\n\r\n`, [431]],
      ["headers without end", `${get}${"x-a: b\r\n".repeat(20_000)}`, [431]],
      ["a path too long", `GET /${"a".repeat(100_000)} HTTP/1.1\r\nhost: localhost\r\n\r\n`, [431]],
      ["garbage behind a request", `${get}\r\n\u0000\u0001garbage\r\n\r\n`, [200]],
      ["TLS", "\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc\u0003\u0003".repeat(20), [400]],
      ["HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]],
      [
        "two lengths",
        `${head(5)}12345`.replace("content-length: 5", "content-length: 5\r\ncontent-length: 6"),
        [400]
      ],
      [
        "a length and chunks",
        head("chunked").replace("\r\n\r\n", "\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
        [400]
      ],
      ["chunks that are none", `${head("chunked")}zz\r\nhello\r\n`, [400]],
      ["no host", "GET /health HTTP/1.1\r\n\r\n", [400]],
      ["a stranger's host", "GET /health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n", [403]],
      ["CONNECT", "CONNECT example.org:443 HTTP/1.1\r\nhost: localhost\r\n\r\n", []],
      ["a broken header", `${get}a b: c\r\n\r\n`, [400]]
    ]
    const stop = neighbour(server.url)
    const found = await Promise.all(
      cases.map(async ([name, text]) => {
        const line = await dial(server.port)
        line.socket.write(text, "latin1")
        const ended = await line.ends(patience)
        // What goes wrong behind an answer is told, or not, as the answer is gone or not.
        return [name, ended, line.statuses().slice(0, 1)] as const
      })
    )
    expect(found).toEqual(cases.map(([name, , statuses]) => [name, true, statuses]))
    expect((await stop()).failures).toEqual([])
  })

  it("answers many requests sent at once on one connection in their order, and no more than may wait", async () => {
    const line = await dial(server.port)
    line.socket.write(wire(prompt).repeat(400))
    expect(await until(() => line.statuses().length === 400, 50)).toBe(true)
    expect(line.statuses().filter((status) => status !== 200 && status !== 429)).toEqual([])
    expect(line.statuses()[0]).toBe(200)
    line.socket.destroy()
  })

  it("is done with who closes one half, or all, in the middle", async () => {
    const whole = await dial(server.port)
    whole.socket.end(wire({ ...question("一"), temperature: 1, stream: true }))
    const half = await dial(server.port)
    half.socket.end(wire(prompt).slice(0, -10))
    const reset = await dial(server.port)
    reset.socket.write(wire({ ...question("一"), temperature: 1, stream: true }))
    await until(() => reset.said().includes("data:"), 10)
    reset.socket.resetAndDestroy()
    expect(await whole.ends(patience)).toBe(true)
    expect(await half.ends(patience)).toBe(true)
    expect(await until(async () => (await metric(server.url, "requests_running")) === 0, patience)).toBe(true)
  })
})

describe.concurrent("a server of its own", { timeout: 120_000 }, () => {
  it("drops who does not take an answer, and holds little of it meanwhile", async () => {
    // Each piece of an answer names the model: with a long name little is soon too much for the sockets.
    const name = "m".repeat(8000)
    const own = ["--client-timeout", `${seconds}`, "--cache-memory", "64GiB", "--model-name", name]
    const { child, port, url } = await serve(model.ofLength(1_000_000), ...own)
    const pid = child.pid ?? 0
    const sockets = socketsOf(pid)
    const ask = { model: name, ...question("一"), temperature: 1 }
    const large = { model: name, prompt: "a".repeat(900_000), echo: true, n: 20, max_tokens: 1 }
    const before = residentMB(pid)
    let most = before
    const drop = async (text: string, isOver: () => Promise<boolean>) => {
      const lines = await Promise.all(Array.from({ length: 3 }, () => dial(port)))
      for (const { socket } of lines) {
        socket.pause()
        socket.write(text)
      }
      const over = await until(async () => {
        most = Math.max(most, residentMB(pid))
        return (await isOver()) && socketsOf(pid) <= sockets + 2
      }, 40)
      for (const { socket } of lines) socket.destroy()
      expect(over).toBe(true)
    }
    await drop(
      wire({ ...ask, n: 8, stream: true }),
      async () => (await metric(url, "requests_cancelled_total")) === 3
    )
    expect(most - before).toBeLessThan(100)
    // One large answer: its prompt again and again, 18 MB of it.
    await drop(
      wire(large, "/v1/completions"),
      async () => (await metric(url, "requests_answered_total")) === 3
    )
    const response = await post(url, { ...ask, max_tokens: 4 })
    expect(response.status).toBe(200)
  })

  it("has an end for who takes an answer a little at a time", async () => {
    const name = "m".repeat(8000)
    const times = ["--client-timeout", "4", "--request-timeout", "6"]
    const own = await serve(
      model.ofLength(1_000_000),
      ...times,
      "--cache-memory",
      "64GiB",
      "--model-name",
      name
    )
    const sockets = socketsOf(own.child.pid ?? 0)
    const { socket } = await dial(own.port)
    // From now on a buffer is read now and then, of some hundred MB that the answer has in six seconds.
    socket.removeAllListeners("data").on("readable", () => {})
    const sip = setInterval(() => socket.read(), 50)
    socket.write(wire({ model: name, ...question("一"), temperature: 1, n: 16, stream: true }))
    expect(await until(async () => (await metric(own.url, "requests_running")) === 1, 20)).toBe(true)
    expect(await until(() => socketsOf(own.child.pid ?? 0) <= sockets, 40)).toBe(true)
    expect(await metric(own.url, "cache_bytes")).toBe(0)
    clearInterval(sip)
    socket.destroy()
  })

  it("stands ten thousand connections that say nothing", async () => {
    // Both ends of each are files, in two processes; where fewer may be open, fewer are tried.
    const many = Math.min(10_000, openFiles() - 500)
    const own = await serve(model.ofLength(60), "--max-connections", "20000", "--client-timeout", "15")
    const stop = neighbour(own.url)
    const lines: Array<Awaited<ReturnType<typeof dial>>> = []
    for (let at = 0; at < many; at += 250) {
      lines.push(...(await Promise.all(Array.from({ length: 250 }, () => dial(own.port)))))
    }
    expect(await until(() => socketsOf(own.child.pid ?? 0) >= many * 0.9, 5)).toBe(true)
    const ended = await Promise.all(lines.map((line) => line.ends(40)))
    expect(ended.filter((one) => !one)).toEqual([])
    const { failures, slowest } = await stop()
    expect(failures).toEqual([])
    expect(slowest).toBeLessThan(10)
    expect(await until(() => socketsOf(own.child.pid ?? 0) < 50, 10)).toBe(true)
    for (const { socket } of lines) socket.destroy()
  })

  it("lets nobody be locked out: of too many connections the one goes that has been idle longest", async () => {
    const own = await serve(model.ofLength(60), "--max-connections", "20", "--client-timeout", "60")
    const stop = neighbour(own.url)
    const idle: Array<Awaited<ReturnType<typeof dial>>> = []
    for (let at = 0; at < 100; at += 1) {
      idle.push(await dial(own.port))
      if (at % 2 === 0) idle.at(-1)?.socket.write(head(1000))
      if (at % 10 === 0) await setTimeout(50)
    }
    expect(await until(() => idle.filter((line) => line.isOver()).length >= 80, 10)).toBe(true)
    // The newest are there still.
    expect(idle.slice(0, 70).every((line) => line.isOver())).toBe(true)
    expect(idle.at(-1)?.isOver()).toBe(false)
    expect((await stop()).failures).toEqual([])
    for (const { socket } of idle) socket.destroy()
  })

  it("does not mind wrong keys, lets few be tried, and never tells one", async () => {
    const file = model.at("keys.txt")
    writeFileSync(file, "first-key\nsecond-key\n")
    const own = await serve(
      model.ofLength(60),
      "--api-key-file",
      file,
      "--rate-limit",
      "300",
      "--log",
      "requests"
    )
    const stop = neighbour(own.url, { key: "second-key", pause: 500 })
    const statuses: Array<number> = []
    const attack = async (_: unknown, worker: number) => {
      for (let at = 0; at < 100; at += 1) {
        const response = await post(own.url, prompt, {
          headers: { authorization: `Bearer guess-${worker}-${at}` }
        })
        statuses.push(response.status)
        await response.text()
      }
    }
    await Promise.all(Array.from({ length: 10 }, attack))
    const { failures, times } = await stop()
    expect(failures).toEqual([])
    expect(times.length).toBeGreaterThan(0)
    expect(new Set(statuses)).toEqual(new Set([401, 429]))
    // A bucket of 300, and what drops into it meanwhile.
    expect(statuses.filter((status) => status === 401).length).toBeGreaterThanOrEqual(300)
    expect(await until(() => own.error().includes('"key":1'), 10)).toBe(true)
    expect(own.error()).not.toMatch(/guess|first-key|second-key|猫/)
  })

  it("ends in its time though strangers hold on to it", async () => {
    const own = await serve(model.ofLength(1_000_000), "--client-timeout", "60", "--cache-memory", "64GiB")
    const lines = await Promise.all(Array.from({ length: 4 }, () => dial(own.port)))
    lines[1]?.socket.write("GET /health HTTP/1.1\r\nhost: loc")
    lines[2]?.socket.write(head(1000))
    // Answered for hours.
    lines[3]?.socket.write(wire({ ...question("一"), temperature: 1, stream: true }))
    expect(await until(async () => (await metric(own.url, "requests_running")) === 1, 10)).toBe(true)
    const told = Date.now()
    own.child.kill("SIGTERM")
    const { status } = await own.ran
    expect(status).toBe(130)
    const took = (Date.now() - told) / 1000
    expect(took).toBeGreaterThan(15)
    expect(took).toBeLessThan(28)
  })
})
