/**
 * Refusals that come before any handler, in the form that the caller reads: OpenAI's under `/v1`, `{"detail": …}`
 * elsewhere. Every response of a route is counted here.
 */
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import { isHttpServerError } from "effect/http/HttpServerError"
import type { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"

import { responded } from "./metrics.ts"
import { refuse as refuseOpenAi } from "./openai.ts"
import { methodsAt } from "./paths.ts"

/** The largest body; a prompt has no use for more. */
export const bodyLimitMiB = 1

const refuse = (url: string, status: number, detail: string) =>
  url.startsWith("/v1/")
    ? refuseOpenAi(status, detail)
    : HttpServerResponse.jsonUnsafe({ detail }, { status })

const tooLarge = (url: string) => refuse(url, 413, `the body is larger than ${bodyLimitMiB} MiB`)

/** Another content type cannot have the right shape. */
const notJson = (url: string) =>
  url.startsWith("/v1/")
    ? refuse(url, 400, "the body must be JSON, with content-type application/json")
    : refuse(url, 422, 'the body must be JSON like {"input_txt": "…"}, with content-type application/json')

/** No such path, or none with such a method. */
const missing = (method: string, url: string) => {
  const methods = methodsAt(url)
  // Where the method is right, a part of the path is not: one that cannot be decoded.
  if (methods === undefined || methods.includes(method))
    return refuse(url, 404, `there is no ${url.split("?")[0]}`)
  const allow = methods.join(", ")
  return HttpServerResponse.setHeader(
    refuse(url, 405, `${url.split("?")[0]} takes ${allow}, not ${method}`),
    "allow",
    allow
  )
}

/** Whether a defect says that a chunked body went over the limit while it was read. */
const saysTooLarge = (defect: unknown): boolean =>
  defect instanceof Error && /maxBytes|too large/i.test(`${defect.message} ${String(defect.cause)}`)

const isRouteNotFound = (error: unknown): error is HttpServerError =>
  isHttpServerError(error) && error.reason._tag === "RouteNotFound"

/** Around every route. */
export const refusals = HttpRouter.middleware(
  (app) =>
    Effect.gen(function* () {
      const { headers, method, url } = yield* HttpServerRequest.HttpServerRequest
      const checked =
        Number(headers["content-length"] ?? 0) > bodyLimitMiB * 1024 * 1024
          ? Effect.succeed(tooLarge(url))
          : app.pipe(
              Effect.map((response) => (response.status === 415 ? notJson(url) : response)),
              Effect.catchIf(isRouteNotFound, () => Effect.succeed(missing(method, url))),
              Effect.catchDefect((defect) =>
                saysTooLarge(defect) ? Effect.succeed(tooLarge(url)) : Effect.die(defect)
              )
            )
      return yield* Effect.tap(checked, ({ status }) => responded(status))
    }),
  { global: true }
)
