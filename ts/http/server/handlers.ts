/** The handlers behind `../api/chat.ts`. */
import { readFileSync } from "node:fs"

import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSwagger from "effect/http-api/HttpApiSwagger"
import * as OpenApi from "effect/http-api/OpenApi"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"

import { isChatlmError } from "../../native/index.ts"
import {
  Api,
  Authorization,
  EmptyText,
  Ending,
  Failed,
  ShapeErrors,
  Unavailable,
  WrongShape
} from "../api/chat.ts"
import { Answering, ApiKeys } from "./answering.ts"
import { couldNotAnswer } from "./completion.ts"
import { keyCheck } from "./keys.ts"
import { CurrentRecord, recordEnd } from "./log.ts"
import { exposition, observe } from "./metrics.ts"
import { OpenAiHandlers, OpenAiKeyLayer, OpenAiShapeLayer } from "./openai.ts"
import { docsPath, schemaPath } from "./paths.ts"

const AuthorizationLayer = Layer.effect(
  Authorization,
  Effect.map(Effect.map(ApiKeys, keyCheck), (allowed) => ({
    bearer: (handler, { credential }) =>
      allowed(Redacted.value(credential))
        ? handler
        : Effect.succeed(
            HttpServerResponse.jsonUnsafe(
              { detail: "the bearer key is missing or wrong" },
              { status: 401, headers: { "www-authenticate": "Bearer" } }
            )
          )
  }))
)

/** More than may wait. */
const tooMany = (detail: string) =>
  HttpServerResponse.jsonUnsafe({ detail }, { status: 429, headers: { "retry-after": "1" } })

const ShapeErrorsLayer = HttpApiMiddleware.layerSchemaErrorTransform(ShapeErrors, (error) => {
  const reason = error.cause.message.split("\n")[0] ?? ""
  const detail = `the body must be JSON like {"input_txt": "…"}: ${reason}`
  return Effect.fail(new WrongShape({ detail }))
})

const ChatHandlers = HttpApiBuilder.group(
  Api,
  "chat",
  Effect.fnUntraced(function* (handlers) {
    const answering = yield* Answering
    return handlers.handleAll({
      chat: Effect.fnUntraced(
        function* ({ payload }) {
          if ((yield* answering.state) === "draining") {
            return yield* Effect.fail(new Ending({ detail: "the server is about to end" }))
          }
          if (payload.input_txt.trim() === "") {
            return yield* Effect.fail(new EmptyText({ detail: "input_txt is empty" }))
          }
          const { pieces } = yield* answering.ask(payload.input_txt, {})
          const last = yield* Stream.runLast(pieces)
          const end = Option.getOrUndefined(last)?.end
          if (!end) return yield* Effect.fail(new Ending({ detail: "the server is about to end" }))
          yield* observe(end)
          recordEnd(yield* CurrentRecord, end)
          return { response: end.answers[0]?.response ?? "" }
        },
        Effect.catchIf(isChatlmError, (error) =>
          error.code === "QUEUE_FULL"
            ? Effect.succeed(tooMany(error.message))
            : Effect.andThen(
                Effect.logError(error.message),
                Effect.fail(new Failed({ detail: couldNotAnswer }))
              )
        )
      )
    })
  })
)

const SystemHandlers = HttpApiBuilder.group(
  Api,
  "system",
  Effect.fnUntraced(function* (handlers) {
    const answering = yield* Answering
    return handlers.handleAll({
      health: () =>
        Effect.flatMap(answering.state, (status) =>
          status === "ok" ? Effect.succeed({ status } as const) : Effect.fail(new Unavailable({ status }))
        ),
      metrics: () => Effect.flatMap(answering.stats, exposition)
    })
  })
)

const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
  readonly version: string
}

/** The interface with this program's version in its document. */
const Versioned = Api.annotate(OpenApi.Version, version)

/** All routes; they want only `Answering` (and `ApiKeys`, which has a default). */
export const routes = Layer.merge(
  HttpApiBuilder.layer(Versioned, { openapiPath: schemaPath }),
  HttpApiSwagger.layer(Versioned, { path: docsPath })
).pipe(
  Layer.provide([ChatHandlers, OpenAiHandlers, SystemHandlers]),
  Layer.provide([ShapeErrorsLayer, OpenAiShapeLayer]),
  Layer.provide([AuthorizationLayer, OpenAiKeyLayer])
)
