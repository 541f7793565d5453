/** OpenAI's own client for JavaScript against the real program over a small model. */
import OpenAI, {
  APIError,
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  NotFoundError,
  RateLimitError
} from "openai"
import type { ChatCompletionCreateParamsNonStreaming } from "openai/resources/chat/completions"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { learning, makeModel, metric, startServer } from "./support.ts"

let model: Awaited<ReturnType<typeof makeModel>>
let server: Awaited<ReturnType<typeof startServer>>
/** One answer after another, each without an end, and one that may wait. */
let endless: Awaited<ReturnType<typeof startServer>>
let client: OpenAI
let busy: OpenAI

const clientOf = (url: string, options: ConstructorParameters<typeof OpenAI>[0] = {}) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: "key", maxRetries: 0, ...options })

beforeAll(async () => {
  model = await makeModel(learning)
  server = await startServer(model.ofLength(12), "--api-key", "key")
  endless = await startServer(
    model.ofLength(1_000_000),
    "--max-batch=1",
    "--max-queue=1",
    "--cache-memory=16GiB"
  )
  client = clientOf(server.url)
  busy = clientOf(endless.url)
}, 120_000)
afterAll(() => {
  for (const { child } of [server, endless]) child?.kill("SIGKILL")
  model.remove()
})

/** Drawn, since a model that has learnt nothing has but one best token. */
const drawn = {
  model: "m",
  messages: [{ role: "user" as const, content: "三只猫和五只猫" }],
  temperature: 1,
  seed: 7
}
type More = Partial<ChatCompletionCreateParamsNonStreaming>
const create = (more: More = {}) => client.chat.completions.create({ ...drawn, ...more })
const contentOf = async (more: More = {}) => (await create(more)).choices[0]?.message.content ?? ""

/** What a call is refused with. */
const refusal = async (call: PromiseLike<unknown>): Promise<APIError> => {
  try {
    await call
  } catch (error) {
    if (error instanceof APIError) return error
    throw error
  }
  throw new Error("it is not refused")
}

describe("chat completions", () => {
  it("have content, reason, usage and a name", async () => {
    const completion = await create()
    expect(completion).toMatchObject({
      object: "chat.completion",
      model: "m",
      choices: [
        {
          index: 0,
          message: { role: "assistant", refusal: null, content: expect.stringMatching(/./) },
          finish_reason: "length",
          logprobs: null
        }
      ]
    })
    expect(completion.id).toMatch(/^chatcmpl-/)
    expect(Math.abs(completion.created - Date.now() / 1000)).toBeLessThan(60)
    const { prompt_tokens = 0, completion_tokens, total_tokens } = completion.usage ?? {}
    expect([completion_tokens, total_tokens]).toEqual([12, prompt_tokens + 12])
    expect(prompt_tokens).toBeGreaterThan(1)
  })

  it("a seed gives the same answer, another one another", async () => {
    expect(await contentOf()).toBe(await contentOf())
    expect(await contentOf({ seed: 8 })).not.toBe(await contentOf())
    // Clients draw them of 64 bits.
    for (const seed of [-8, 2 ** 53 + 2, 2 ** 63, -(2 ** 63)]) expect(await contentOf({ seed })).not.toBe("")
  })

  it("stream the same as they say at once, with usage where it is asked for", async () => {
    const stream = await client.chat.completions.create({
      ...drawn,
      stream: true,
      stream_options: { include_usage: true }
    })
    const chunks: Array<OpenAI.ChatCompletionChunk> = []
    for await (const chunk of stream) chunks.push(chunk)
    const text = chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")
    expect(text).toBe(await contentOf())
    expect(chunks[0]?.choices[0]?.delta.role).toBe("assistant")
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe("length")
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 12 } })
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true)
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1)
  })

  it("the helper for streams puts them together again", async () => {
    let seen = ""
    const one = client.chat.completions.stream(drawn).on("content", (delta) => (seen += delta))
    await one.done()
    const stream = client.chat.completions.stream({
      ...drawn,
      n: 2,
      stream_options: { include_usage: true }
    })
    const { choices, usage } = await stream.finalChatCompletion()
    const whole = await create({ n: 2 })
    expect(choices.map(({ message }) => message.content)).toEqual(
      whole.choices.map(({ message }) => message.content)
    )
    expect(choices.map(({ finish_reason }) => finish_reason)).toEqual(["length", "length"])
    expect(usage).toEqual(whole.usage)
    expect(seen).toBe(await contentOf())
  })

  it("n answers are numbered and differ; their usage is one", async () => {
    const { choices, usage } = await create({ n: 3 })
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2])
    expect(new Set(choices.map(({ message }) => message.content)).size).toBe(3)
    expect(usage?.completion_tokens).toBe(36)
  })

  it("end before a stop, in a stream too", async () => {
    const text = await contentOf()
    const stop = text.slice(3, 5)
    const before = text.slice(0, text.indexOf(stop))
    for (const given of [stop, ["never said", stop]]) {
      const { choices } = await create({ stop: given })
      expect(choices[0]).toMatchObject({ finish_reason: "stop", message: { content: before } })
    }
    const stream = client.chat.completions.stream({ ...drawn, stop })
    const { choices } = await stream.finalChatCompletion()
    expect(choices[0]).toMatchObject({ finish_reason: "stop", message: { content: before } })
  })

  it("have so many tokens at most, by either name", async () => {
    for (const limit of [{ max_tokens: 3 }, { max_completion_tokens: 3 }]) {
      const { choices, usage } = await create(limit)
      expect([choices[0]?.finish_reason, usage?.completion_tokens]).toEqual(["length", 3])
    }
  })

  it("take content in parts, and fields that are not known here", async () => {
    const parts = [
      { type: "text" as const, text: "三只猫" },
      { type: "text" as const, text: "和五只猫" }
    ]
    const together = { role: "user" as const, content: "三只猫\n和五只猫" }
    expect(await contentOf({ messages: [{ role: "user", content: parts }] })).toBe(
      await contentOf({ messages: [together] })
    )
    const more = { user: "u", store: false, metadata: { a: "b" }, presence_penalty: 0, tools: [] }
    expect(await contentOf({ ...more, response_format: { type: "text" } })).toBe(await contentOf())
  })
})

