/** The handlers of OpenAI's calls. What one asked for and what came of it are put into words in `completion.ts`. */
import { randomUUID } from "node:crypto"

import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Stream from "effect/Stream"

import type { GenerationSettings } from "../../generate/generate.ts"
import type { ChatlmError } from "../../native/index.ts"
import { Api } from "../api/chat.ts"
import { OpenAiKey, OpenAiShape } from "../api/openai.ts"
import type { ChatRequest, CompletionRequest, ErrorBody } from "../api/openai.ts"
import { Answering, ApiKeys } from "./answering.ts"
import {
  chatForm,
  choicesOf,
  completionForm,
  couldNotAnswer,
  events,
  settingsFor,
  usageOf
} from "./completion.ts"
import type { Form, Part } from "./completion.ts"
import { promptsOf } from "./conversation.ts"
import { keyCheck } from "./keys.ts"
import { CurrentRecord, recordEnd } from "./log.ts"
import { observe } from "./metrics.ts"

/** An error as OpenAI's clients read it. */
export const refuse = (
  status: number,
  message: string,
  fields: { readonly type?: string; readonly param?: string; readonly code?: string } = {},
  headers: Record<string, string> = {}
) => {
  const { type = "invalid_request_error", param = null, code = null } = fields
  const body: ErrorBody = { error: { message, type, param, code } }
  return HttpServerResponse.jsonUnsafe(body, { status, headers })
}

/** A failure of the core as a response. */
const failed = (error: ChatlmError) => {
  if (error.code === "QUEUE_FULL") {
    const fields = { type: "requests", code: "rate_limit_exceeded" }
    return refuse(429, `${error.message}; ${error.help}`, fields, { "retry-after": "1" })
  }
  if (error.code === "USAGE") return refuse(400, `${error.message}; ${error.help}`)
  return refuse(500, couldNotAnswer, {
    type: "server_error",
    code: error.code
  })
}

export const OpenAiKeyLayer = Layer.effect(
  OpenAiKey,
  Effect.map(Effect.map(ApiKeys, keyCheck), (allowed) => ({
    bearer: (handler, { credential }) =>
      allowed(Redacted.value(credential))
        ? handler
        : Effect.succeed(
            refuse(
              401,
              "the bearer key is missing or wrong",
              { code: "invalid_api_key" },
              { "www-authenticate": "Bearer" }
            )
          )
  }))
)

const issues = SchemaIssue.makeFormatterStandardSchemaV1()

const pathOf = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined): string =>
  (path ?? [])
    .map((part) => (typeof part === "object" ? part.key : part))
    .map((part, at) => (typeof part === "number" ? `[${part}]` : `${at === 0 ? "" : "."}${String(part)}`))
    .join("")

export const OpenAiShapeLayer = HttpApiMiddleware.layerSchemaErrorTransform(OpenAiShape, (error) => {
  const issue = issues(error.cause.issue).issues[0]
  const param = pathOf(issue?.path)
  const reason = issue?.message.split("\n")[0] ?? "the body has the wrong shape"
  return Effect.succeed(
    refuse(400, param === "" ? reason : `${param}: ${reason}`, param === "" ? {} : { param })
  )
})

const streamHeaders = { "cache-control": "no-store", "x-accel-buffering": "no" }

