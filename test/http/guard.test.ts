/** What stands before the handlers, over the in-memory core: rate, origins, hosts, bodies, log. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { createServer, request } from "node:http"
import type { AddressInfo } from "node:net"
import { afterEach, describe, expect, it, vi } from "vitest"

import { serve } from "../../ts/http/index.ts"
import type { ServeOptions } from "../../ts/http/index.ts"
import { faultOf, isDeeperThan } from "../../ts/http/server/body.ts"
import { makeNodeHandler } from "../../ts/http/server/node.ts"
import { hostCheck, hostsOf } from "../../ts/http/server/hosts.ts"
import { addressGroup, makeRateLimit } from "../../ts/http/server/rate.ts"
import type { Border, GenerationSettings } from "../../ts/native/index.ts"
import { envelope, memoryBorder, Native } from "../../ts/native/index.ts"
import { post, question } from "./support.ts"

const running: Array<() => Promise<unknown>> = []
afterEach(async () => {
  for (const stop of running.splice(0)) await stop()
  vi.restoreAllMocks()
})

const start = async (options: Partial<ServeOptions> = {}, border: Partial<Border> = {}) => {
  let ready: (address: string) => void = () => {}
  const address = new Promise<string>((done) => {
    ready = done
  })
  const fiber = Effect.runFork(
    serve({
      generator: { model: "m", dtype: "f32" },
      settings: {},
      modelName: "m",
      host: "127.0.0.1",
      port: 0,
      apiKeys: [],
      onReady: (where) => Effect.sync(() => ready(where)),
      ...options
    }).pipe(Effect.provide(Native.testLayer(border)))
  )
  running.push(() => Effect.runPromise(Fiber.interrupt(fiber)))
  return await address
}

/** The in-memory service, with ends or failures of the test's own; tells with what it was asked. */
const watched = (
  asked: Array<GenerationSettings>,
  own: { readonly cut?: true; readonly fails?: true } = {}
) => ({
  Serving: {
    load: async (...args: Parameters<Border["Serving"]["load"]>) => {
      const serving = await memoryBorder().Serving.load(...args)
      return {
        info: serving.info,
        stats: () => serving.stats(),
        close: () => {},
        ask: (...[prompt, settings, options]: Parameters<typeof serving.ask>) => {
          asked.push(settings)
          const stream = serving.ask(prompt, settings, options)
          return {
            close: () => stream.close(),
            async *[Symbol.asyncIterator]() {
              for await (const piece of stream) {
                if (own.fails) throw envelope("INTERNAL", "/secret/folder is broken", "mend it")
                yield own.cut && piece.end ? { ...piece, end: { ...piece.end, cut: true } } : piece
              }
            }
          }
        }
      }
    }
  }
})

const ask = { ...question("你好") }
const key = (name: string) => ({ headers: { authorization: `Bearer ${name}` } })
const error = async (response: Response) =>
  ((await response.json()) as { error: Record<string, unknown> }).error