describe("completions", () => {
  it("answer each of several prompts, the prompt before it where that is wanted", async () => {
    const asked = { model: "m", prompt: ["一只狗", "两只狗"], temperature: 1, seed: 7, n: 2 }
    const { choices, usage, object } = await client.completions.create(asked)
    expect([object, choices.map(({ index }) => index)]).toEqual(["text_completion", [0, 1, 2, 3]])
    expect(usage?.completion_tokens).toBe(48)
    const echoed = await client.completions.create({ ...asked, echo: true })
    expect(echoed.choices.map(({ text }) => text)).toEqual(
      choices.map(({ text }, place) => `${place < 2 ? "一只狗" : "两只狗"}${text}`)
    )
    const texts = ["", "", "", ""]
    const reasons: Array<string | null> = []
    for await (const { choices: parts } of await client.completions.create({ ...asked, stream: true })) {
      for (const { index, text, finish_reason } of parts) {
        texts[index] += text
        if (finish_reason) reasons.push(finish_reason)
      }
    }
    expect(texts).toEqual(choices.map(({ text }) => text))
    expect(reasons).toEqual(["length", "length", "length", "length"])
  })

  it("one prompt is one choice", async () => {
    const { choices } = await client.completions.create({ model: "m", prompt: "一只狗", max_tokens: 2 })
    expect(choices).toHaveLength(1)
  })
})

describe("models", () => {
  it("are listed and found by name", async () => {
    const listed: Array<string> = []
    for await (const { id } of client.models.list()) listed.push(id)
    expect(listed).toEqual(["m"])
    expect(await client.models.retrieve("m")).toMatchObject({ id: "m", object: "model", owned_by: "chatlm" })
  })
})

