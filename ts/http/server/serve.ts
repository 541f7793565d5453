/**
 * The server: binds the port, loads the model behind it, has many requests answered together, drains when its fiber
 * is interrupted.
 */
import { createServer } from "node:http"
import { basename, resolve } from "node:path"

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServer from "effect/http/HttpServer"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"

import { loadServing } from "../../generate/generate.ts"
import type { GenerationSettings, GeneratorOptions, Serving, ServingLimits } from "../../generate/generate.ts"
import { bindError } from "../../native/index.ts"
import type { ChatlmError, Native } from "../../native/index.ts"
import { page } from "../page/page.ts"
import { Answering, ApiKeys } from "./answering.ts"
import type { ServerState } from "./answering.ts"
import { routes } from "./handlers.ts"
import { clientOf } from "./keys.ts"
import { bodyLimitMiB, refusals } from "./refusals.ts"

export interface ServeOptions {
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
  readonly host: string
  /** 0 takes any free one. */
  readonly port: number
  /** None: none is asked for. */
  readonly apiKeys: ReadonlyArray<string>
  /** How long running answers may take once the server is to end. */
  readonly drainSeconds?: number
  /** Told the address once the model answers. */
  readonly onReady: (address: string) => Effect.Effect<void>
}

/** Serves until it is interrupted; then running answers end first. */
export const serve = (options: ServeOptions): Effect.Effect<never, ChatlmError, Native> =>
  Effect.scoped(
    Effect.gen(function* () {
      // The model's scope is opened before the server's, so that it is closed after the last answer.
      const modelScope = yield* Effect.acquireRelease(Scope.make(), (scope, exit) => Scope.close(scope, exit))
      const model = yield* Deferred.make<Serving, ChatlmError>()
      let state: ServerState = "loading"
      let loaded: Serving | undefined
      const timeout = (options.requestSeconds ?? 300) * 1000

      const answering = Layer.succeed(Answering, {
        state: Effect.sync(() => state),
        stats: Effect.suspend(() =>
          loaded === undefined ? Effect.succeed(undefined) : Effect.orDie(loaded.stats)
        ),
        model: options.modelName ?? basename(resolve(options.generator.model)),
        created: Math.floor(Date.now() / 1000),
        turns: options.turns ?? 0,
        ask: (prompt, given) =>
          Effect.gen(function* () {
            const serving = yield* Deferred.await(model)
            // Who draws without a seed gets another answer each time.
            const seed = yield* Random.nextIntBetween(0, 2 ** 31)
            const request = Option.getOrUndefined(
              yield* Effect.serviceOption(HttpServerRequest.HttpServerRequest)
            )
            const address = Option.getOrUndefined(request?.remoteAddress ?? Option.none<string>())
            const client = clientOf(options.apiKeys, request?.headers.authorization, address)
            return yield* serving.ask(prompt, { seed, ...options.settings, ...given }, { timeout, client })
          })
      })
      const makeServer = () => {
        // Connections that only listen, or send a header a minute, are closed.
        const server = createServer({
          headersTimeout: 10_000,
          requestTimeout: 30_000,
          keepAliveTimeout: 5_000,
          connectionsCheckingInterval: 1_000
        })
        // A client that keeps its connection would hold up the end until it times out.
        server.on("request", (_, response) => {
          response.on("finish", () => {
            if (state === "draining") setImmediate(() => server.closeIdleConnections())
          })
        })
        return server
      }
      const server = NodeHttpServer.layer(makeServer, {
        host: options.host,
        port: options.port,
        gracefulShutdownTimeout: `${options.drainSeconds ?? 20} seconds`
      })
      const app = HttpRouter.serve(Layer.mergeAll(routes, page, refusals), {
        disableLogger: true,
        disableListenLog: true
      }).pipe(
        Layer.provide(answering),
        Layer.provide(Layer.succeed(HttpIncomingMessage.MaxBodySize, ByteSize.mebibytes(bodyLimitMiB))),
        Layer.provide(Layer.succeed(ApiKeys, options.apiKeys)),
        Layer.provideMerge(server)
      )
      const built = yield* Layer.build(app).pipe(
        Effect.mapError((error) => bindError(options.host, options.port, error.cause))
      )
      // Registered after the server, so it runs first: whoever asks while it drains is told so.
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          state = "draining"
        })
      )
      const exit = yield* loadServing(options.generator, options.limits).pipe(
        Scope.provide(modelScope),
        Effect.exit
      )
      yield* Deferred.done(model, exit)
      if (Exit.isFailure(exit)) return yield* Effect.failCause(exit.cause)
      loaded = exit.value
      state = "ok"
      const address = Context.get(built, HttpServer.HttpServer).address
      const port = address._tag === "UnixPathAddress" ? options.port : address.port
      const host = options.host.includes(":") ? `[${options.host}]` : options.host
      yield* options.onReady(`http://${host}:${port}`)
      return yield* Effect.never
    })
  )
