/** Refusals that come before any handler, in the same form as the handlers' own: `{"detail": …}`. */
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"

/** The largest body; a prompt has no use for more. */
export const bodyLimitMiB = 1

const refuse = (status: number, detail: string) => HttpServerResponse.jsonUnsafe({ detail }, { status })

const tooLarge = refuse(413, `the body is larger than ${bodyLimitMiB} MiB`)

/** Whether a defect says that a chunked body went over the limit while it was read. */
const saysTooLarge = (defect: unknown): boolean =>
  defect instanceof Error && /maxBytes|too large/i.test(`${defect.message} ${String(defect.cause)}`)

/** Around every route. */
export const refusals = HttpRouter.middleware(
  (app) =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      if (Number(request.headers["content-length"] ?? 0) > bodyLimitMiB * 1024 * 1024) return tooLarge
      const response = yield* app
      // Another content type cannot have the right shape.
      return response.status === 415
        ? refuse(422, 'the body must be JSON like {"input_txt": "…"}, with content-type application/json')
        : response
    }).pipe(
      Effect.catchDefect((defect) => (saysTooLarge(defect) ? Effect.succeed(tooLarge) : Effect.die(defect)))
    ),
  { global: true }
)
