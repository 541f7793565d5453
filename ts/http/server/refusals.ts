/** Refusals that come before any handler, in the form that the caller reads: OpenAI's under `/v1`, else `detail`. */
import * as ByteSize from "effect/ByteSize"
import * as Effect from "effect/Effect"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import type { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"

import { faultOf } from "./body.ts"
import { refuse as refuseOpenAi } from "./openai.ts"
import { methodsAt } from "./paths.ts"

type App<R> = Effect.Effect<HttpServerResponse.HttpServerResponse, HttpServerError, R>

export const refuse = (
  url: string,
  status: number,
  detail: string,
  fields: { readonly type?: string; readonly code?: string } = {},
  headers: Record<string, string> = {}
): HttpServerResponse.HttpServerResponse =>
  url.startsWith("/v1/")
    ? refuseOpenAi(status, detail, fields, headers)
    : HttpServerResponse.jsonUnsafe({ detail }, { status, headers })

/** No such path, or none with such a method. */
const missing = (method: string, url: string) => {
  const methods = methodsAt(url)
  const path = (url.split("?")[0] ?? "").slice(0, 200)
  // Where the method is right, a part of the path is not: one that cannot be decoded.
  if (methods === undefined || methods.includes(method)) return refuse(url, 404, `there is no ${path}`)
  const allow = methods.join(", ")
  return refuse(url, 405, `${path} takes ${allow}, not ${method}`, {}, { allow })
}

/** Around all routes: says what is not there. */
export const withMissing = <R>(app: App<R>) =>
  Effect.catchIf(
    app,
    ({ reason }) => reason._tag === "RouteNotFound",
    () => Effect.map(HttpServerRequest.HttpServerRequest, ({ method, url }) => missing(method, url))
  )

const shape = (url: string) => (url.startsWith("/v1/") ? "JSON" : 'JSON like {"input_txt": "…"}')

/** What the body is not; 422 is what callers of `/api/chat` know. */
const misshapen = (url: string, detail: string) => refuse(url, url.startsWith("/v1/") ? 400 : 422, detail)

const tooLarge = (url: string, limit: number) =>
  refuse(url, 413, `the body is larger than ${ByteSize.format(ByteSize.bytes(limit))}`)

const isTooLarge = ({ reason }: HttpServerError) =>
  reason._tag === "RequestParseError" && reason.reason === "BodyTooLarge"

/** Reads a body whole, so that handlers find it read, and says what stands against it. */
const checkBody = (request: HttpServerRequest.HttpServerRequest, limit: number) =>
  Number(request.headers["content-length"] ?? 0) > limit
    ? Effect.succeed(tooLarge(request.url, limit))
    : request.arrayBuffer.pipe(
        Effect.map((body) => {
          const fault = faultOf(new Uint8Array(body))
          return fault === undefined ? undefined : misshapen(request.url, fault)
        }),
        // Whatever else goes wrong with a body, its sender is gone or told by Node.
        Effect.catch((error) =>
          isTooLarge(error) ? Effect.succeed(tooLarge(request.url, limit)) : Effect.fail(error)
        )
      )

/** Around what reads bodies: none is larger than `limit` bytes, none is parsed that can only do harm. */
export const withBodies = <R>(limit: number, app: App<R>) =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const refused = request.method === "POST" ? yield* checkBody(request, limit) : undefined
    if (refused !== undefined) return refused
    const response = yield* app
    // Another content type cannot have the right shape.
    return response.status === 415
      ? misshapen(request.url, `the body must be ${shape(request.url)}, with content-type application/json`)
      : response
  }).pipe(Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(limit)))
