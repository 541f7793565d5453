/**
 * OpenAI's calls as far as a T5 can answer them (https://platform.openai.com/docs/api-reference): chat completions,
 * completions, models. Fields that are not named here are ignored, as its clients expect.
 */
import * as Schema from "effect/Schema"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import * as OpenApi from "effect/http-api/OpenApi"

export const ErrorBody = Schema.Struct({
  error: Schema.Struct({
    message: Schema.String,
    type: Schema.String,
    param: Schema.NullOr(Schema.String),
    code: Schema.NullOr(Schema.String)
  })
})
export type ErrorBody = typeof ErrorBody.Type

const failure = (httpApiStatus: number) => ErrorBody.annotate({ httpApiStatus })

/** What a call may end with besides an answer, all in OpenAI's form. */
export const failures = [400, 401, 403, 404, 413, 429, 500, 503].map(failure)

const optional = <S extends Schema.Top>(schema: S) => Schema.optional(Schema.NullOr(schema))
const count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))
const between = (minimum: number, maximum: number) =>
  Schema.Finite.check(Schema.isBetween({ minimum, maximum }))

/** A stop text is looked for at each token: longer ones would only cost others their time. */
const StopText = Schema.String.check(Schema.isMaxLength(1000))

/** As its clients draw them, of 64 bits; beyond 2^53 JavaScript reads the number nearby. */
const anyInteger = Schema.makeFilter((n: number) => Number.isInteger(n), {
  expected: "an integer",
  toJsonSchema: () => ({ type: "integer" }),
  arbitraryConstraint: { number: "integer" }
})

/** A field that cannot be served: refused by its name, unless it asks for nothing. */
const refused = optional(
  Schema.Union([Schema.Literal(false), Schema.Array(Schema.Unknown).check(Schema.isMaxLength(0))]).annotate({
    message: "not supported by this server"
  })
)

const TextPart = Schema.Struct({ type: Schema.Literal("text"), text: Schema.String })

export const Message = Schema.Struct({
  role: Schema.Literals(["system", "developer", "user", "assistant"]),
  /** A text, or parts of which each is a text. */
  content: Schema.optional(Schema.NullOr(Schema.Union([Schema.String, Schema.Array(TextPart)])))
})
export type Message = typeof Message.Type

/** Somewhere a user says something; the rule itself is `promptsOf` of `../server/conversation.ts`. */
const asksSomething = Schema.makeFilter<ReadonlyArray<Message>>(() => true, {
  toJsonSchema: () => {
    const text = { type: "string", pattern: "\\S" }
    const part = { type: "object", properties: { text }, required: ["text"] }
    const content = { anyOf: [text, { type: "array", contains: part }] }
    const role = { type: "string", enum: ["user"] }
    return { contains: { type: "object", properties: { role, content }, required: ["role", "content"] } }
  }
})

/** What both completions know. */
const shared = {
  model: Schema.String,
  max_tokens: optional(count),
  /** 0 is greedy; with any other answers are drawn. */
  temperature: optional(between(0, 2)),
  top_p: optional(between(0, 1)),
  seed: optional(Schema.Finite.check(anyInteger)),
  /** Answers a prompt, drawn. */
  n: optional(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 32 }))),
  stop: optional(Schema.Union([StopText, Schema.Array(StopText).check(Schema.isMaxLength(4))])),
  stream: optional(Schema.Boolean),
  stream_options: optional(Schema.Struct({ include_usage: Schema.optional(Schema.Boolean) })),
  logprobs: refused
}

export const ChatRequest = Schema.Struct({
  ...shared,
  messages: Schema.Array(Message).check(Schema.isMinLength(1), asksSomething),
  max_completion_tokens: optional(count),
  top_logprobs: refused,
  tools: refused,
  functions: refused
})
export type ChatRequest = typeof ChatRequest.Type

export const CompletionRequest = Schema.Struct({
  ...shared,
  prompt: Schema.Union([Schema.String, Schema.NonEmptyArray(Schema.String).check(Schema.isMaxLength(64))]),
  /** Puts the prompt before the answer. */
  echo: optional(Schema.Boolean),
  suffix: refused,
  best_of: refused
})
export type CompletionRequest = typeof CompletionRequest.Type

