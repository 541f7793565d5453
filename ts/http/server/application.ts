/**
 * The HTTP application: a model and all that stands between it and who asks. It knows no port and no process:
 * `serve.ts` binds one and ends with the other, `node.ts` is for servers that others have.
 */
import { basename, resolve } from "node:path"

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"

import { loadServing } from "../../generate/generate.ts"
import type { GenerationSettings, GeneratorOptions, Serving, ServingLimits } from "../../generate/generate.ts"
import type { ChatlmError, Native } from "../../native/index.ts"
import { Answering, ApiKeys } from "./answering.ts"
import type { ServerState } from "./answering.ts"
import { guarded } from "./guard.ts"
import type { App, GuardOptions } from "./guard.ts"
import { routes } from "./handlers.ts"
import { clientOf } from "./keys.ts"

export interface ApplicationOptions extends GuardOptions {
  readonly generator: GeneratorOptions
  readonly settings: GenerationSettings
  /** How much is taken on at once. */
  readonly limits?: ServingLimits
  /** The name under which clients ask for the model; left out, the folder's. */
  readonly modelName?: string
  /** Earlier turns of a conversation that are put into the prompt; 0: the last question alone. */
  readonly turns?: number
  /** The longest that a request may take, waiting included. */
  readonly requestSeconds?: number
  /** Tokens an answer that a request may ask for; more becomes as many. */
  readonly maxTokens?: number
}

export interface Application {
  /** Answers a request; before the model is loaded, and while all drains, by 503. */
  readonly respond: App
  /** Loads the model, which is freed with the application's scope. Whoever has asked by then is answered. */
  readonly load: Effect.Effect<void, ChatlmError, Native>
  readonly state: () => ServerState
  /** From now on whoever asks is told that all is about to end; what runs goes on. */
  readonly drain: Effect.Effect<void>
}

/** What a request asks for, with no more tokens than it may have. */
const capped = (given: GenerationSettings, most: number | undefined): GenerationSettings =>
  most === undefined || given.maxNewTokens === undefined || given.maxNewTokens <= most
    ? given
    : { ...given, maxNewTokens: most }

/**
 * `more` are routes beside those of the API. Whatever serves the application is to be made after it in the same
 * scope: then it is closed before the model is freed.
 */
export const makeApplication = Effect.fnUntraced(function* (
  options: ApplicationOptions,
  more: Layer.Layer<never, never, HttpRouter.HttpRouter> = Layer.empty
): Effect.fn.Return<Application, never, Scope.Scope> {
  // Opened before the routes, so that it is closed after them.
  const modelScope = yield* Effect.acquireRelease(Scope.make(), (scope, exit) => Scope.close(scope, exit))
  const model = yield* Deferred.make<Serving, ChatlmError>()
  let state: ServerState = "loading"
  let loaded: Serving | undefined
  // A prompt is cut to the model's room, but read whole before: a MiB holds all others up for up to a second. No room
  // of tokens is filled by more characters than these, but for white space without end.
  const longest = 128 * (options.generator.maxLength ?? 512)
  const timeout = (options.requestSeconds ?? 300) * 1000

  const answering = Answering.of({
    state: Effect.sync(() => state),
    stats: Effect.suspend(() =>
      loaded === undefined ? Effect.succeed(undefined) : Effect.orDie(loaded.stats)
    ),
    model: options.modelName ?? basename(resolve(options.generator.model)),
    created: Math.floor(Date.now() / 1000),
    turns: options.turns ?? 0,
    ask: (prompt, given, shorter = []) =>
      Effect.gen(function* () {
        const serving = yield* Deferred.await(model)
        // Who draws without a seed gets another answer each time.
        const seed = yield* Random.nextIntBetween(0, 2 ** 31)
        const request = Option.getOrUndefined(
          yield* Effect.serviceOption(HttpServerRequest.HttpServerRequest)
        )
        const address = Option.getOrUndefined(request?.remoteAddress ?? Option.none<string>())
        const client = clientOf(options.apiKeys, request?.headers.authorization, address)
        const settings = { seed, ...options.settings, ...capped(given, options.maxTokens) }
        const [first, ...others] = [prompt, ...shorter].map((text) => text.slice(0, longest))
        return yield* serving.ask(first ?? "", settings, { timeout, client, shorter: others })
      })
  })
  const respond = yield* HttpRouter.toHttpEffect(Layer.merge(routes, more)).pipe(
    Effect.provide([
      Layer.succeed(Answering, answering),
      Layer.succeed(ApiKeys, options.apiKeys),
      NodeHttpServer.layerHttpServices
    ])
  )
  return {
    respond: guarded(options)(respond.pipe(Effect.provideService(Answering, answering))),
    load: Effect.gen(function* () {
      const exit = yield* loadServing(options.generator, options.limits).pipe(
        Scope.provide(modelScope),
        Effect.exit
      )
      yield* Deferred.done(model, exit)
      if (Exit.isFailure(exit)) return yield* Effect.failCause(exit.cause)
      loaded = exit.value
      state = "ok"
    }),
    state: () => state,
    drain: Effect.sync(() => {
      state = "draining"
    })
  }
})