describe("requests a minute", () => {
  it("are counted by key, and what is too much is 429 with a time", async () => {
    const url = await start({ apiKeys: ["a", "b"], rateLimit: 3 })
    const statuses = []
    for (const name of ["a", "a", "a", "a", "b"]) statuses.push((await post(url, ask, key(name))).status)
    expect(statuses).toEqual([200, 200, 200, 429, 200])
    const refused = await post(url, ask, key("a"))
    const wait = Number(refused.headers.get("retry-after"))
    expect(wait).toBeGreaterThan(10)
    expect(wait).toBeLessThanOrEqual(20)
    expect(await error(refused)).toMatchObject({ type: "requests", code: "rate_limit_exceeded" })
    const old = await fetch(`${url}/api/chat`, { method: "POST", body: "{}", ...key("a") })
    expect([old.status, Object.keys((await old.json()) as object)]).toEqual([429, ["detail"]])
    expect((await fetch(`${url}/v1/models`, key("a"))).status).toBe(200)
    expect((await fetch(`${url}/health`)).status).toBe(200)
  })

  it("are counted by address where there are no keys, whatever is brought or whichever way is spelt", async () => {
    const url = await start({ rateLimit: 2 })
    const statuses = []
    for (const path of ["/v1/chat/completions", "//v1/chat/completions", "/%76%31/chat/completions"]) {
      const response = await fetch(url + path, {
        method: "POST",
        body: JSON.stringify({ model: "m", ...ask }),
        headers: { "content-type": "application/json", authorization: `Bearer ${path}` }
      })
      statuses.push(response.status)
    }
    expect(statuses).toEqual([200, 200, 429])
  })

  it("are counted by what a proxy says where that is trusted, and by nobody else's word", async () => {
    const from = async (url: string, address: string) =>
      (await post(url, ask, { headers: { "x-forwarded-for": address } })).status
    const behind = await start({ rateLimit: 1, trustedProxies: ["127.0.0.1/32"] })
    const statuses = []
    for (const address of ["1.2.3.4", "5.6.7.8", "9.9.9.9, 1.2.3.4"])
      statuses.push(await from(behind, address))
    expect(statuses).toEqual([200, 200, 429])
    const open = await start({ rateLimit: 1 })
    expect([await from(open, "1.2.3.4"), await from(open, "5.6.7.8")]).toEqual([200, 429])
  })

  it("keys cannot be guessed faster, by no call", async () => {
    const url = await start({ apiKeys: ["a"], rateLimit: 2 })
    const statuses = []
    for (const guess of ["x", "y", "z"]) statuses.push((await fetch(`${url}/v1/models`, key(guess))).status)
    expect(statuses).toEqual([401, 401, 429])
    expect((await fetch(`${url}/v1/models`, key("a"))).status).toBe(200)
  })

  it("come back one by one; who has all of them back is forgotten", () => {
    const limit = makeRateLimit(60)
    const take = (at: number) => Math.round(limit.take("a", at))
    expect(Array.from({ length: 60 }, () => take(0)).every((wait) => wait === 0)).toBe(true)
    expect([take(0), take(500), take(1000), take(1000)]).toEqual([1000, 500, 0, 1000])
    for (let client = 0; client < 10_000; client += 1) limit.take(`b${client}`, 1000 + client * 10)
    // Each is remembered for a second.
    expect(limit.size()).toBeLessThan(2500)
  })

  it("count the addresses that one has at will as one", () => {
    expect(addressGroup("::ffff:10.1.2.3")).toBe("10.1.2.3")
    expect(addressGroup("2001:db8:1:2:3:4:5:6")).toBe("2001:db8:1:2::/64")
    expect(addressGroup("2001:db8:1:2::9")).toBe("2001:db8:1:2::/64")
    expect(addressGroup("2001:db8::9")).toBe("2001:db8:0:0::/64")
    expect(addressGroup("fe80::1%eth0")).toBe("fe80:0:0:0::/64")
    expect(addressGroup("::1")).toBe("0:0:0:0::/64")
  })
})

describe("tokens", () => {
  it("more than a request may ask for becomes as many", async () => {
    const asked: Array<GenerationSettings> = []
    const url = await start({ maxTokens: 7, settings: { maxNewTokens: 20 } }, watched(asked))
    for (const more of [{ max_tokens: 100 }, { max_completion_tokens: 100 }, { max_tokens: 5 }, {}]) {
      expect((await post(url, { ...ask, ...more })).status).toBe(200)
    }
    expect(asked.map(({ maxNewTokens }) => maxNewTokens)).toEqual([7, 7, 5, 20])
  })
})

