/** How an ending is told: two lines on standard error, the envelope on standard output with `--json`. */
import * as Cause from "effect/Cause"
import * as CliError from "effect/cli/CliError"
import type * as Exit from "effect/Exit"
import { PlatformError } from "effect/PlatformError"

import { bug, exitStatus, isChatlmError, makeError, toEnvelope, wasInterrupted } from "../../native/index.ts"
import type { ChatlmError } from "../../native/index.ts"
import type { Output } from "./output.ts"

const firstLine = (text: string) => (text.split("\n")[0] ?? "").trim()

/** A command line that effect/cli refuses, in this program's words. */
const fromCli = (error: CliError.CliError): ChatlmError => {
  if (error._tag === "ShowHelp") {
    const first = error.errors[0]
    if (first !== undefined) return fromCliAt(first, error.commandPath)
    return makeError(
      "USAGE",
      `${error.commandPath.join(" ")} is not a whole command`,
      `${error.commandPath.join(" ")} --help lists what may follow`
    )
  }
  return fromCliAt(error, ["chatlm"])
}

const fromCliAt = (error: CliError.CliError, path: ReadonlyArray<string>): ChatlmError => {
  const suggestions =
    error._tag === "UnrecognizedOption" || error._tag === "UnknownSubcommand" ? error.suggestions : []
  const see = `${path.join(" ")} --help shows what there is`
  return makeError(
    "USAGE",
    firstLine(error.message),
    suggestions.length > 0 ? `did you mean ${suggestions.join(" or ")}? ${see}` : see
  )
}

const fromPlatform = (error: PlatformError): ChatlmError => {
  const { reason } = error
  if (reason._tag === "NotFound") {
    return makeError("INPUT_NOT_FOUND", firstLine(error.message), "check the path", {}, error)
  }
  if (reason._tag === "PermissionDenied") {
    return makeError(
      "PERMISSION_DENIED",
      firstLine(error.message),
      "choose a place this user may read and write",
      {},
      error
    )
  }
  return makeError("IO", firstLine(error.message), "see the message of the operating system", {}, error)
}

export const cancelled = (help = "") => makeError("CANCELLED", "interrupted", help)

/** The one error that an exit amounts to, with `help` where it was interrupted; nothing for a good end. */
export const errorOf = (exit: Exit.Exit<unknown, unknown>, help: string): ChatlmError | undefined => {
  if (exit._tag === "Success") return undefined
  if (wasInterrupted(exit) && Cause.hasInterruptsOnly(exit.cause)) return cancelled(help)
  const error = Cause.squash(exit.cause)
  if (isChatlmError(error)) return error
  if (CliError.isCliError(error)) {
    // A bare `chatlm` is a question and has been answered with the help.
    const bare = error._tag === "ShowHelp" && error.errors.length === 0 && error.commandPath.length === 1
    return bare ? undefined : fromCli(error)
  }
  if (error instanceof PlatformError) return fromPlatform(error)
  return bug(error)
}

/** Tells the error and answers the exit status. */
export const tell = (error: ChatlmError, output: Output, cause?: Cause.Cause<unknown>): number => {
  const paint = (code: number, text: string) => (output.colour ? `\u001b[${code}m${text}\u001b[0m` : text)
  const line = (text: string) => text.replaceAll(/\s*\n\s*/g, " ")
  output.writeError(`${paint(31, `error[${error.code}]`)}: ${line(error.message)}`)
  output.writeError(`${paint(36, "help")}: ${line(error.help)}`)
  if (output.debug && cause !== undefined) output.writeError(Cause.pretty(cause))
  if (output.json) output.writeOut(`${JSON.stringify({ error: toEnvelope(error) })}\n`)
  return exitStatus(error)
}
