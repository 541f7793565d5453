/**
 * What stands between a stranger and the handlers, in this order: a number for the request and its line in the log,
 * the `Host` header, other origins, requests a minute, the body.
 */
import { randomUUID } from "node:crypto"

import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpEffect from "effect/http/HttpEffect"
import * as HttpMiddleware from "effect/http/HttpMiddleware"
import type { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as IpNetwork from "effect/net/IpNetwork"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"

import { hostCheck } from "./hosts.ts"
import { credentialOf, keyIndex } from "./keys.ts"
import { CurrentRecord, logRequest } from "./log.ts"
import type { RequestRecord } from "./log.ts"
import { responded } from "./metrics.ts"
import { addressGroup, makeRateLimit } from "./rate.ts"
import { refuse, withBodies, withMissing } from "./refusals.ts"

export interface GuardOptions {
  readonly apiKeys: ReadonlyArray<string>
  /** Requests a minute of one key, or of one address where the request has none of the keys. Default: any number. */
  readonly rateLimit?: number
  /** Bytes of a body. Default 1 MiB. */
  readonly maxBody?: number
  /** Origins whose pages may ask; `*` is any. Default: none but the server's own. */
  readonly corsOrigins?: ReadonlyArray<string>
  /**
   * Networks of proxies, such as `127.0.0.1/32`, whose word is taken for where a request comes from
   * (`X-Forwarded-For`). Default: nobody's.
   */
  readonly trustedProxies?: ReadonlyArray<string>
  /** Names under which the server may be asked. Default: any. */
  readonly hosts?: ReadonlyArray<string>
  /** Whether each request gets a line in the log (`Effect.logInfo`), and whether that has its texts. */
  readonly log?: "requests" | "texts"
}

/** The application as `application.ts` has it. */
export type App = Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  HttpServerError,
  HttpServerRequest.HttpServerRequest | Scope.Scope
>

export const bodyLimit = 1024 * 1024

/** A name that a proxy has given the request is kept, where it looks like one. */
const idOf = (given: string | undefined): string =>
  given !== undefined && /^[\w.-]{1,64}$/.test(given) ? given : `req_${randomUUID().replaceAll("-", "")}`

const corsFor = (origins: ReadonlyArray<string>) =>
  HttpMiddleware.cors({
    allowedOrigins: origins.includes("*") ? [] : (origin) => origins.includes(origin),
    allowedMethods: ["GET", "HEAD", "POST"],
    // What a page may read besides the body.
    exposedHeaders: ["x-request-id", "x-chatlm-prompt-cut", "retry-after"],
    maxAge: 600
  })

/** Requests that cost nothing are not counted, unless they try a key. */
const isFree = (method: string, triesKey: boolean) => (method === "GET" || method === "HEAD") && !triesKey

export const guarded = (options: GuardOptions): ((app: App) => App) => {
  const { apiKeys, corsOrigins = [], maxBody = bodyLimit, trustedProxies = [] } = options
  const keyOf = keyIndex(apiKeys)
  const isKnownHost = options.hosts === undefined ? undefined : hostCheck(options.hosts)
  const limit = options.rateLimit === undefined ? undefined : makeRateLimit(options.rateLimit)
  const forwarded = HttpMiddleware.xForwardedHeaders({
    trustedProxies: trustedProxies.map(IpNetwork.fromStringUnsafe)
  })
  const cors = corsOrigins.length === 0 ? undefined : corsFor(corsOrigins)

  /** 429 where a client has had its requests of this minute. */
  const overRate = Effect.fnUntraced(function* (
    request: HttpServerRequest.HttpServerRequest,
    record: RequestRecord
  ) {
    const triesKey =
      apiKeys.length > 0 && request.headers.authorization !== undefined && record.key === undefined
    if (limit === undefined || isFree(request.method, triesKey)) return undefined
    const address = Option.getOrElse(request.remoteAddress, () => "")
    const client = record.key === undefined ? addressGroup(address) : `key ${record.key}`
    const wait = limit.take(client, yield* Clock.currentTimeMillis)
    if (wait === 0) return undefined
    const seconds = Math.ceil(wait / 1000)
    return refuse(
      request.url,
      429,
      `more than ${options.rateLimit} requests a minute; ask again in ${seconds} s`,
      { type: "requests", code: "rate_limit_exceeded" },
      { "retry-after": String(seconds) }
    )
  })

  return (app) => {
    const found = withMissing(app)
    const read = withBodies(maxBody, found)
    const answered: App = Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const record = yield* CurrentRecord
      const refused = record === undefined ? undefined : yield* overRate(request, record)
      if (refused !== undefined) return refused
      // Of strangers no body is read.
      return yield* apiKeys.length > 0 && record?.key === undefined ? found : read
    })
    const shared = cors === undefined ? answered : cors(answered)
    // Behind the check of Host: a page with a rebound name can put other names into other headers.
    const told = trustedProxies.length === 0 ? shared : forwarded(shared)
    return Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const credential = credentialOf(request.headers.authorization)
      const record: RequestRecord = {
        id: idOf(request.headers["x-request-id"]),
        key: credential === undefined ? undefined : keyOf(credential),
        status: undefined,
        promptTokens: 0,
        completionTokens: 0,
        texts: options.log === "texts" ? [] : undefined
      }
      yield* HttpEffect.appendPreResponseHandler((_, response) => {
        record.status = response.status
        const named = HttpServerResponse.setHeader(response, "x-request-id", record.id)
        return Effect.as(responded(response.status), named)
      })
      if (options.log !== undefined) {
        const began = yield* Clock.currentTimeMillis
        yield* Effect.addFinalizer((exit) =>
          Effect.flatMap(Clock.currentTimeMillis, (now) =>
            logRequest(record, {
              method: request.method,
              url: request.url,
              milliseconds: now - began,
              aborted: Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)
            })
          )
        )
      }
      if (isKnownHost?.(request.headers.host) === false) {
        return refuse(
          request.url,
          403,
          "the Host header names another server; --allowed-host adds names to those of this one"
        )
      }
      return yield* told.pipe(
        Effect.provideService(CurrentRecord, record),
        Effect.annotateLogs("id", record.id),
        Effect.tapCause((cause) =>
          Cause.hasDies(cause) ? Effect.logError(Cause.pretty(cause)) : Effect.void
        )
      )
    })
  }
}