describe("other origins", () => {
  const origin = "https://chat.example.org"
  const preflight = (url: string, from: string) =>
    fetch(`${url}/v1/chat/completions`, {
      method: "OPTIONS",
      headers: {
        origin: from,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang"
      }
    })
  const allowed = (response: Response) => response.headers.get("access-control-allow-origin")

  it("may not read anything unless they are named", async () => {
    const url = await start()
    expect(allowed(await post(url, ask, { headers: { origin } }))).toBe(null)
    const response = await preflight(url, origin)
    expect([response.status >= 400, allowed(response)]).toEqual([true, null])
  })

  it("named ones may, refusals included; their preflight costs nothing", async () => {
    const corsOrigins = [origin, "http://localhost:3000"]
    const url = await start({ corsOrigins, rateLimit: 2, apiKeys: ["a"] })
    for (let at = 0; at < 5; at += 1) {
      const response = await preflight(url, origin)
      expect([response.status, allowed(response)]).toEqual([204, origin])
      expect(response.headers.get("access-control-allow-headers")).toContain("x-stainless-lang")
      expect(response.headers.get("access-control-allow-methods")).toContain("POST")
    }
    const headers = { origin, authorization: "Bearer a" }
    const statuses = []
    for (const more of [headers, { origin }, headers, headers]) {
      const response = await post(url, ask, { headers: more })
      statuses.push(response.status)
      expect(allowed(response)).toBe(origin)
      expect(response.headers.get("access-control-expose-headers")).toContain("x-request-id")
      expect(response.headers.get("vary")).toMatch(/origin/i)
    }
    expect(statuses).toEqual([200, 401, 200, 429])
    for (const other of ["https://evil.example", "null", "https://chat.example.org.evil.example"]) {
      expect(allowed(await post(url, ask, { headers: { ...headers, origin: other } }))).toBe(null)
      expect(allowed(await preflight(url, other))).toBe(null)
    }
  })

  it("* is any", async () => {
    const url = await start({ corsOrigins: ["*"] })
    expect(allowed(await post(url, ask, { headers: { origin } }))).toBe("*")
  })
})

describe("the Host header", () => {
  const status = (url: string, host: string, path = "/health", more: Record<string, string> = {}) =>
    new Promise<number>((done, fail) => {
      const { port } = new URL(url)
      request({ port, host: "127.0.0.1", path, headers: { host, ...more } }, (response) => {
        response.resume()
        done(response.statusCode ?? 0)
      })
        .on("error", fail)
        .end()
    })

  it("names this machine where the server listens for it alone", async () => {
    const url = await start({ allowedHosts: ["chat.example.org"] })
    for (const host of [
      "localhost",
      "LOCALHOST:1",
      "127.0.0.1",
      "[::1]:99",
      "chat.example.org",
      "localhost.:8812"
    ]) {
      expect([host, await status(url, host)]).toEqual([host, 200])
    }
    const strangers = [
      "evil.example",
      "evil.example:8812",
      "localhost.evil.example",
      "127.0.0.1.evil.example",
      "a@localhost"
    ]
    for (const host of [...strangers, "chat.example.org.evil", "localhost:x", "localhost evil.example"]) {
      expect([host, await status(url, host)]).toEqual([host, 403])
      expect([host, await status(url, host, "/")]).toEqual([host, 403])
    }
    const forwarded = await start({ trustedProxies: ["127.0.0.1/32"] })
    const rebound = { "x-forwarded-host": "localhost", "x-forwarded-for": "127.0.0.1" }
    expect(await status(forwarded, "evil.example", "/health", rebound)).toBe(403)
    // An absolute target says whose it is.
    expect(await status(url, "localhost", "http://evil.example/health")).toBe(403)
  })

  it("is anything where the server listens for others, unless names are given", () => {
    expect(hostsOf("0.0.0.0", [])).toBe(undefined)
    expect(hostsOf("127.0.0.1", ["*"])).toBe(undefined)
    const check = hostCheck(hostsOf("192.168.0.2", ["chat.example.org"]) ?? [])
    const hosts = ["chat.example.org", "192.168.0.2:80", "localhost", "evil.example", undefined, ""]
    expect(hosts.map(check)).toEqual([true, true, true, false, false, false])
    expect(hostCheck(hostsOf("127.0.0.5", []) ?? [])("127.0.0.5:1")).toBe(true)
    expect(hostsOf("::1", [])).toContain("[::1]")
  })
})

