/** OpenAI's objects from the pieces of answers: whole, or as server-sent events. No effects but streams. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

import type { AnswerPiece, GenerationSettings, RequestEnd } from "../../generate/generate.ts"
import type { ChatlmError } from "../../native/index.ts"
import type { ChatRequest, CompletionRequest, Usage } from "../api/openai.ts"

/** A piece of an answer to one of several prompts. */
export interface Part {
  readonly piece: AnswerPiece
  readonly prompt: number
  /** The number of this prompt's first choice. */
  readonly first: number
}

export interface Choice {
  readonly index: number
  readonly prompt: number
  readonly text: string
  readonly finishReason: "stop" | "length"
}

/** How chat and plain completions differ. */
export interface Form {
  readonly prefix: string
  readonly object: string
  readonly chunk: string
  readonly choice: (choice: Choice) => object
  /** A choice of a chunk with more text; undefined where a choice begins and has nothing to say of it. */
  readonly begin: (index: number, prompt: number) => object | undefined
  readonly more: (index: number, text: string) => object
  readonly end: (index: number, finishReason: string) => object
}

export const chatForm: Form = {
  prefix: "chatcmpl",
  object: "chat.completion",
  chunk: "chat.completion.chunk",
  choice: ({ index, text, finishReason }) => ({
    index,
    message: { role: "assistant", content: text, refusal: null },
    logprobs: null,
    finish_reason: finishReason
  }),
  begin: (index) => ({
    index,
    delta: { role: "assistant", content: "" },
    logprobs: null,
    finish_reason: null
  }),
  more: (index, text) => ({ index, delta: { content: text }, logprobs: null, finish_reason: null }),
  end: (index, finish_reason) => ({ index, delta: {}, logprobs: null, finish_reason })
}

/** With the prompts that are to be repeated before their answers. */
export const completionForm = (echo: ReadonlyArray<string>): Form => ({
  prefix: "cmpl",
  object: "text_completion",
  chunk: "text_completion",
  choice: ({ index, prompt, text, finishReason }) => ({
    index,
    text: (echo[prompt] ?? "") + text,
    logprobs: null,
    finish_reason: finishReason
  }),
  begin: (index, prompt) => {
    const text = echo[prompt]
    return text === undefined ? undefined : { index, text, logprobs: null, finish_reason: null }
  },
  more: (index, text) => ({ index, text, logprobs: null, finish_reason: null }),
  end: (index, finish_reason) => ({ index, text: "", logprobs: null, finish_reason })
})

/** The core counts in 32 bits. No memory holds so many, so the core refuses them with what there is. */
const mostTokens = 2 ** 31 - 1

/** The settings that a body asks for; what it does not name stays the server's. */
export const settingsFor = (
  body: ChatRequest | CompletionRequest,
  longest: number | null | undefined
): GenerationSettings => {
  const n = body.n ?? 1
  const temperature = body.temperature ?? undefined
  const topP = body.top_p ?? undefined
  // Several answers to one prompt can only be drawn.
  const draws = (temperature !== undefined && temperature > 0) || topP !== undefined || n > 1
  const greedy = temperature === 0 && n === 1
  const stop = typeof body.stop === "string" ? [body.stop] : body.stop
  return {
    ...(greedy ? { search: "greedy" } : draws ? { search: "sample" } : {}),
    ...(temperature === undefined || temperature === 0 ? {} : { temperature }),
    ...(topP === undefined || topP === 0 ? {} : { topP }),
    ...(n > 1 ? { answers: n } : {}),
    ...(longest === undefined || longest === null ? {} : { maxNewTokens: Math.min(longest, mostTokens) }),
    ...(body.seed === undefined || body.seed === null ? {} : { seed: Math.abs(body.seed) }),
    ...(stop === undefined || stop === null || stop.length === 0
      ? {}
      : { stop: stop.filter((text) => text !== "") })
  }
}

/** What the core says may name folders of this machine: it is for the log. */
export const couldNotAnswer = "the model could not answer; the server's log says why"

const reasonOf = (reason: string) => (reason === "stop" ? ("stop" as const) : ("length" as const))

/** The choices of requests that have ended. */
export const choicesOf = (
  ends: ReadonlyArray<{ readonly end: RequestEnd; readonly first: number; readonly prompt: number }>
): ReadonlyArray<Choice> =>
  ends.flatMap(({ end, first, prompt }) =>
    end.answers.map(({ response, finishReason }, place) => ({
      index: first + place,
      prompt,
      text: response,
      finishReason: reasonOf(finishReason)
    }))
  )

export const usageOf = (ends: ReadonlyArray<RequestEnd>): Usage => {
  const prompt_tokens = ends.reduce((sum, { promptTokens }) => sum + promptTokens, 0)
  const written = ends.flatMap(({ answers }) => answers.map(({ tokens }) => tokens.length))
  const completion_tokens = written.reduce((sum, tokens) => sum + tokens, 0)
  return { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
}

const event = (data: object | string) => `data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`

/** Server-sent events: a chunk a piece, then `[DONE]`. A failure in the middle is told as an event of its own. */
export const events = (
  form: Form,
  head: { readonly id: string; readonly created: number; readonly model: string },
  parts: Stream.Stream<Part, ChatlmError>,
  asked: { readonly prompts: number; readonly usage: boolean }
): Stream.Stream<string> =>
  Stream.suspend(() => {
    const begun = new Set<number>()
    const ends: Array<RequestEnd> = []
    const chunk = (choices: ReadonlyArray<object>, usage: Usage | null = null, more: object = {}) =>
      event({ ...head, object: form.chunk, choices, ...(asked.usage ? { usage } : {}), ...more })
    const begin = (index: number, prompt: number) => {
      if (begun.has(index)) return ""
      begun.add(index)
      const choice = form.begin(index, prompt)
      return choice === undefined ? "" : chunk([choice])
    }
    const said = ({ piece: { answer, text, end }, first, prompt }: Part): string => {
      if (!end) return begin(first + answer, prompt) + chunk([form.more(first + answer, text)])
      ends.push(end)
      // Headers are long gone: the last chunk of each choice tells it.
      const cut = end.cut ? { prompt_cut: true } : {}
      const last = end.answers.map(({ finishReason }, place) => {
        const [index, rest] = [first + place, end.rest[place] ?? ""]
        const more = rest === "" ? "" : chunk([form.more(index, rest)])
        const over = chunk([form.end(index, reasonOf(finishReason))], null, cut)
        return begin(index, prompt) + more + over
      })
      return last.join("")
    }
    const close = Stream.suspend(() =>
      Stream.succeed((asked.usage ? chunk([], usageOf(ends)) : "") + event("[DONE]"))
    )
    return parts.pipe(
      Stream.map(said),
      Stream.concat(close),
      Stream.catch((error) =>
        Stream.fromEffect(
          Effect.succeed(
            event({
              error: { message: couldNotAnswer, type: "server_error", param: null, code: error.code }
            })
          )
        )
      )
    )
  })
