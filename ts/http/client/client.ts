/**
 * A typed client of a served model, derived from the interface as a value (`../api`): what is sent and what comes is
 * checked by the schemas that the server has. It needs neither the core nor Node, so it serves in browsers too.
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type { HttpClientResponse } from "effect/http/HttpClientResponse"
import * as HttpApiClient from "effect/http-api/HttpApiClient"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

import { Api } from "../api/chat.ts"
import { ChatChunk, CompletionChunk, ErrorBody } from "../api/openai.ts"
import type {
  ChatCompletion,
  ChatRequest,
  Completion,
  CompletionRequest,
  Message,
  Model,
  Usage
} from "../api/openai.ts"

export type { ChatChunk, ChatCompletion, Completion, CompletionChunk, Message, Model, Usage }

/** A refusal, with what OpenAI's errors hold. */
export class ApiError extends Data.TaggedError("ApiError")<{
  /** The status; 200 where an answer broke off in a stream. */
  readonly status: number
  readonly message: string
  readonly type: string
  /** The field that is at fault. */
  readonly param: string | null
  /** Such as `model_not_found`, `invalid_api_key`, `rate_limit_exceeded`. */
  readonly code: string | null
  /** Seconds after which to come back, where the server says so. */
  readonly retryAfter?: number
}> {}

/** A refusal; a connection that fails; something that is not what this server answers. */
export type ClientError = ApiError | HttpClientError | Schema.SchemaError

export interface ClientOptions {
  /** Without `/v1`, such as `http://127.0.0.1:8812`. */
  readonly baseUrl: string | URL
  readonly apiKey?: string | Redacted.Redacted
}

export type ChatInput = Omit<ChatRequest, "stream" | "stream_options">
export type ChatStreamInput = Omit<ChatRequest, "stream">
export type CompletionInput = Omit<CompletionRequest, "stream" | "stream_options">
export type CompletionStreamInput = Omit<CompletionRequest, "stream">

export interface ClientService {
  readonly chat: (input: ChatInput) => Effect.Effect<ChatCompletion, ClientError>
  /** The same in chunks as they are written. A reader that stops gives the answer up on the server. */
  readonly chatStream: (input: ChatStreamInput) => Stream.Stream<ChatChunk, ClientError>
  /** The text of the first choice as it is written. */
  readonly chatText: (input: ChatInput) => Stream.Stream<string, ClientError>
  readonly complete: (input: CompletionInput) => Effect.Effect<Completion, ClientError>
  readonly completeStream: (input: CompletionStreamInput) => Stream.Stream<CompletionChunk, ClientError>
  readonly models: Effect.Effect<ReadonlyArray<Model>, ClientError>
  readonly model: (name: string) => Effect.Effect<Model, ClientError>
  /** Fails with 503 while the model is loading, and while the server is about to end. */
  readonly health: Effect.Effect<void, ClientError>
}

const decodeRefusal = Schema.decodeUnknownOption(Schema.fromJsonString(ErrorBody))

/** A response that is no answer as an error; a proxy in between may have a form of its own. */
const refused = (response: HttpClientResponse): Effect.Effect<never, ApiError | HttpClientError> =>
  Effect.flatMap(response.text, (text) => {
    const { status, headers } = response
    const seconds = Number(headers["retry-after"] ?? Number.NaN)
    const found = decodeRefusal(text)
    const told =
      found._tag === "Some"
        ? found.value.error
        : { message: text === "" ? `status ${status}` : text, type: "unknown", param: null, code: null }
    return Effect.fail(
      new ApiError({ status, ...told, ...(Number.isNaN(seconds) ? {} : { retryAfter: seconds }) })
    )
  })

const brokenOff = (message: string) =>
  new ApiError({ status: 200, message, type: "server_error", param: null, code: null })

/** The chunks of an answer; one that ends without `[DONE]` has broken off. */
const chunksOf = <S extends Schema.ConstraintDecoder<unknown>>(schema: S) => {
  const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Union([schema, ErrorBody])))
  const isFailure = Schema.is(ErrorBody)
  return (response: HttpClientResponse): Stream.Stream<S["Type"], ClientError> => {
    let isDone = false
    return response.stream.pipe(
      Stream.decodeText,
      Stream.pipeThroughChannel(Sse.decode<HttpClientError, unknown>()),
      Stream.mapError((error) =>
        error._tag === "HttpClientError" ? error : brokenOff(`the stream is none of ours: ${error._tag}`)
      ),
      Stream.takeUntil(({ data }) => (isDone = data === "[DONE]")),
      Stream.filter(({ data }) => data !== "[DONE]"),
      Stream.mapEffect(({ data }) => decode(data)),
      Stream.mapEffect((chunk): Effect.Effect<S["Type"], ApiError> =>
        isFailure(chunk) ? Effect.fail(new ApiError({ status: 200, ...chunk.error })) : Effect.succeed(chunk)
      ),
      Stream.concat(
        Stream.suspend(() =>
          isDone ? Stream.empty : Stream.fail(brokenOff("the answer broke off before its end"))
        )
      )
    )
  }
}

const chatChunks = chunksOf(ChatChunk)
const completionChunks = chunksOf(CompletionChunk)

/** A client over any `HttpClient`, such as `FetchHttpClient.layer`. */
export const makeClient = Effect.fnUntraced(function* (
  options: ClientOptions
): Effect.fn.Return<ClientService, never, HttpClient.HttpClient> {
  const { apiKey, baseUrl } = options
  const httpClient = (yield* HttpClient.HttpClient).pipe(
    HttpClient.mapRequest((request) =>
      apiKey === undefined ? request : HttpClientRequest.bearerToken(request, apiKey)
    ),
    HttpClient.filterOrElse(({ status }) => status < 400, refused)
  )
  const api = yield* HttpApiClient.makeWith(Api, { httpClient, baseUrl })
  // Refusals come as `ApiError` from below, so the API's own error types are not met.
  const only = <A, E>(effect: Effect.Effect<A, E>) => effect as Effect.Effect<A, Extract<E, ClientError>>
  const whole = <A, E>(effect: Effect.Effect<A | string, E>) =>
    Effect.flatMap(only(effect), (answer) =>
      typeof answer === "string"
        ? Effect.fail(brokenOff("a stream that nobody asked for"))
        : Effect.succeed(answer)
    )
  const chatStream = (input: ChatStreamInput) =>
    api
      .chatCompletions({ payload: { ...input, stream: true }, responseMode: "response-only" })
      .pipe(only, Effect.map(chatChunks), Stream.unwrap)
  return {
    chat: (payload) => whole(api.chatCompletions({ payload })),
    chatStream,
    chatText: (input) =>
      chatStream(input).pipe(
        Stream.map(({ choices }) => choices.find(({ index }) => index === 0)?.delta.content ?? ""),
        Stream.filter((text) => text !== "")
      ),
    complete: (payload) => whole(api.completions({ payload })),
    completeStream: (input) =>
      api
        .completions({ payload: { ...input, stream: true }, responseMode: "response-only" })
        .pipe(only, Effect.map(completionChunks), Stream.unwrap),
    models: Effect.map(only(api.models({})), ({ data }) => data),
    model: (name) => only(api.model({ params: { model: name } })),
    health: Effect.asVoid(only(api.health({})))
  }
})

export class Client extends Context.Service<Client, ClientService>()("chatlm/client/Client") {
  static readonly layer = (options: ClientOptions): Layer.Layer<Client, never, HttpClient.HttpClient> =>
    Layer.effect(Client, makeClient(options))
}