describe("bodies", () => {
  it("are looked at before they are parsed", () => {
    const bytes = (text: string) => new TextEncoder().encode(text)
    expect(isDeeperThan(bytes('[{"a":[]}]'), 3)).toBe(false)
    expect(isDeeperThan(bytes('[{"a":[]}]'), 2)).toBe(true)
    // What stands in texts is no nesting.
    expect(isDeeperThan(bytes('["[[[[\\"[[[[", {"]\\\\": 1}]'), 2)).toBe(false)
    expect(isDeeperThan(bytes('["\\\\", [[]]]'), 2)).toBe(true)
    expect(faultOf(Buffer.from([0xff]))).toContain("UTF-8")
    expect(faultOf(bytes('{"prompt":"猫"}'))).toBe(undefined)
  })

  it("may be as large as the server says, of known keys", async () => {
    const url = await start({ maxBody: 1000, apiKeys: ["a"] })
    const large = { ...ask, pad: "x".repeat(1000) }
    expect((await post(url, ask, key("a"))).status).toBe(200)
    const refused = await post(url, large, key("a"))
    expect([refused.status, (await error(refused)).message]).toEqual([413, "the body is larger than 1000 B"])
    // A stranger learns nothing of limits.
    expect((await post(url, large, key("b"))).status).toBe(401)
  })

  it("stop texts have a length", async () => {
    const url = await start()
    const refused = await post(url, { ...ask, stop: ["a", "b".repeat(1001)] })
    expect([refused.status, (await error(refused)).param]).toEqual([400, "stop[1]"])
  })
})

describe("the log", () => {
  const logged = () => {
    const lines: Array<string> = []
    vi.spyOn(console, "error").mockImplementation((line: string) => void lines.push(line))
    return async (count: number) => {
      await expect.poll(() => lines.length, { timeout: 10_000 }).toBe(count)
      return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
    }
  }
  const id = (response: Response) => response.headers.get("x-request-id")

  it("has a line a request, with its number, no text and no key", async () => {
    const lines = logged()
    const url = await start({ log: "requests", apiKeys: ["sesame", "other"] })
    const whole = await post(url, ask, key("other"))
    const streamed = await post(url, { ...ask, stream: true }, key("sesame"))
    await streamed.text()
    const guessed = await fetch(`${url}/v1/models?q=secret`, key("guess"))
    const lost = await fetch(`${url}/nowhere`, { headers: { "x-request-id": "proxy-7" } })
    const found = await lines(4)
    const common = { level: "info", message: "request" }
    const path = "/v1/chat/completions"
    const tokens = { prompt_tokens: 3, completion_tokens: 5 }
    expect(found).toMatchObject([
      { ...common, id: id(whole), method: "POST", path, status: 200, key: 1, prompt_tokens: 3 },
      {
        ...common,
        id: id(streamed),
        method: "POST",
        path,
        status: 200,
        key: 0,
        prompt_tokens: tokens.prompt_tokens
      },
      { ...common, id: id(guessed), method: "GET", path: "/v1/models", status: 401 },
      { ...common, id: "proxy-7", method: "GET", path: "/nowhere", status: 404 }
    ])
    expect(found[1]?.completion_tokens).toBeGreaterThan(0)
    expect(new Set(found.map((line) => line.id)).size).toBe(4)
    for (const line of found) {
      expect(line.ms).toBeGreaterThanOrEqual(0)
      expect(new Date(line.time as string).getTime()).toBeGreaterThan(Date.now() - 60_000)
    }
    expect(JSON.stringify(found)).not.toMatch(/你|sesame|other|guess|secret/)
    expect(id(lost)).toBe("proxy-7")
  })

  it("has texts where they are asked for, and takes no number that is none", async () => {
    const lines = logged()
    const url = await start({ log: "texts" })
    const response = await post(url, ask, { headers: { "x-request-id": "a b\tc" } })
    expect(id(response)).toMatch(/^req_[\da-f]{32}$/)
    expect(await lines(1)).toMatchObject([{ texts: [{ prompt: "你好", answers: ["你说：你好"] }] }])
  })

  it("says what went wrong, which the caller is not told", async () => {
    const lines = logged()
    const url = await start({ log: "requests" }, watched([], { fails: true }))
    const whole = await post(url, ask)
    const streamed = await post(url, { ...ask, stream: true })
    const old = await fetch(`${url}/api/chat`, {
      method: "POST",
      body: '{"input_txt":"a"}',
      headers: { "content-type": "application/json" }
    })
    expect([whole.status, streamed.status, old.status]).toEqual([500, 200, 500])
    for (const text of [await whole.text(), await streamed.text(), await old.text()]) {
      expect(text).toContain("could not answer")
      expect(text).not.toContain("secret")
    }
    const errors = (await lines(6)).filter(({ level }) => level === "error")
    expect(errors.map(({ id }) => id)).toEqual([id(whole), id(streamed), id(old)])
    for (const { message } of errors) expect(message).toContain("/secret/folder is broken")
  })

  it("tells of who left", async () => {
    const lines = logged()
    const url = await start(
      { log: "requests" },
      {
        Serving: {
          load: async (...args) => {
            const serving = await memoryBorder().Serving.load(...args)
            return {
              info: serving.info,
              stats: () => serving.stats(),
              close: () => {},
              ask: () => {
                let open = true
                return {
                  close: () => {
                    open = false
                  },
                  async *[Symbol.asyncIterator]() {
                    while (open) {
                      await new Promise((done) => setTimeout(done, 10))
                      yield { answer: 0, text: "字", tokens: 1 }
                    }
                  }
                }
              }
            }
          }
        }
      }
    )
    for (const stream of [true, false]) {
      await expect(
        post(url, { ...ask, stream }, { signal: AbortSignal.timeout(300) }).then((response) =>
          response.text()
        )
      ).rejects.toThrow()
    }
    expect(await lines(2)).toMatchObject([
      { status: 200, aborted: true },
      { status: 499, aborted: true }
    ])
  })
})

