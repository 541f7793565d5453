/** OpenAI's calls over the in-memory core, which repeats the prompt a character a piece. */
// Answers are read as a client without types reads them.
/* oxlint-disable typescript/no-explicit-any */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { afterEach, describe, expect, it } from "vitest"

import { serve } from "../../ts/http/index.ts"
import type { ServeOptions } from "../../ts/http/index.ts"
import { Native } from "../../ts/native/index.ts"

const running: Array<() => Promise<unknown>> = []
afterEach(async () => {
  for (const stop of running.splice(0)) await stop()
})

const start = async (options: Partial<ServeOptions> = {}) => {
  let ready: (address: string) => void = () => {}
  const address = new Promise<string>((done) => {
    ready = done
  })
  const fiber = Effect.runFork(
    serve({
      generator: { model: "models/little" },
      settings: {},
      host: "127.0.0.1",
      port: 0,
      apiKeys: [],
      onReady: (where) => Effect.sync(() => ready(where)),
      ...options
    }).pipe(Effect.provide(Native.testLayer()))
  )
  running.push(() => Effect.runPromise(Fiber.interrupt(fiber)))
  return address
}

const post = (url: string, path: string, body: unknown, headers: Record<string, string> = {}) =>
  fetch(`${url}${path}`, {
    method: "POST",
    body: typeof body === "string" ? body : JSON.stringify(body),
    headers: { "content-type": "application/json", ...headers }
  })

const chat = { model: "little", messages: [{ role: "user", content: "你好" }] }
const chatPath = "/v1/chat/completions"

/** The data of server-sent events. */
const data = async (response: Response) =>
  (await response.text())
    .split("\n\n")
    .filter((text) => text !== "")
    .map((text) => text.replace(/^data: /, ""))

