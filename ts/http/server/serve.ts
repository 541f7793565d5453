/**
 * The program that serves: binds the port, loads the model behind it, drains when its fiber is interrupted. What is
 * answered is `application.ts`.
 */
import { createServer } from "node:http"

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Effect from "effect/Effect"
import { identity } from "effect/Function"
import * as HttpServer from "effect/http/HttpServer"
import * as Logger from "effect/Logger"

import { bindError } from "../../native/index.ts"
import type { ChatlmError, Native } from "../../native/index.ts"
import { page } from "../page/page.ts"
import { makeApplication } from "./application.ts"
import type { ApplicationOptions } from "./application.ts"
import { watchConnections } from "./connections.ts"
import { hostsOf } from "./hosts.ts"
import { jsonLines } from "./log.ts"

export interface ServeOptions extends Omit<ApplicationOptions, "hosts"> {
  readonly host: string
  /** 0 takes any free one. */
  readonly port: number
  /**
   * Names under which the server may be asked besides the address it listens on; `*` is any. Where it listens on a
   * loopback address no others will do, elsewhere none are asked for unless some are given.
   */
  readonly allowedHosts?: ReadonlyArray<string>
  /** Connections at once; one more costs the one that has been idle longest. Default 1024. */
  readonly maxConnections?: number
  /** Seconds in which a client must have sent its request, and must go on taking its answer. Default 30. */
  readonly clientSeconds?: number
  /** How long running answers may take once the server is to end. */
  readonly drainSeconds?: number
  /** Told the address once the model answers. */
  readonly onReady: (address: string) => Effect.Effect<void>
}

/** Connections that only listen, or send a header a minute, are closed. */
const makeServer = (clientSeconds: number) =>
  createServer({
    headersTimeout: Math.min(10, clientSeconds) * 1000,
    requestTimeout: clientSeconds * 1000,
    keepAliveTimeout: 5_000,
    connectionsCheckingInterval: 1_000
  })

/** Serves until it is interrupted; then running answers end first. */
export const serve = (options: ServeOptions): Effect.Effect<never, ChatlmError, Native> =>
  Effect.scoped(
    Effect.gen(function* () {
      const { clientSeconds = 30, drainSeconds = 20, requestSeconds = 300, maxConnections = 1024 } = options
      const hosts = hostsOf(options.host, options.allowedHosts ?? [])
      const application = yield* makeApplication(hosts === undefined ? options : { ...options, hosts }, page)
      const node = makeServer(clientSeconds)
      const connections = watchConnections(node, { clientSeconds, maxConnections, requestSeconds })
      const server = yield* NodeHttpServer.make(() => node, {
        host: options.host,
        port: options.port,
        gracefulShutdownTimeout: `${drainSeconds} seconds`
      }).pipe(Effect.mapError((error) => bindError(options.host, options.port, error.cause)))
      yield* HttpServer.serveEffect(application.respond).pipe(
        Effect.provideService(HttpServer.HttpServer, server)
      )
      // Nothing here is upgraded; without a listener such requests are like any other, and in Node's time limits.
      node.removeAllListeners("upgrade")
      // Registered after the server, so it runs first: whoever asks while it drains is told so.
      yield* Effect.addFinalizer(() =>
        Effect.andThen(
          application.drain,
          Effect.sync(() => connections.drain(drainSeconds))
        )
      )
      yield* application.load
      const { address } = server
      const port = address._tag === "UnixPathAddress" ? options.port : address.port
      const host = options.host.includes(":") ? `[${options.host}]` : options.host
      yield* options.onReady(`http://${host}:${port}`)
      return yield* Effect.never
    })
  ).pipe(options.log === undefined ? identity : Effect.provide(Logger.layer([jsonLines])))
