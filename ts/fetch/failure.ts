/** What goes wrong with a request, and how what is left of it is told. */
import { isChatlmError, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"

/** Why a request has failed. */
export interface Failure {
  readonly _tag: "Failure"
  /** Undefined where there was no answer at all. */
  readonly status: number | undefined
  /** The hub's own word, such as `GatedRepo`. */
  readonly code: string | undefined
  readonly message: string
  readonly url: string
  /** May go better the next time. */
  readonly transient: boolean
  /** Milliseconds that the server asks to be left alone. */
  readonly wait: number | undefined
  /** Bytes that came before it. */
  readonly received: number
}

/** Some errors of Node have only a code, such as `ECONNREFUSED` of all addresses of a host. */
const wordsOf = (error: unknown): string =>
  error instanceof Error
    ? error.message || ("code" in error ? String(error.code) : error.name)
    : String(error)

/** A failure without an answer, or in the middle of one. */
export const broken = (url: string, cause: unknown, received = 0): Failure => {
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause
  return {
    _tag: "Failure",
    status: undefined,
    code: undefined,
    message: wordsOf(inner),
    url,
    transient: true,
    wait: undefined,
    received
  }
}

export const isFailure = (value: unknown): value is Failure =>
  typeof value === "object" && value !== null && "_tag" in value && value._tag === "Failure"

/** A failure that is left, as one of this program's errors; `what` was asked for, such as `hf:owner/name`. */
export const explain = (failure: Failure | ChatlmError, what: string, hub: string): ChatlmError => {
  if (isChatlmError(failure)) return failure
  const { status, code, message, url } = failure
  const context = { reference: what, url, ...(status === undefined ? {} : { status }) }
  if (code === "GatedRepo") {
    return makeError(
      "PERMISSION_DENIED",
      `${what} is gated: ${message}`,
      `ask for access on ${hub}, then set HF_TOKEN to a token of the account that got it`,
      context,
      failure
    )
  }
  if (code === "RevisionNotFound") {
    return makeError(
      "INPUT_NOT_FOUND",
      `${what}: there is no such revision`,
      `look at the branches and tags on ${hub}`,
      context,
      failure
    )
  }
  if (code === "EntryNotFound") {
    return makeError(
      "INPUT_NOT_FOUND",
      `${what}: there is no such file or folder`,
      `look at the files on ${hub}`,
      context,
      failure
    )
  }
  if (status === 404 || code === "RepoNotFound" || (status === 401 && code === undefined)) {
    return makeError(
      "INPUT_NOT_FOUND",
      `${what} is not on ${hub}${status === 401 ? ", or not for everybody" : ""}`,
      "check the name; a data set is hf:datasets/owner/name; what is private needs HF_TOKEN",
      context,
      failure
    )
  }
  if (status === 401 || status === 403) {
    return makeError(
      "PERMISSION_DENIED",
      `${what}: ${hub} refuses it: ${message}`,
      "set HF_TOKEN to a token that may read it",
      context,
      failure
    )
  }
  const asked =
    failure.wait === undefined ? "" : `; it asks for ${Math.ceil(failure.wait / 1000)} seconds of rest`
  return makeError(
    "NETWORK",
    `${what}: ${hub} cannot be reached: ${message}${asked}`,
    "run this again: it goes on where it stopped; HF_ENDPOINT names another server, HF_HUB_OFFLINE=1 uses what is there",
    context,
    failure
  )
}
