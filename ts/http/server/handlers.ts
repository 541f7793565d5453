/** The handlers behind `../api/chat.ts`. */
import { createHash, timingSafeEqual } from "node:crypto"

import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"

import { Api, Authorization, EmptyText, Failed, ShapeErrors, Unavailable, WrongShape } from "../api/chat.ts"
import { Answering, ApiKey } from "./answering.ts"

const digest = (text: string) => createHash("sha256").update(text).digest()

const AuthorizationLayer = Layer.effect(
  Authorization,
  Effect.map(ApiKey, (key) => ({
    bearer: (handler, { credential }) =>
      // Hashes have one length, so the comparison takes as long for any wrong key.
      key === "" || timingSafeEqual(digest(Redacted.value(credential)), digest(key))
        ? handler
        : Effect.succeed(
            HttpServerResponse.jsonUnsafe(
              { detail: "the bearer key is missing or wrong" },
              { status: 401, headers: { "www-authenticate": "Bearer" } }
            )
          )
  }))
)

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
      chat: Effect.fnUntraced(function* ({ payload }) {
        if (payload.input_txt.trim() === "") {
          return yield* Effect.fail(new EmptyText({ detail: "input_txt is empty" }))
        }
        const response = yield* answering
          .answer(payload.input_txt)
          .pipe(Effect.mapError((error) => new Failed({ detail: error.message })))
        return { response }
      })
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
        )
    })
  })
)

/** All routes; they want only `Answering` (and `ApiKey`, which has a default). */
export const routes = HttpApiBuilder.layer(Api, { openapiPath: "/openapi.json" }).pipe(
  Layer.provide([ChatHandlers, SystemHandlers]),
  Layer.provide(ShapeErrorsLayer),
  Layer.provide(AuthorizationLayer)
)
