import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { afterEach, describe, expect, it } from "vitest"

import { serve } from "../../ts/http/index.ts"
import type { ServeOptions } from "../../ts/http/index.ts"
import type { AnswerStream, Border } from "../../ts/native/index.ts"
import { envelope, memoryBorder, Native } from "../../ts/native/index.ts"

const running: Array<() => Promise<unknown>> = []
afterEach(async () => {
  for (const stop of running.splice(0)) await stop()
})

/** Starts a server on a free port; answers its address and a way to end it. */
const start = async (options: Partial<ServeOptions> = {}, border: Partial<Border> = {}) => {
  let ready: (address: string) => void = () => {}
  const address = new Promise<string>((done) => {
    ready = done
  })
  const fiber = Effect.runFork(
    serve({
      generator: { model: "m", dtype: "f32" },
      settings: {},
      host: "127.0.0.1",
      port: 0,
      apiKeys: [],
      onReady: (where) => Effect.sync(() => ready(where)),
      ...options
    }).pipe(Effect.provide(Native.testLayer(border)))
  )
  const stop = () => Effect.runPromise(Fiber.interrupt(fiber))
  running.push(stop)
  return { url: await address, stop }
}

/** The in-memory service, with an `ask`, a `load` or a `close` of the test's own. */
const servingWith = (own: {
  readonly load?: () => Promise<void>
  readonly close?: () => void
  readonly ask?: (ask: () => AnswerStream) => AnswerStream
}): Partial<Border> => ({
  Serving: {
    load: async (options, limits) => {
      await own.load?.()
      const serving = await memoryBorder().Serving.load(options, limits)
      return {
        info: serving.info,
        stats: () => serving.stats(),
        close: () => own.close?.(),
        ask: (...args) => (own.ask ?? ((ask) => ask()))(() => serving.ask(...args))
      }
    }
  }
})

const ask = (url: string, body: string, headers: Record<string, string> = {}) =>
  fetch(`${url}/api/chat`, {
    method: "POST",
    body,
    headers: { "content-type": "application/json", ...headers }
  })

describe("POST /api/chat", () => {
  it("clients take turns: by key where keys are asked for, else by address", async () => {
    const clients: Array<string | null | undefined> = []
    const border: Partial<Border> = {
      Serving: {
        load: async (options, limits) => {
          const serving = await memoryBorder().Serving.load(options, limits)
          return {
            info: serving.info,
            stats: () => serving.stats(),
            close: () => {},
            ask: (prompt, settings, asked) => {
              clients.push(asked.client)
              return serving.ask(prompt, settings, asked)
            }
          }
        }
      }
    }
    const open = await start({}, border)
    for (const key of ["a", "b"]) {
      await ask(open.url, '{"input_txt":"你好"}', { authorization: `Bearer ${key}` })
    }
    const closed = await start({ apiKeys: ["a", "b"] }, border)
    for (const key of ["a", "b", "a"]) {
      await ask(closed.url, '{"input_txt":"你好"}', { authorization: `Bearer ${key}` })
    }
    const [first, second, a, b, again] = clients
    expect([first, second]).toEqual(["127.0.0.1", "127.0.0.1"])
    expect([a === again, a === b, a?.length]).toEqual([true, false, 64])
  })

  it("answers", async () => {
    const { url } = await start()
    const response = await ask(url, '{"input_txt":"你好"}')
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({ response: "你说：你好" })
  })

  it("406 for an empty text, 422 for a wrong shape, both with detail and nothing else", async () => {
    const { url } = await start()
    for (const [body, status] of [
      ['{"input_txt":""}', 406],
      ['{"input_txt":"  "}', 406],
      ["{}", 422],
      ['{"input_txt":3}', 422],
      ['["a"]', 422],
      ["not JSON", 422],
      ["", 422]
    ] as const) {
      const response = await ask(url, body)
      expect([body, response.status]).toEqual([body, status])
      expect(Object.keys((await response.json()) as object)).toEqual(["detail"])
    }
  })

  it("another content type is 422, a body over the limit 413, chunked or not", async () => {
    const { url } = await start()
    const form = await fetch(`${url}/api/chat`, {
      method: "POST",
      body: new URLSearchParams({ input_txt: "a" })
    })
    expect([form.status, Object.keys((await form.json()) as object)]).toEqual([422, ["detail"]])
    const large = JSON.stringify({ input_txt: "a".repeat(2 ** 21) })
    const whole = await ask(url, large)
    expect([whole.status, Object.keys((await whole.json()) as object)]).toEqual([413, ["detail"]])
    const chunked = await fetch(`${url}/api/chat`, {
      method: "POST",
      body: new Blob([large]).stream(),
      duplex: "half",
      headers: { "content-type": "application/json" }
    } as RequestInit).catch(() => undefined)
    // The server may close the connection before the client has sent it all.
    if (chunked !== undefined) expect(chunked.status).toBe(413)
  })

  it("where a key is set, a missing or wrong one is 401 with WWW-Authenticate", async () => {
    const { url } = await start({ apiKeys: ["other", "secret"] })
    for (const headers of [{}, { authorization: "Bearer wrong" }, { authorization: "Basic secret" }]) {
      const response = await ask(url, '{"input_txt":"你好"}', headers as Record<string, string>)
      expect(response.status).toBe(401)
      expect(response.headers.get("www-authenticate")).toBe("Bearer")
      expect(Object.keys((await response.json()) as object)).toEqual(["detail"])
    }
    expect((await ask(url, '{"input_txt":"你好"}', { authorization: "Bearer secret" })).status).toBe(200)
    expect((await fetch(`${url}/health`)).status).toBe(200)
  })

  it("where none is set, any bearer passes", async () => {
    const { url } = await start()
    expect((await ask(url, '{"input_txt":"你好"}', { authorization: "Bearer Bearer" })).status).toBe(200)
  })

  it("a model that fails is 500 with detail, and the server lives on", async () => {
    const failing = servingWith({
      ask: () => ({
        close: () => {},
        // eslint-disable-next-line require-yield
        async *[Symbol.asyncIterator](): AsyncGenerator<never> {
          throw envelope("NOT_FINITE", "the logits are not finite", "train less")
        }
      })
    })
    const { url } = await start({}, failing)
    expect((await ask(url, '{"input_txt":"你好"}')).status).toBe(500)
    expect((await fetch(`${url}/health`)).status).toBe(200)
  })
})

