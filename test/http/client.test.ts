/** Our own typed client against the real program over a small model, and against servers that misbehave. */
import { createServer } from "node:http"
import type { ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

import { makeClient } from "chatlm/client"
import type { ClientError, ClientService } from "chatlm/client"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"

import { learning, makeModel, metric, startServer } from "./support.ts"

let model: Awaited<ReturnType<typeof makeModel>>
let server: Awaited<ReturnType<typeof startServer>>
let endless: Awaited<ReturnType<typeof startServer>>
beforeAll(async () => {
  model = await makeModel(learning)
  server = await startServer(model.ofLength(12), "--api-key", "key")
  endless = await startServer(
    model.ofLength(1_000_000),
    "--max-batch=1",
    "--max-queue=1",
    "--cache-memory=16GiB"
  )
}, 120_000)
const fakes: Array<() => void> = []
afterEach(() => {
  for (const close of fakes.splice(0)) close()
})
afterAll(() => {
  for (const { child } of [server, endless]) child?.kill("SIGKILL")
  model.remove()
})

const at = <A, E>(
  work: (client: ClientService) => Effect.Effect<A, E>,
  baseUrl = server.url,
  apiKey: string | Redacted.Redacted = Redacted.make("key")
) =>
  Effect.runPromise(
    Effect.flatMap(makeClient({ baseUrl, apiKey }), work).pipe(Effect.provide(FetchHttpClient.layer))
  )
const failing = <A>(
  work: (client: ClientService) => Effect.Effect<A, ClientError>,
  baseUrl = server.url,
  apiKey = "key"
): Promise<ClientError> => at((client) => Effect.flip(work(client)), baseUrl, apiKey)

const drawn = {
  model: "m",
  messages: [{ role: "user" as const, content: "三只猫和五只猫" }],
  temperature: 1,
  seed: 7
}
const comesTo = (name: string) => (wanted: number) =>
  expect.poll(() => metric(endless.url, name), { timeout: 20_000 }).toBe(wanted)
const running = comesTo("requests_running")
const waits = comesTo("requests_waiting")

describe("the client", () => {
  it("gets a chat completion, whole, in chunks and as text", async () => {
    const whole = await at((client) => client.chat(drawn))
    expect(whole.usage.completion_tokens).toBe(12)
    const content = whole.choices[0]?.message.content
    const chunks = await at((client) =>
      Stream.runCollect(client.chatStream({ ...drawn, stream_options: { include_usage: true } }))
    )
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe(content)
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe("length")
    expect(chunks.at(-1)?.usage).toEqual(whole.usage)
    const pieces = await at((client) => Stream.runCollect(client.chatText({ ...drawn, n: 2 })))
    const first = (await at((client) => client.chat({ ...drawn, n: 2 }))).choices[0]
    expect(pieces.length).toBeGreaterThan(3)
    expect(pieces.join("")).toBe(first?.message.content)
  })

  it("gets completions, whole and in chunks", async () => {
    const asked = { model: "m", prompt: ["一只狗", "两只狗"], temperature: 1, seed: 7 } as const
    const whole = await at((client) => client.complete(asked))
    const chunks = await at((client) => Stream.runCollect(client.completeStream(asked)))
    const texts = ["", ""]
    for (const { choices } of chunks) for (const { index, text } of choices) texts[index] += text
    expect(texts).toEqual(whole.choices.map(({ text }) => text))
  })

  it("knows the models and the health", async () => {
    expect((await at((client) => client.models)).map(({ id }) => id)).toEqual(["m"])
    expect((await at((client) => client.model("m"))).owned_by).toBe("chatlm")
    await at((client) => client.health)
  })

  it("a refusal is an error with OpenAI's fields", async () => {
    const missing = { _tag: "ApiError", status: 404, code: "model_not_found", param: "model" }
    expect(await failing((client) => client.model("other"))).toMatchObject(missing)
    expect(await failing((client) => client.chat({ ...drawn, model: "other" }))).toMatchObject(missing)
    const stream = (client: ClientService) => Stream.runDrain(client.chatStream({ ...drawn, model: "other" }))
    expect(await failing(stream)).toMatchObject(missing)
    const wrong = await failing((client) => client.models, server.url, "other")
    expect(wrong).toMatchObject({ _tag: "ApiError", status: 401, code: "invalid_api_key" })
    const silent = [{ role: "user" as const, content: " " }]
    const refused = await failing((client) => client.chat({ ...drawn, messages: silent }))
    expect(refused).toMatchObject({ status: 400, param: "messages", type: "invalid_request_error" })
  })

  it("what the server would refuse by its shape is not sent", async () => {
    for (const more of [{ temperature: 9 }, { tools: [{}] }]) {
      const error = await failing((client) => client.chat({ ...drawn, ...more }))
      expect(error._tag).toBe("SchemaError")
    }
  })

  it("a reader that stops or is interrupted frees the place; a full queue says when to come back", async () => {
    const taken = await at((client) => Stream.runCollect(Stream.take(client.chatText(drawn), 2)), endless.url)
    expect(taken).toHaveLength(2)
    await running(0)
    await at(
      (client) =>
        Effect.gen(function* () {
          const fiber = yield* Effect.forkChild(Stream.runDrain(client.chatText(drawn)))
          yield* Effect.promise(() => running(1))
          const waiting = yield* Effect.forkChild(Stream.runDrain(client.chatText(drawn)))
          yield* Effect.promise(() => waits(1))
          expect(yield* Effect.flip(client.chat(drawn))).toMatchObject({
            status: 429,
            code: "rate_limit_exceeded",
            retryAfter: 1
          })
          yield* Fiber.interrupt(waiting)
          yield* Effect.promise(() => waits(0))
          yield* Fiber.interrupt(fiber)
        }),
      endless.url
    )
    await running(0)
  })
})

describe("a server that misbehaves", () => {
  const fake = async (answer: (response: ServerResponse) => void) => {
    const made = createServer((_, response) => answer(response)).listen(0, "127.0.0.1")
    fakes.push(() => {
      made.closeAllConnections()
      made.close()
    })
    await new Promise((done) => made.once("listening", done))
    return `http://127.0.0.1:${(made.address() as AddressInfo).port}`
  }
  const chunk = (content: string) => {
    const head = { id: "1", object: "chat.completion.chunk", created: 1, model: "m" }
    const choice = { index: 0, delta: { content }, logprobs: null, finish_reason: null }
    return `data: ${JSON.stringify({ ...head, choices: [choice] })}\n\n`
  }
  const error = JSON.stringify({ error: { message: "no", type: "server_error", param: null, code: "X" } })
  /** What was read before the failure, and the failure. */
  const read = async (url: string) => {
    const texts: Array<string> = []
    const failure = await failing(
      (client) => Stream.runForEach(client.chatText(drawn), (text) => Effect.sync(() => texts.push(text))),
      url
    )
    return [texts.join(""), failure] as const
  }

  it("an answer without an end, an error in its middle, an event that is none of ours", async () => {
    for (const [rest, expected] of [
      ["", { _tag: "ApiError", message: "the answer broke off before its end" }],
      [`data: ${error}\n\n`, { _tag: "ApiError", status: 200, code: "X" }],
      ['data: {"other":1}\n\n', { _tag: "SchemaError" }]
    ] as const) {
      const url = await fake((response) => {
        response.writeHead(200, { "content-type": "text/event-stream" })
        // In pieces that end where they like.
        const bytes = Buffer.from(chunk("你") + chunk("好") + rest)
        response.write(bytes.subarray(0, 130))
        setImmediate(() => response.end(bytes.subarray(130)))
      })
      const [text, failure] = await read(url)
      expect(text).toBe("你好")
      expect(failure).toMatchObject(expected)
    }
  })

  it("a connection that breaks is an error of the connection", async () => {
    const url = await fake((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" })
      response.write(chunk("你"), () => response.destroy())
    })
    const [, failure] = await read(url)
    expect(failure._tag).toBe("HttpClientError")
  })

  it("a proxy's own words are the message", async () => {
    const url = await fake((response) => response.writeHead(502).end("bad gateway"))
    expect(await failing((client) => client.models, url)).toMatchObject({
      _tag: "ApiError",
      status: 502,
      message: "bad gateway"
    })
  })
})
