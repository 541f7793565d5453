/**
 * Requests to a hub: redirects followed by hand, so that the token goes to nobody but the hub; what a server
 * or the network does wrong as a `Failure` that says whether another attempt makes sense, and when.
 */
import * as Effect from "effect/Effect"

import { bug, isChatlmError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { broken, isFailure } from "./failure.ts"
import type { Failure } from "./failure.ts"
import { longestDelay } from "./settings.ts"
import type { FetchSettings } from "./settings.ts"

/** `Retry-After` as seconds or a date, or the reset of a rate limit that is used up. */
const askedWait = (headers: Headers): number | undefined => {
  const after = headers.get("retry-after")
  if (after !== null) {
    const seconds = Number(after)
    const wait = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(after) - Date.now()
    if (Number.isFinite(wait)) return Math.max(0, wait)
  }
  const reset = /;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)/.exec(headers.get("ratelimit") ?? "")
  return reset === null ? undefined : Number(reset[1]) * 1000
}

const passing = new Set([408, 425, 429, 500, 502, 503, 504])

const refusal = (response: Response, url: string): Failure => ({
  _tag: "Failure",
  status: response.status,
  code: response.headers.get("x-error-code") ?? undefined,
  message: response.headers.get("x-error-message") ?? `${response.status} ${response.statusText}`.trim(),
  url,
  transient: passing.has(response.status),
  wait: passing.has(response.status) ? askedWait(response.headers) : undefined,
  received: 0
})

/** A request that is under way: its connection counts as broken after a silence. */
export interface Connection {
  readonly response: Response
  /** The body; throws a `Failure` where it breaks off. */
  readonly chunks: AsyncIterable<Uint8Array>
}

export interface Asking {
  readonly headers?: Readonly<Record<string, string>>
  /** What proves who asks; for the origin of the first address alone. */
  readonly credentials: Readonly<Record<string, string>>
  readonly patience: number
}

const redirects = new Set([301, 302, 303, 307, 308])

/** Opens an address; throws a `Failure` for anything but an answer with content. */
export const open = async (url: string, asking: Asking, signal: AbortSignal): Promise<Connection> => {
  const silence = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const heard = () => {
    clearTimeout(timer)
    timer = setTimeout(
      () => silence.abort(new Error(`no answer within ${asking.patience / 1000} seconds`)),
      asking.patience
    )
  }
  const either = AbortSignal.any([signal, silence.signal])
  const { origin } = new URL(url)
  let address = url
  try {
    for (let hops = 0; hops < 10; hops += 1) {
      heard()
      const own = new URL(address).origin === origin
      // Compressed bytes would be no use: sizes, ranges and hashes are those of the file.
      const headers = {
        "user-agent": "chatlm",
        "accept-encoding": "identity",
        ...asking.headers,
        ...(own ? asking.credentials : {})
      }
      const response = await fetch(address, { headers, redirect: "manual", signal: either })
      const location = response.headers.get("location")
      if (redirects.has(response.status) && location !== null) {
        await response.body?.cancel()
        address = new URL(location, address).href
        continue
      }
      if (!response.ok) {
        const failure = refusal(response, url)
        await response.body?.cancel()
        throw failure
      }
      return { response, chunks: read(response, url, heard, () => clearTimeout(timer)) }
    }
    throw { ...broken(url, "it is redirected in a circle"), transient: false }
  } catch (error) {
    clearTimeout(timer)
    throw isFailure(error) ? error : broken(url, silence.signal.aborted ? silence.signal.reason : error)
  }
}

async function* read(response: Response, url: string, heard: () => void, end: () => void) {
  let received = 0
  try {
    for await (const chunk of response.body ?? []) {
      heard()
      yield chunk as Uint8Array
      received += chunk.length
    }
  } catch (error) {
    throw isFailure(error) ? error : broken(url, error, received)
  } finally {
    end()
  }
}

/** Work that is told when its fiber is interrupted, and waited for, so that it can close what it opened. */
export const working = <A, E>(
  work: (signal: AbortSignal) => Promise<A>,
  caught: (error: unknown) => E
): Effect.Effect<A, E> =>
  Effect.callback<A, E>((resume) => {
    const controller = new AbortController()
    const settled = work(controller.signal).then(
      (value) => resume(Effect.succeed(value)),
      (error: unknown) => resume(Effect.fail(caught(error)))
    )
    return Effect.promise(() => {
      controller.abort()
      return settled
    })
  })

/**
 * Runs attempts until one succeeds: a passing failure is waited out, each time longer, or as long as the
 * server asks; it is final after so many in a row that brought nothing.
 */
export const persistently = <A>(
  attempt: Effect.Effect<A, Failure | ChatlmError>,
  settings: FetchSettings
): Effect.Effect<A, Failure | ChatlmError> =>
  Effect.gen(function* () {
    for (let fruitless = 0; ;) {
      const exit = yield* Effect.result(attempt)
      if (exit._tag === "Success") return exit.success
      const failure = exit.failure
      if (!isFailure(failure) || !failure.transient) return yield* Effect.fail(failure)
      fruitless = failure.received > 0 ? 1 : fruitless + 1
      const delay = failure.wait ?? settings.firstDelay * 2 ** (fruitless - 1)
      if (fruitless >= settings.attempts || delay > longestDelay) return yield* Effect.fail(failure)
      yield* Effect.sleep(Math.min(delay, longestDelay))
    }
  })

/** A JSON answer and its headers. */
export const getJson = (
  url: string,
  credentials: Readonly<Record<string, string>>,
  settings: FetchSettings
): Effect.Effect<{ readonly value: unknown; readonly headers: Headers }, Failure | ChatlmError> =>
  persistently(
    working(
      async (signal) => {
        const { response, chunks } = await open(url, { credentials, patience: settings.patience }, signal)
        const parts: Array<Uint8Array> = []
        for await (const chunk of chunks) parts.push(chunk)
        try {
          return {
            value: JSON.parse(Buffer.concat(parts).toString("utf8")) as unknown,
            headers: response.headers
          }
        } catch {
          throw { ...broken(url, "the answer is no JSON: this is no hub"), transient: false }
        }
      },
      (error) => (isFailure(error) || isChatlmError(error) ? error : bug(error))
    ),
    settings
  )