/** All prompts at work, and how to tell of them; each with what to ask where there is no room for it. */
const answer = (
  form: Form,
  prompts: ReadonlyArray<readonly [prompt: string, ...shorter: ReadonlyArray<string>]>,
  body: ChatRequest | CompletionRequest,
  settings: GenerationSettings
) =>
  Effect.gen(function* () {
    const answering = yield* Answering
    // Known here alone: a stream is run when the request's own services are gone.
    const record = yield* CurrentRecord
    // Where one is refused those before it would run for nobody, and so would all where the client left before its
    // stream has begun. Closing what is over does nothing.
    const taken: Array<Effect.Effect<void>> = []
    yield* Effect.addFinalizer(() => Effect.all(taken, { discard: true }))
    const streams: Array<Stream.Stream<Part, ChatlmError>> = []
    const n = settings.answers ?? 1
    for (const [place, [prompt, ...shorter]] of prompts.entries()) {
      // Reading a prompt takes this thread: between two of them others have their turn.
      if (place > 0) yield* Effect.yieldNow
      const { pieces, close } = yield* answering.ask(prompt, settings, shorter)
      taken.push(close)
      streams.push(
        pieces.pipe(
          Stream.tap(({ end }) => {
            if (end === undefined || end === null) return Effect.void
            recordEnd(record, end)
            return observe(end)
          }),
          Stream.map((piece) => ({ piece, prompt: place, first: place * n }))
        )
      )
    }
    const parts = Stream.mergeAll(streams, { concurrency: "unbounded" })
    const head = {
      id: `${form.prefix}-${randomUUID()}`,
      created: Math.floor(Date.now() / 1000),
      model: body.model
    }
    if (body.stream === true) {
      const usage = body.stream_options?.include_usage === true
      const logged = parts.pipe(
        Stream.tapError((error) =>
          Effect.annotateLogs(Effect.logError(error.message), "id", record?.id ?? "")
        )
      )
      const texts = events(form, head, logged, { prompts: prompts.length, usage })
      return HttpServerResponse.stream(texts.pipe(Stream.encodeText), {
        contentType: "text/event-stream; charset=utf-8",
        headers: streamHeaders
      })
    }
    const all = yield* Stream.runCollect(parts)
    const ends = all
      .flatMap(({ piece, first, prompt }) => (piece.end ? [{ end: piece.end, first, prompt }] : []))
      .sort((a, b) => a.first - b.first)
    const choices = choicesOf(ends).map((choice) => form.choice(choice))
    const cut = ends.some(({ end }) => end.cut)
    return HttpServerResponse.jsonUnsafe(
      { ...head, object: form.object, choices, usage: usageOf(ends.map(({ end }) => end)) },
      cut ? { headers: { "x-chatlm-prompt-cut": "true" } } : {}
    )
  }).pipe(
    Effect.catch((error) =>
      Effect.as(
        error.code === "QUEUE_FULL" || error.code === "USAGE" ? Effect.void : Effect.logError(error.message),
        failed(error)
      )
    )
  )

export const OpenAiHandlers = HttpApiBuilder.group(
  Api,
  "openai",
  Effect.fnUntraced(function* (handlers) {
    const { model, created, turns, state } = yield* Answering
    const card = { id: model, object: "model" as const, created, owned_by: "chatlm" }
    const unknown = (name: string) =>
      refuse(404, `the model "${name.slice(0, 100)}" does not exist; this server has "${model}"`, {
        param: "model",
        code: "model_not_found"
      })
    /** What stands against a call, if anything does. */
    const against = (body: ChatRequest | CompletionRequest) =>
      Effect.gen(function* () {
        const status = yield* state
        if (status !== "ok") {
          return refuse(503, `the server is ${status}`, { type: "server_error" }, { "retry-after": "1" })
        }
        return body.model === model ? undefined : unknown(body.model)
      })
    return handlers.handleAll({
      models: () => Effect.succeed({ object: "list" as const, data: [card] }),
      model: ({ params }) => Effect.succeed(params.model === model ? card : unknown(params.model)),
      chatCompletions: Effect.fnUntraced(function* ({ payload }) {
        const refused = yield* against(payload)
        if (refused !== undefined) return refused
        const [prompt, ...shorter] = promptsOf(payload.messages, turns)
        if (prompt === undefined) {
          return refuse(400, "messages has no text of a user", { param: "messages" })
        }
        const longest = payload.max_completion_tokens ?? payload.max_tokens
        return yield* answer(chatForm, [[prompt, ...shorter]], payload, settingsFor(payload, longest))
      }),
      completions: Effect.fnUntraced(function* ({ payload }) {
        const refused = yield* against(payload)
        if (refused !== undefined) return refused
        const prompts = typeof payload.prompt === "string" ? [payload.prompt] : payload.prompt
        const form = completionForm(payload.echo === true ? prompts : [])
        const alone = prompts.map((prompt) => [prompt] as const)
        return yield* answer(form, alone, payload, settingsFor(payload, payload.max_tokens))
      })
    })
  })
)
