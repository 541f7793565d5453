/**
 * The server: binds the port, loads the model behind it, answers one text after the other (the core
 * answers in order; continuous batching comes later), drains when its fiber is interrupted.
 */
import { createServer } from "node:http"

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServer from "effect/http/HttpServer"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"

import { loadGenerator } from "../../generate/generate.ts"
import type { GenerationSettings, Generator, GeneratorOptions } from "../../generate/generate.ts"
import { bindError } from "../../native/index.ts"
import type { ChatlmError, Native } from "../../native/index.ts"
import { Answering, ApiKey } from "./answering.ts"
import type { ServerState } from "./answering.ts"
import { routes } from "./handlers.ts"
import { bodyLimitMiB, refusals } from "./refusals.ts"

export interface ServeOptions {
  readonly generator: GeneratorOptions
  readonly settings: GenerationSettings
  readonly host: string
  /** 0 takes any free one. */
  readonly port: number
  /** Empty: none is asked for. */
  readonly apiKey: string
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
      const model = yield* Deferred.make<Generator, ChatlmError>()
      let state: ServerState = "loading"

      const answering = Layer.succeed(Answering, {
        state: Effect.sync(() => state),
        answer: (text) =>
          Deferred.await(model).pipe(
            Effect.flatMap((generator) => generator.generate([text], options.settings, 1)),
            Effect.map((answers) => answers[0]?.response ?? "")
          )
      })
      const makeServer = () => {
        const server = createServer()
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
      const app = HttpRouter.serve(Layer.merge(routes, refusals), {
        disableLogger: true,
        disableListenLog: true
      }).pipe(
        Layer.provide(answering),
        Layer.provide(Layer.succeed(HttpIncomingMessage.MaxBodySize, ByteSize.mebibytes(bodyLimitMiB))),
        Layer.provide(Layer.succeed(ApiKey, options.apiKey)),
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
      const exit = yield* loadGenerator(options.generator).pipe(Scope.provide(modelScope), Effect.exit)
      yield* Deferred.done(model, exit)
      if (Exit.isFailure(exit)) return yield* Effect.failCause(exit.cause)
      state = "ok"
      const address = Context.get(built, HttpServer.HttpServer).address
      const port = address._tag === "UnixPathAddress" ? options.port : address.port
      const host = options.host.includes(":") ? `[${options.host}]` : options.host
      yield* options.onReady(`http://${host}:${port}`)
      return yield* Effect.never
    })
  )
