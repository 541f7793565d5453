/**
 * The program that serves: binds the port, loads the model behind it, drains when its fiber is interrupted. What is
 * answered is `application.ts`.
 */
import { createServer } from "node:http"

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Effect from "effect/Effect"
import * as HttpServer from "effect/http/HttpServer"

import { bindError } from "../../native/index.ts"
import type { ChatlmError, Native } from "../../native/index.ts"
import { page } from "../page/page.ts"
import { makeApplication } from "./application.ts"
import type { Application, ApplicationOptions } from "./application.ts"

export interface ServeOptions extends ApplicationOptions {
  readonly host: string
  /** 0 takes any free one. */
  readonly port: number
  /** How long running answers may take once the server is to end. */
  readonly drainSeconds?: number
  /** Told the address once the model answers. */
  readonly onReady: (address: string) => Effect.Effect<void>
}

const makeServer = (application: Application) => {
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
      if (application.state() === "draining") setImmediate(() => server.closeIdleConnections())
    })
  })
  return server
}

/** Serves until it is interrupted; then running answers end first. */
export const serve = (options: ServeOptions): Effect.Effect<never, ChatlmError, Native> =>
  Effect.scoped(
    Effect.gen(function* () {
      const application = yield* makeApplication(options, page)
      const server = yield* NodeHttpServer.make(() => makeServer(application), {
        host: options.host,
        port: options.port,
        gracefulShutdownTimeout: `${options.drainSeconds ?? 20} seconds`
      }).pipe(Effect.mapError((error) => bindError(options.host, options.port, error.cause)))
      yield* HttpServer.serveEffect(application.respond).pipe(
        Effect.provideService(HttpServer.HttpServer, server)
      )
      // Registered after the server, so it runs first: whoever asks while it drains is told so.
      yield* Effect.addFinalizer(() => application.drain)
      yield* application.load
      const { address } = server
      const port = address._tag === "UnixPathAddress" ? options.port : address.port
      const host = options.host.includes(":") ? `[${options.host}]` : options.host
      yield* options.onReady(`http://${host}:${port}`)
      return yield* Effect.never
    })
  )
