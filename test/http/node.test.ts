/** The application in servers that others have: Node's own and Express, over the in-memory core. */
import { createServer, request } from "node:http"
import type { RequestListener, Server } from "node:http"
import type { AddressInfo } from "node:net"

import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import express from "express"
import { afterEach, describe, expect, it } from "vitest"

import { makeNodeHandler } from "../../ts/http/embed.ts"
import type { NodeHandler, NodeHandlerOptions } from "../../ts/http/embed.ts"
import { memoryBorder, Native } from "../../ts/native/index.ts"
import type { Border } from "../../ts/native/index.ts"

const ends: Array<() => Promise<unknown>> = []
afterEach(async () => {
  for (const end of ends.splice(0)) await end()
})

const open = async (options: Partial<NodeHandlerOptions> = {}, border: Partial<Border> = {}) => {
  const scope = Scope.makeUnsafe()
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  ends.push(close)
  const handler = await makeNodeHandler({ model: "models/little", ...options }).pipe(
    Scope.provide(scope),
    Effect.provide(Native.testLayer(border)),
    Effect.runPromise
  )
  return { handler, close }
}

const listen = async (listener: RequestListener) => {
  const server: Server = createServer(listener)
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  ends.push(async () => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const json = { "content-type": "application/json" }
const chat = { model: "little", messages: [{ role: "user", content: "你好" }] }
const ask = (url: string, body: object = chat) =>
  fetch(`${url}/v1/chat/completions`, { method: "POST", headers: json, body: JSON.stringify(body) })
const content = async (response: Response) => {
  const body = (await response.json()) as { choices: ReadonlyArray<{ message: { content: string } }> }
  return body.choices[0]?.message.content
}
const status = async (url: string) => (await fetch(url)).status

/** An answer that waits until it is told to go on; `asked` is when it was asked for. */
const held = () => {
  let go: () => void = () => {}
  let told: () => void = () => {}
  const [gone, asked] = [
    new Promise<void>((done) => (go = done)),
    new Promise<void>((done) => (told = done))
  ] as const
  const order: Array<string> = []
  const border: Partial<Border> = {
    Serving: {
      load: async (options, limits) => {
        const serving = await memoryBorder().Serving.load(options, limits)
        return {
          info: serving.info,
          stats: () => serving.stats(),
          close: () => order.push("freed"),
          ask: (...args) => {
            const stream = serving.ask(...args)
            return {
              close: () => {
                order.push("closed")
                stream.close()
              },
              async *[Symbol.asyncIterator]() {
                told()
                await gone
                yield* stream
              }
            }
          }
        }
      }
    }
  }
  return { border, asked, go: () => go(), order }
}

describe("a handler for Node's server", () => {
  it("answers, streams, tells its health; there is no page", async () => {
    const url = await listen((await open()).handler)
    expect(await content(await ask(url))).toBe("你说：你好")
    const text = await (await ask(url, { ...chat, stream: true })).text()
    expect(text.trimEnd().endsWith("data: [DONE]")).toBe(true)
    expect(await (await fetch(`${url}/health`)).json()).toEqual({ status: "ok" })
    expect(await status(`${url}/`)).toBe(404)
  })

  it("a prefix is taken off, and what has another is not ours", async () => {
    const url = await listen((await open({ prefix: "chatlm/" })).handler)
    expect(await content(await ask(`${url}/chatlm`))).toBe("你说：你好")
    expect(await status(`${url}/chatlm/v1/models?x=1`)).toBe(200)
    for (const path of ["/v1/models", "/chatlm", "/chatlmx/v1/models", "/chatlm/nothing"]) {
      expect([path, await status(url + path)]).toEqual([path, 404])
    }
  })

  it("two models stand in one process, each under its name and keys", async () => {
    const one = await open({ prefix: "one", modelName: "one", apiKeys: ["1"] })
    const two = await open({ prefix: "two", modelName: "two", apiKeys: ["2"] })
    const url = await listen((asked, response) =>
      one.handler(asked, response, () => two.handler(asked, response))
    )
    const models = async (name: string, key: string) => {
      const response = await fetch(`${url}/${name}/v1/models`, {
        headers: { authorization: `Bearer ${key}` }
      })
      const body = (await response.json()) as { data?: ReadonlyArray<{ id: string }> }
      return [response.status, body.data?.[0]?.id]
    }
    expect(await models("one", "1")).toEqual([200, "one"])
    expect(await models("two", "2")).toEqual([200, "two"])
    expect(await models("two", "1")).toEqual([401, undefined])
    await one.close()
    expect(await models("two", "2")).toEqual([200, "two"])
  })

  it("a model that cannot be loaded is an error, not a handler", async () => {
    const border: Partial<Border> = {
      Serving: { load: () => Promise.reject(new Error("no such thing")) }
    }
    await expect(open({}, border)).rejects.toMatchObject({ _tag: "BugError" })
  })

  it("closing waits for what runs, refuses the rest, then frees the model", async () => {
    const { border, asked, go, order } = held()
    const { handler, close } = await open({}, border)
    const url = await listen(handler)
    const running = ask(url)
    await asked
    const closing = close()
    await expect.poll(() => status(`${url}/health`)).toBe(503)
    expect((await ask(url)).status).toBe(503)
    const late = await fetch(`${url}/api/chat`, { method: "POST", headers: json, body: '{"input_txt":"a"}' })
    expect([late.status, Object.keys((await late.json()) as object)]).toEqual([503, ["detail"]])
    go()
    expect(await content(await running)).toBe("你说：你好")
    await closing
    expect(order).toEqual(["closed", "freed"])
    const after = await ask(url)
    expect([after.status, await after.json()]).toMatchObject([503, { error: { type: "server_error" } }])
  })

  it("closing waits no longer than it is told to", async () => {
    const { border, asked, order } = held()
    const { handler, close } = await open({ drainSeconds: 0 }, border)
    const url = await listen(handler)
    const running = ask(url).then(
      (response) => response.status,
      () => "cut off"
    )
    await asked
    await close()
    expect(await running).not.toBe(200)
    expect(order.at(-1)).toBe("freed")
  })

  it("a client that goes away frees its place", async () => {
    const { border, asked, order } = held()
    const url = await listen((await open({}, border)).handler)
    const leaving = request(`${url}/v1/chat/completions`, { method: "POST", headers: json })
    leaving.on("error", () => {})
    leaving.end(JSON.stringify(chat))
    await asked
    leaving.destroy()
    await expect.poll(() => order).toEqual(["closed"])
  })
})

describe("a handler in Express", () => {
  const app = (...before: ReadonlyArray<NodeHandler>) => {
    const made = express()
    for (const handler of before) made.use(handler)
    return made
  }

  it("stands under a path, or lets others have what is not its own", async () => {
    const { handler } = await open()
    const under = app()
    under.use("/chatlm", handler)
    under.get("/hello", (_, response) => response.end("hello"))
    const url = await listen(under)
    expect(await content(await ask(`${url}/chatlm`))).toBe("你说：你好")
    expect(await (await fetch(`${url}/hello`)).text()).toBe("hello")

    const beside = app(handler)
    beside.get("/hello", (_, response) => response.end("hello"))
    const other = await listen(beside)
    expect(await content(await ask(other))).toBe("你说：你好")
    expect(await (await fetch(`${other}/hello`)).text()).toBe("hello")
    // A path of ours with a method that it has not is ours to refuse.
    expect(await status(`${other}/v1/chat/completions`)).toBe(405)
  })

  it("bodies that Express has read are not lost", async () => {
    // A trusted proxy's word changes the request, and its body is to be known all the same.
    const { handler } = await open({ trustedProxies: ["127.0.0.1/32"], rateLimit: 3 })
    for (const [place, parser] of [express.json(), express.text({ type: "*/*" })].entries()) {
      const url = await listen(
        app((asked, response, next = () => {}) => parser(asked, response, next), handler)
      )
      const body = JSON.stringify(chat)
      const headers = { ...json, "x-forwarded-for": `10.0.0.${place}` }
      const path = `${url}/v1/chat/completions`
      expect(await content(await fetch(path, { method: "POST", headers, body }))).toBe("你说：你好")
      expect((await fetch(path, { method: "POST", headers, body: '{"model":"little"}' })).status).toBe(400)
      expect(await status(`${url}/v1/models`)).toBe(200)
    }
  })
})
