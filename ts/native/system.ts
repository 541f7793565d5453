/** What the operating system says of files, in this program's codes. */
import * as Effect from "effect/Effect"

import { bug, isChatlmError, makeError } from "./errors.ts"
import type { ChatlmError } from "./errors.ts"

const isErrno = (error: unknown): error is NodeJS.ErrnoException => error instanceof Error && "code" in error

/** What the operating system said, in this program's codes. */
export const fileError = (error: unknown, path: string): ChatlmError => {
  if (isChatlmError(error)) return error
  if (!isErrno(error)) return bug(error)
  const message = `${path}: ${error.message.replace(/^[A-Z]+: /, "")}`
  switch (error.code) {
    case "ENOENT":
    case "ENOTDIR":
      return makeError("INPUT_NOT_FOUND", message, "check the path", { file: path }, error)
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return makeError(
        "PERMISSION_DENIED",
        message,
        "choose a place this user may write",
        { file: path },
        error
      )
    case "ENOSPC":
    case "EDQUOT":
    case "EFBIG":
      return makeError("DISK_FULL", message, "free some space and run this again", { file: path }, error)
    default:
      return makeError("IO", message, "see the message of the operating system", { file: path }, error)
  }
}

export const attempt = <A>(
  path: string,
  work: (signal: AbortSignal) => Promise<A>
): Effect.Effect<A, ChatlmError> => Effect.tryPromise({ try: work, catch: (error) => fileError(error, path) })

/** Why a port cannot be listened on. */
export const bindError = (host: string, port: number, cause: unknown): ChatlmError => {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code
  const where = `${host}:${port}`
  const context = { host, port }
  if (code === "EADDRINUSE") {
    const help = "choose another --port, or end the program that listens there"
    return makeError("PORT_IN_USE", `another program listens on ${where}`, help, context, cause)
  }
  if (code === "EACCES") {
    const help = "ports below 1024 belong to the administrator: choose another --port"
    return makeError("PERMISSION_DENIED", `not allowed to listen on ${where}`, help, context, cause)
  }
  const message = cause instanceof Error ? cause.message : String(cause)
  return makeError("IO", `cannot listen on ${where}: ${message}`, "check --host", context, cause)
}