describe("a client that leaves", () => {
  it("before its stream has begun is written for no longer", async () => {
    let leave = () => {}
    const closed: Array<string> = []
    const border: Partial<Border> = {
      Serving: {
        load: async (...args) => {
          const serving = await memoryBorder().Serving.load(...args)
          return {
            info: serving.info,
            stats: () => serving.stats(),
            close: () => {},
            ask: (prompt, settings, options) => {
              if (prompt === "走") leave()
              const stream = serving.ask(prompt, settings, options)
              return { ...stream, close: () => void closed.push(prompt) }
            }
          }
        }
      }
    }
    const scope = Scope.makeUnsafe()
    const handler = await Effect.runPromise(
      makeNodeHandler({ model: "m" }).pipe(Scope.provide(scope), Effect.provide(Native.testLayer(border)))
    )
    running.push(() => Effect.runPromise(Scope.close(scope, Exit.void)))
    const server = createServer((request, response) => {
      leave = () => response.destroy()
      handler(request, response)
    }).listen(0, "127.0.0.1")
    await new Promise((done) => server.once("listening", done))
    running.push(async () => server.close())
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/completions`
    const body = JSON.stringify({ model: "m", prompt: ["一", "走"], stream: true })
    const sent = fetch(url, { method: "POST", body, headers: { "content-type": "application/json" } })
    await expect(sent).rejects.toThrow()
    await expect.poll(() => closed.toSorted(), { timeout: 5000 }).toEqual(["一", "走"])
  })
})

describe("a prompt that was cut", () => {
  it("is told in a header, and in the last chunk of a stream", async () => {
    const url = await start({}, watched([], { cut: true }))
    expect((await post(url, ask)).headers.get("x-chatlm-prompt-cut")).toBe("true")
    const chunks = (await (await post(url, { ...ask, stream: true })).text())
      .split("\n\n")
      .filter((event) => event.includes("finish_reason"))
      .map(
        (event) => JSON.parse(event.slice(6)) as { prompt_cut?: true; choices: [{ finish_reason: unknown }] }
      )
    expect(chunks.filter((chunk) => chunk.prompt_cut === true)).toEqual([chunks.at(-1)])
    expect(chunks.at(-1)?.choices[0].finish_reason).toBe("stop")
    const whole = await start()
    expect(await (await post(whole, { ...ask, stream: true })).text()).not.toContain("prompt_cut")
  })
})