export const Usage = Schema.Struct({
  prompt_tokens: Schema.Int,
  completion_tokens: Schema.Int,
  total_tokens: Schema.Int
})
export type Usage = typeof Usage.Type

const FinishReason = Schema.Literals(["stop", "length"])

export const ChatCompletion = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("chat.completion"),
  created: Schema.Int,
  model: Schema.String,
  choices: Schema.Array(
    Schema.Struct({
      index: Schema.Int,
      message: Schema.Struct({
        role: Schema.Literal("assistant"),
        content: Schema.String,
        refusal: Schema.Null
      }),
      logprobs: Schema.Null,
      finish_reason: FinishReason
    })
  ),
  usage: Usage
})

export type ChatCompletion = typeof ChatCompletion.Type

export const Completion = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("text_completion"),
  created: Schema.Int,
  model: Schema.String,
  choices: Schema.Array(
    Schema.Struct({
      index: Schema.Int,
      text: Schema.String,
      logprobs: Schema.Null,
      finish_reason: FinishReason
    })
  ),
  usage: Usage
})

export type Completion = typeof Completion.Type

/** What stands in every chunk; `usage` only where it is asked for, with its numbers in the last one. */
const chunk = <Name extends string, Choice extends Schema.Struct.Fields>(object: Name, choice: Choice) =>
  Schema.Struct({
    id: Schema.String,
    object: Schema.Literal(object),
    created: Schema.Int,
    model: Schema.String,
    choices: Schema.Array(
      Schema.Struct({
        index: Schema.Int,
        ...choice,
        logprobs: Schema.Null,
        finish_reason: Schema.NullOr(FinishReason)
      })
    ),
    usage: optional(Usage),
    /** In the last chunk of a choice whose prompt was longer than the model's room. */
    prompt_cut: Schema.optional(Schema.Literal(true))
  })

/** An event of a streamed chat completion. */
export const ChatChunk = chunk("chat.completion.chunk", {
  delta: Schema.Struct({
    role: Schema.optional(Schema.Literal("assistant")),
    content: Schema.optional(Schema.String)
  })
})
export type ChatChunk = typeof ChatChunk.Type

/** An event of a streamed completion. */
export const CompletionChunk = chunk("text_completion", { text: Schema.String })
export type CompletionChunk = typeof CompletionChunk.Type

export const Model = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("model"),
  created: Schema.Int,
  owned_by: Schema.String
})

export type Model = typeof Model.Type

/** Refuses bodies of another shape in OpenAI's form. */
export class OpenAiShape extends HttpApiMiddleware.Service<OpenAiShape>()("chatlm/http/OpenAiShape", {
  error: failure(400)
}) {}

/** Checks the bearer key where one is set. */
export class OpenAiKey extends HttpApiMiddleware.Service<OpenAiKey>()("chatlm/http/OpenAiKey", {
  security: { bearer: HttpApiSecurity.bearer },
  error: failure(401)
}) {}

const events = Schema.String.pipe(HttpApiSchema.asText({ contentType: "text/event-stream" }))

export class OpenAiGroup extends HttpApiGroup.make("openai", { topLevel: true })
  .add(
    HttpApiEndpoint.post("chatCompletions", "/v1/chat/completions", {
      payload: ChatRequest,
      success: [ChatCompletion, events],
      error: failures
    }).annotate(OpenApi.Summary, "An answer to a conversation; with `stream` as server-sent events")
  )
  .add(
    HttpApiEndpoint.post("completions", "/v1/completions", {
      payload: CompletionRequest,
      success: [Completion, events],
      error: failures
    }).annotate(OpenApi.Summary, "An answer to each prompt; with `stream` as server-sent events")
  )
  .add(
    HttpApiEndpoint.get("models", "/v1/models", {
      success: Schema.Struct({ object: Schema.Literal("list"), data: Schema.Array(Model) }),
      error: failures
    }).annotate(OpenApi.Summary, "The models, of which there is one")
  )
  .add(
    HttpApiEndpoint.get("model", "/v1/models/:model", {
      params: { model: Schema.String },
      success: Model,
      error: failures
    }).annotate(OpenApi.Summary, "A model by its name")
  )
  .middleware(OpenAiShape)
  .middleware(OpenAiKey) {}