describe("the server", () => {
  it("tells its health and its schema", async () => {
    const { url } = await start()
    const health = await fetch(`${url}/health`)
    expect([health.status, await health.json()]).toEqual([200, { status: "ok" }])
    const schema = (await (await fetch(`${url}/openapi.json`)).json()) as { paths: object }
    expect(Object.keys(schema.paths)).toContain("/api/chat")
    expect((await fetch(`${url}/nowhere`)).status).toBe(404)
  })

  it("is 503 while the model is loading", async () => {
    let finish: () => void = () => {}
    const loading = new Promise<void>((done) => {
      finish = done
    })
    const free = createServer().listen(0, "127.0.0.1")
    await new Promise((done) => free.once("listening", done))
    const { port } = free.address() as AddressInfo
    await new Promise((done) => free.close(done))
    const started = start({ port }, servingWith({ load: () => loading }))
    const url = `http://127.0.0.1:${port}`
    for (;;) {
      const response = await fetch(`${url}/health`).catch(() => undefined)
      if (response !== undefined) {
        expect([response.status, await response.json()]).toEqual([503, { status: "loading" }])
        break
      }
      await new Promise((done) => setTimeout(done, 10))
    }
    finish()
    await started
    expect((await fetch(`${url}/health`)).status).toBe(200)
  })

  it("a taken port is PORT_IN_USE", async () => {
    const { url } = await start()
    const port = Number(new URL(url).port)
    const error = await Effect.runPromise(
      Effect.flip(
        serve({
          generator: { model: "m", dtype: "f32" },
          settings: {},
          host: "127.0.0.1",
          port,
          apiKeys: [],
          onReady: () => Effect.void
        }).pipe(Effect.provide(Native.testLayer()))
      )
    )
    expect(error).toMatchObject({ _tag: "EnvironmentError", code: "PORT_IN_USE" })
    expect(error.message).toContain(String(port))
  })

  it("drains: a running answer ends, then the model is freed", async () => {
    const order: Array<string> = []
    let asked: () => void = () => {}
    const answering = new Promise<void>((done) => {
      asked = done
    })
    const slow = servingWith({
      close: () => order.push("freed"),
      ask: (go) => {
        const stream = go()
        return {
          close: () => stream.close(),
          async *[Symbol.asyncIterator]() {
            asked()
            await new Promise((done) => setTimeout(done, 200))
            order.push("answered")
            yield* stream
          }
        }
      }
    })
    const { url, stop } = await start({}, slow)
    const response = ask(url, '{"input_txt":"你好"}')
    await answering
    await stop()
    expect((await response).status).toBe(200)
    expect(order).toEqual(["answered", "freed"])
    await expect(fetch(`${url}/health`)).rejects.toThrow()
  })

  it("a client that goes away frees its place", async () => {
    let closed = false
    const endless = servingWith({
      ask: () => ({
        close: () => {
          closed = true
        },
        async *[Symbol.asyncIterator]() {
          for (let tokens = 1; !closed; tokens += 1) {
            await new Promise((done) => setTimeout(done, 5))
            yield { answer: 0, text: "字", tokens }
          }
        }
      })
    })
    const { url } = await start({}, endless)
    const abort = new AbortController()
    const response = fetch(`${url}/api/chat`, {
      method: "POST",
      body: '{"input_txt":"你好"}',
      headers: { "content-type": "application/json" },
      signal: abort.signal
    })
    setTimeout(() => abort.abort(), 50)
    await expect(response).rejects.toThrow()
    await expect.poll(() => closed, { timeout: 5000 }).toBe(true)
  })
})