describe("OpenAI's calls", () => {
  it("a chat completion has its shape, its usage and its reason", async () => {
    const url = await start()
    const response = await post(url, chatPath, { ...chat, unknown_field: { deep: [1] } })
    expect(response.status).toBe(200)
    const body = (await response.json()) as Record<string, unknown>
    expect(body).toMatchObject({
      object: "chat.completion",
      model: "little",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "你说：你好", refusal: null },
          finish_reason: "stop"
        }
      ],
      usage: { prompt_tokens: 3, completion_tokens: 6, total_tokens: 9 }
    })
    expect(String(body.id)).toMatch(/^chatcmpl-/)
  })

  it("content may be parts, the last question counts, and turns are told where they are wanted", async () => {
    const messages = [
      { role: "system", content: "简短" },
      { role: "user", content: "一" },
      { role: "assistant", content: "二" },
      { role: "user", content: [{ type: "text", text: "三" }] }
    ]
    const content = async (url: string) => {
      const response = await post(url, chatPath, { ...chat, messages })
      const body = (await response.json()) as { choices: ReadonlyArray<{ message: { content: string } }> }
      return body.choices[0]?.message.content
    }
    expect(await content(await start())).toBe("你说：三")
    expect(await content(await start({ turns: 2 }))).toBe("你说：系统：简短\n问：一\n答：二\n问：三")
  })

  it("streams chunks, the role first, the reason last, usage where it is asked for, then [DONE]", async () => {
    const url = await start()
    const body = { ...chat, stream: true, stream_options: { include_usage: true } }
    const response = await post(url, chatPath, body)
    expect(response.headers.get("content-type")).toContain("text/event-stream")
    const events = await data(response)
    expect(events.at(-1)).toBe("[DONE]")
    const chunks = events.slice(0, -1).map((text) => JSON.parse(text) as any)
    expect(new Set(chunks.map(({ id, object }) => `${id} ${object}`)).size).toBe(1)
    expect(chunks[0].choices[0].delta).toEqual({ role: "assistant", content: "" })
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe("你说：你好")
    expect(chunks.at(-2).choices[0]).toMatchObject({ delta: {}, finish_reason: "stop" })
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { total_tokens: 9 } })
    const plain = await data(await post(url, chatPath, { ...chat, stream: true }))
    expect(plain.some((text) => text.includes("usage"))).toBe(false)
  })

  it("several answers and several prompts have numbers of their own", async () => {
    const url = await start()
    const several = (await (await post(url, chatPath, { ...chat, n: 3 })).json()) as any
    expect(several.choices.map(({ index }: { index: number }) => index)).toEqual([0, 1, 2])
    const body = { model: "little", prompt: ["一", "二"], n: 2, echo: true }
    const completions = (await (await post(url, "/v1/completions", body)).json()) as any
    expect(completions.object).toBe("text_completion")
    expect(completions.choices.map((choice: any) => [choice.index, choice.text])).toEqual([
      [0, "一你说：一"],
      [1, "一你说：一"],
      [2, "二你说：二"],
      [3, "二你说：二"]
    ])
    const streamed = await data(await post(url, "/v1/completions", { ...body, stream: true }))
    const texts = ["", "", "", ""]
    for (const event of streamed.slice(0, -1)) {
      const choice = (JSON.parse(event) as any).choices[0]
      texts[choice.index] += choice.text
    }
    expect(texts).toEqual(completions.choices.map(({ text }: { text: string }) => text))
  })

  it("lists its one model and knows no other", async () => {
    const url = await start({ modelName: "mine" })
    const list = (await (await fetch(`${url}/v1/models`)).json()) as any
    expect(list).toMatchObject({
      object: "list",
      data: [{ id: "mine", object: "model", owned_by: "chatlm" }]
    })
    expect(((await (await fetch(`${url}/v1/models/mine`)).json()) as any).id).toBe("mine")
    for (const response of [await fetch(`${url}/v1/models/other`), await post(url, chatPath, chat)]) {
      expect(response.status).toBe(404)
      expect(await response.json()).toMatchObject({ error: { code: "model_not_found", param: "model" } })
    }
  })

  it("refuses in OpenAI's form, with the parameter", async () => {
    const url = await start({ apiKeys: ["key"] })
    const key = { authorization: "Bearer key" }
    const refused = await post(url, chatPath, chat)
    expect([refused.status, refused.headers.get("www-authenticate")]).toEqual([401, "Bearer"])
    expect(((await refused.json()) as any).error.code).toBe("invalid_api_key")
    for (const [path, body, param] of [
      [chatPath, { ...chat, tools: [{ type: "function" }] }, "tools"],
      [chatPath, { ...chat, logprobs: true }, "logprobs"],
      [chatPath, { ...chat, temperature: 3 }, "temperature"],
      [chatPath, { ...chat, messages: [] }, "messages"],
      [chatPath, { ...chat, messages: [{ role: "user", content: " " }] }, "messages"],
      [chatPath, { ...chat, n: 0 }, "n"],
      ["/v1/completions", { model: "little" }, "prompt"],
      ["/v1/completions", { model: "little", prompt: "a", best_of: 2 }, "best_of"]
    ] as const) {
      const response = await post(url, path, body, key)
      const { error } = (await response.json()) as any
      expect([response.status, error.param, error.type]).toEqual([400, param, "invalid_request_error"])
    }
  })

  it("what is no JSON, or too much of it, is refused in OpenAI's form too", async () => {
    const url = await start()
    for (const [body, type, status] of [
      ["{", "application/json", 400],
      ["[".repeat(100_000), "application/json", 400],
      [JSON.stringify(chat), "text/plain", 400],
      [JSON.stringify({ ...chat, pad: "x".repeat(1024 * 1024) }), "application/json", 413]
    ] as const) {
      const response = await post(url, chatPath, body, { "content-type": type })
      const { error } = (await response.json()) as any
      expect([response.status, error.type]).toEqual([status, "invalid_request_error"])
    }
    const text = await (await fetch(`${url}/metrics`)).text()
    expect(text).toMatch(/chatlm_http_responses_total\{status="413"\} \d/)
  })

  it("a path that is not there is 404, another method 405 with those there are", async () => {
    const url = await start()
    for (const [method, path, status, allow] of [
      ["GET", chatPath, 405, "POST"],
      ["DELETE", "/v1/models/little", 405, "GET, HEAD"],
      ["GET", "/v1/models/%ff", 404, null],
      ["POST", "/v1/nothing", 404, null]
    ] as const) {
      const response = await fetch(url + path, { method })
      const { error } = (await response.json()) as any
      expect([path, response.status, response.headers.get("allow")]).toEqual([path, status, allow])
      expect(error.type).toBe("invalid_request_error")
    }
    const other = await fetch(`${url}/api/chat`)
    expect([other.status, Object.keys((await other.json()) as object)]).toEqual([405, ["detail"]])
  })

  it("more requests than may wait are 429, with a time to come back", async () => {
    const url = await start({ limits: { waiting: 0 } })
    const response = await post(url, chatPath, chat)
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "1"])
    expect(((await response.json()) as any).error.code).toBe("rate_limit_exceeded")
  })

  it("tells its numbers to Prometheus", async () => {
    const url = await start()
    await post(url, chatPath, chat)
    const text = await (await fetch(`${url}/metrics`)).text()
    expect(text).toContain("chatlm_requests_answered_total 1")
    expect(text).toMatch(/chatlm_first_token_seconds_count \d/)
    expect((await fetch(`${url}/docs`)).status).toBe(200)
  })
})