describe("errors", () => {
  it("404 names the model that is not there", async () => {
    for (const call of [
      client.models.retrieve("gpt-5"),
      create({ model: "gpt-5" }),
      client.completions.create({ model: "gpt-5", prompt: "a" })
    ]) {
      const error = await refusal(call)
      expect(error).toBeInstanceOf(NotFoundError)
      expect([error.code, error.param]).toEqual(["model_not_found", "model"])
      expect(error.message).toContain("gpt-5")
    }
  })

  it("401 for another key", async () => {
    const error = await refusal(clientOf(server.url, { apiKey: "other" }).models.list())
    expect(error).toBeInstanceOf(AuthenticationError)
    expect(error.code).toBe("invalid_api_key")
  })

  it("400 names what cannot be had, and what is wrong", async () => {
    const image = { type: "image_url" as const, image_url: { url: "data:image/png;base64," } }
    const tool = { type: "function" as const, function: { name: "f" } }
    for (const [body, param] of [
      [{ tools: [tool] }, "tools"],
      [{ logprobs: true }, "logprobs"],
      [{ top_logprobs: 3 }, "top_logprobs"],
      [{ functions: [{ name: "f" }] }, "functions"],
      [{ temperature: 9 }, "temperature"],
      [{ max_tokens: 0 }, "max_tokens"],
      [{ seed: 0.5 }, "seed"],
      [{ stop: ["1", "2", "3", "4", "5"] }, "stop"],
      [{ messages: [] }, "messages"],
      [{ messages: [{ role: "user", content: [image] }] }, "messages[0].content[0].type"],
      [{ messages: [{ role: "tool", tool_call_id: "1", content: "a" }] }, "messages[0].role"]
    ] as const) {
      const error = await refusal(create(body as object))
      expect(error).toBeInstanceOf(BadRequestError)
      expect([error.type, error.param]).toEqual(["invalid_request_error", param])
      expect(error.message).toContain(param)
    }
    // More than there is memory for; the number does not go round in 32 bits.
    expect((await refusal(create({ max_tokens: 2 ** 32 + 2 }))).message).toContain("ask for fewer")
    const error = await refusal(client.completions.create({ model: "m", prompt: "a", logprobs: 2 }))
    expect([error.status, error.param]).toEqual([400, "logprobs"])
  })
})

describe("under load", () => {
  const begin = async (signal?: AbortSignal) => {
    const stream = await busy.chat.completions.create({ ...drawn, stream: true }, { signal: signal ?? null })
    const iterator = stream[Symbol.asyncIterator]()
    await iterator.next()
    return { stream, iterator }
  }
  const running = async (wanted: number) =>
    expect.poll(() => metric(endless.url, "requests_running"), { timeout: 20_000 }).toBe(wanted)

  it("a stream that is left or aborted frees its place", async () => {
    const left = await begin()
    await running(1)
    left.stream.controller.abort()
    await running(0)
    const abort = new AbortController()
    const { iterator } = await begin(abort.signal)
    await running(1)
    abort.abort()
    // The client ends the loop of whoever reads; what was asked for whole is an error.
    for (;;) if ((await iterator.next()).done === true) break
    await running(0)
    const whole = new AbortController()
    const asked = busy.chat.completions.create(drawn, { signal: whole.signal })
    const outcome = refusal(asked)
    await running(1)
    whole.abort()
    expect(await outcome).toBeInstanceOf(APIUserAbortError)
    await running(0)
  })

  it("429 where the queue is full; the client comes back by itself and is answered", async () => {
    const { stream } = await begin()
    const second = new AbortController()
    const waiting = refusal(busy.chat.completions.create(drawn, { signal: second.signal }))
    await expect.poll(() => metric(endless.url, "requests_waiting"), { timeout: 20_000 }).toBe(1)
    const error = await refusal(busy.chat.completions.create(drawn))
    expect(error).toBeInstanceOf(RateLimitError)
    expect([error.code, error.headers?.get("retry-after")]).toEqual(["rate_limit_exceeded", "1"])
    const patient = clientOf(endless.url, { maxRetries: 30 })
    const later = patient.chat.completions.create({ ...drawn, max_tokens: 2 })
    const refused = () => metric(endless.url, "requests_refused_total")
    await expect.poll(refused, { timeout: 20_000 }).toBeGreaterThan(1)
    stream.controller.abort()
    second.abort()
    expect((await later).usage?.completion_tokens).toBe(2)
    expect(await waiting).toBeInstanceOf(APIUserAbortError)
  })
})
