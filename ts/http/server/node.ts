/**
 * The application in a Node server that somebody else has: a function of a request and a response, as `http`,
 * Connect and Express take it. The page is not part of it.
 */
import type { IncomingMessage, ServerResponse } from "node:http"

import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as Latch from "effect/Latch"
import * as Scope from "effect/Scope"

import { localFolder } from "../../fetch/fetch.ts"
import type { ChatlmError, Native } from "../../native/index.ts"
import { makeApplication } from "./application.ts"
import type { ApplicationOptions } from "./application.ts"
import { methodsAt } from "./paths.ts"

export interface NodeHandlerOptions extends Partial<Omit<ApplicationOptions, "generator">> {
  /** A model folder, or `hf:owner/name`. */
  readonly model: string
  /** A PEFT adapter folder for that model. */
  readonly adapter?: string
  /** `f32`, `f16`, `bf16` or `int8`; left out, what the folder holds. */
  readonly dtype?: string
  /** `cpu`, `cuda:N` or `metal`; left out, the best there is. */
  readonly device?: string
  /** The longest prompt in tokens; longer ones are cut. */
  readonly maxLength?: number
  /** A path under which all is found, such as `/chatlm`. Not for servers that take it off themselves (Express). */
  readonly prefix?: string
  /** How long running answers may take once the scope is to be closed. 20 where left out. */
  readonly drainSeconds?: number
}

/**
 * Answers a request. Where there is a `next`, paths that are not the API's are left to it; else they are 404.
 */
export type NodeHandler = (request: IncomingMessage, response: ServerResponse, next?: () => void) => void

/** The URL without the prefix; undefined where it has another. */
const within = (prefix: string, url: string): string | undefined => {
  if (prefix === "") return url
  if (!url.startsWith(prefix)) return undefined
  const rest = url.slice(prefix.length)
  return rest === "" || rest.startsWith("?") ? `/${rest}` : rest.startsWith("/") ? rest : undefined
}

/** A body that a parser before us has read (`express.json()`) as the text that it was. */
const textOf = (body: unknown): string =>
  body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body)

/** A request whose body is known, whatever becomes of its other parts. */
const withText = (
  request: HttpServerRequest.HttpServerRequest,
  text: string
): HttpServerRequest.HttpServerRequest =>
  Object.create(request, {
    text: { value: Effect.succeed(text) },
    arrayBuffer: { value: Effect.succeed(new TextEncoder().encode(text).buffer) },
    modify: {
      value: (...changes: Parameters<typeof request.modify>) => withText(request.modify(...changes), text)
    }
  })

/** The request as the application is to see it. */
const seen =
  (prefix: string) =>
  (request: HttpServerRequest.HttpServerRequest): HttpServerRequest.HttpServerRequest => {
    const inner = request.modify({ url: within(prefix, request.url) ?? request.url })
    const source = request.source as IncomingMessage & { readonly body?: unknown }
    if (!source.readableEnded) return inner
    return withText(inner, Buffer.isBuffer(source.body) ? source.body.toString("utf8") : textOf(source.body))
  }

/** What the application is not asked for. */
const refuse = (response: ServerResponse, status: number, message: string) => {
  const type = status === 404 ? "invalid_request_error" : "server_error"
  const error = { message, type, param: null, code: null }
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ error }))
}

/**
 * Loads a model and answers requests with it until the scope is closed: then running answers end first, for as long
 * as `drainSeconds` allows, and the model is freed.
 */
export const makeNodeHandler = Effect.fnUntraced(function* (
  options: NodeHandlerOptions
): Effect.fn.Return<NodeHandler, ChatlmError, Native | Scope.Scope> {
  const { adapter, dtype, device, maxLength, drainSeconds = 20 } = options
  const prefix = `/${options.prefix ?? ""}`.replace(/\/+/g, "/").replace(/\/$/, "")
  const application = yield* makeApplication({
    ...options,
    settings: options.settings ?? {},
    apiKeys: options.apiKeys ?? [],
    generator: {
      model: yield* localFolder(options.model, "model"),
      ...(adapter === undefined ? {} : { adapter: yield* localFolder(adapter, "model") }),
      ...(dtype === undefined ? {} : { dtype }),
      ...(device === undefined ? {} : { device }),
      ...(maxLength === undefined ? {} : { maxLength })
    }
  })
  const fibers = yield* Effect.acquireRelease(Scope.make("parallel"), (scope, exit) =>
    Scope.close(scope, exit)
  )
  const handle = yield* NodeHttpServer.makeHandler(
    Effect.updateService(application.respond, HttpServerRequest.HttpServerRequest, seen(prefix)),
    { scope: fibers }
  )
  const open = new Set<ServerResponse>()
  const idle = Latch.makeUnsafe(true)
  let closed = false
  yield* Effect.addFinalizer(() =>
    application.drain.pipe(
      Effect.andThen(Effect.timeoutOption(idle.await, `${drainSeconds} seconds`)),
      Effect.andThen(
        Effect.sync(() => {
          closed = true
        })
      )
    )
  )
  yield* application.load
  return (request, response, next) => {
    const url = within(prefix, request.url ?? "/")
    if (next !== undefined && (url === undefined || methodsAt(url) === undefined)) return next()
    if (url === undefined) return refuse(response, 404, `all is under ${prefix}`)
    if (closed) return refuse(response, 503, "the model is gone")
    open.add(response)
    idle.closeUnsafe()
    response.once("close", () => {
      open.delete(response)
      if (open.size === 0) idle.openUnsafe()
    })
    return handle(request, response)
  }
})
