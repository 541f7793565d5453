/**
 * The live page: HTML, style and script, and one stream of server-sent events that tells every run from its
 * beginning and then what is new. Nothing is kept here: each reader's stream follows the files itself.
 */
import { createServer } from "node:http"
import { basename, resolve } from "node:path"

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServer from "effect/http/HttpServer"
import type { HttpServerRequest } from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"

import { attempt, bindError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { script } from "./bundle.ts"
import { Follower, readRun } from "./follow.ts"
import { findRuns } from "./find.ts"
import { livePage, livePolicy } from "./page.ts"
import { style } from "./style.ts"
import type { Told } from "./view/browser.ts"

export interface ServeDashboardOptions {
  /** Run folders, or folders that hold some; new runs in them are shown as they begin. */
  readonly inputs: ReadonlyArray<string>
  readonly host: string
  /** 0 takes any free one. */
  readonly port: number
  readonly onReady: (address: string) => Effect.Effect<void>
}

const lookEvery = 1000
/** Looks between two searches for new runs, and between two signs of life where nothing happens. */
const searchEvery = 5
const pingEvery = 15

/** What one reader is told, one event a look. */
const events = (inputs: ReadonlyArray<string>): Stream.Stream<string, ChatlmError> =>
  Stream.suspend(() => {
    const followers = new Map<string, { readonly name: string; readonly follower: Follower }>()
    let looks = 0
    const look = attempt(inputs.join(", "), async () => {
      if (looks % searchEvery === 0) {
        for (const { folder, name } of await findRuns(inputs)) {
          if (!followers.has(folder)) followers.set(folder, { name, follower: new Follower(folder) })
        }
      }
      looks += 1
      const told: Array<Told> = []
      for (const { name: run, follower } of followers.values()) {
        const { begin, config, metrics, samples } = await follower.look()
        if (begin) told.push({ type: "begin", run, config })
        if (metrics.length > 0) told.push({ type: "metrics", run, lines: metrics })
        if (samples.length > 0) told.push({ type: "samples", run, lines: samples })
      }
      if (told.length > 0) return `data: ${JSON.stringify(told)}\n\n`
      return looks % pingEvery === 0 ? ":\n\n" : ""
    })
    return Stream.concat(
      Stream.fromEffect(look),
      Stream.fromEffectRepeat(Effect.delay(look, lookEvery))
    ).pipe(Stream.filter((text) => text !== ""))
  })

const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M1 2c3 0 3 11 7 11s4-3 7-3" fill="none" stroke="#2f6db5" stroke-width="2.5" stroke-linecap="round"/></svg>`

const headers = {
  "content-security-policy": livePolicy,
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-store"
}

const isLocal = (host: string) => ["localhost", "127.0.0.1", "::1"].includes(host)

/**
 * Whether a request names this machine. Listening for it alone is not enough: any page of the web may have its
 * own name point here and read what it finds.
 */
const isForUs = (request: HttpServerRequest, host: string): boolean =>
  !isLocal(host) || isLocal((request.headers["host"] ?? "").replace(/:\d+$/, "").replaceAll(/[[\]]/g, ""))

/** Serves until it is interrupted. */
export const serveDashboard = (options: ServeDashboardOptions): Effect.Effect<never, ChatlmError> =>
  Effect.scoped(
    Effect.gen(function* () {
      const { inputs, host } = options
      const guarded =
        (respond: Effect.Effect<HttpServerResponse.HttpServerResponse, ChatlmError>) =>
        (request: HttpServerRequest) =>
          isForUs(request, host)
            ? respond.pipe(
                Effect.catch((error) =>
                  Effect.succeed(HttpServerResponse.text(error.message, { status: 500 }))
                )
              )
            : Effect.succeed(HttpServerResponse.text("this page is for this machine alone", { status: 403 }))
      const file = (contentType: string, body: () => string) =>
        guarded(Effect.sync(() => HttpServerResponse.text(body(), { contentType, headers })))
      const page = Effect.gen(function* () {
        const found = yield* attempt(inputs.join(", "), () => findRuns(inputs))
        const runs = yield* Effect.forEach(found, ({ folder, name }) => readRun(folder, name))
        const title =
          found.length === 1
            ? (found[0]?.name ?? "")
            : inputs.map((input) => basename(resolve(input))).join(", ")
        return HttpServerResponse.text(livePage(runs, title), {
          contentType: "text/html; charset=utf-8",
          headers
        })
      })
      const routes = Layer.mergeAll(
        HttpRouter.add("GET", "/", guarded(page)),
        HttpRouter.add(
          "GET",
          "/style.css",
          file("text/css; charset=utf-8", () => style)
        ),
        HttpRouter.add("GET", "/app.js", file("text/javascript; charset=utf-8", script)),
        HttpRouter.add(
          "GET",
          "/icon.svg",
          file("image/svg+xml", () => icon)
        ),
        HttpRouter.add(
          "GET",
          "/events",
          guarded(
            Effect.sync(() =>
              HttpServerResponse.stream(Stream.encodeText(events(inputs)), {
                contentType: "text/event-stream",
                headers
              })
            )
          )
        )
      )
      const app = HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
        Layer.provideMerge(
          NodeHttpServer.layer(createServer, {
            host,
            port: options.port,
            // A stream of events never ends by itself.
            gracefulShutdownTimeout: "100 millis"
          })
        )
      )
      const built = yield* Layer.build(app).pipe(
        Effect.mapError((error) => bindError(host, options.port, error.cause))
      )
      const address = Context.get(built, HttpServer.HttpServer).address
      const port = address._tag === "UnixPathAddress" ? options.port : address.port
      yield* options.onReady(`http://${host.includes(":") ? `[${host}]` : host}:${port}`)
      return yield* Effect.never
    })
  )
