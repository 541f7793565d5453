/**
 * The command line as one function from a host to an exit status: parses, runs the verb, takes signals,
 * tells errors. It never throws.
 */
import { readFileSync } from "node:fs"

import * as NodeServices from "@effect/platform-node/NodeServices"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"

import { exitStatus } from "../native/index.ts"
import type { Native } from "../native/index.ts"
import { globalFlags, spread } from "./core/flags.ts"
import { Host } from "./core/host.ts"
import { makeOutput, Output } from "./core/output.ts"
import type { Output as OutputService } from "./core/output.ts"
import { cancelled, errorOf, tell } from "./core/report.ts"
import { Server } from "./core/server.ts"
import { makeSignals, Signals } from "./core/signals.ts"
import { verbsFor } from "./verbs.ts"

/** What stands behind the verbs; tests give an in-memory core. */
export interface Parts {
  readonly native: Layer.Layer<Native>
  readonly server: Server
}

/** Two signals so close together are one: a launcher may pass on what the terminal sent to us as well. */
const echo = 300

const version = (): string => {
  const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string
  }
  return manifest.version
}

/** Help and version as results; errors are told by `report.ts` alone. */
const presenter = (output: OutputService): CliOutput.Presenter => {
  const formatter = CliOutput.defaultFormatter({ colors: output.colour })
  return {
    present: (event) =>
      Effect.sync(() => {
        if (event._tag === "Version") output.writeOut(`${event.name} ${event.version}\n`)
        // A bare `chatlm` is a question; a bare `chatlm eval` is half a command.
        if (event._tag === "Help" && (event.reason === "Requested" || event.commandPath.length === 1)) {
          output.writeOut(`${formatter.formatHelpDoc(event.helpDoc)}\n`)
        }
      })
  }
}

export const main = async (host: Host, parts: Parts): Promise<number> => {
  const output = makeOutput(host)
  const signals = makeSignals()
  const args = spread(host.args)

  const program = Effect.gen(function* () {
    const verbs = yield* Effect.promise(() => verbsFor(args))
    const root = Command.make("chatlm").pipe(
      Command.withDescription("Train a small chat model from scratch and serve it"),
      Command.withSubcommands(verbs),
      Command.withGlobalFlags(globalFlags)
    )
    yield* Command.runWith(root, { version: version() })(args)
  }).pipe(
    Effect.provide(
      Layer.mergeAll(
        NodeServices.layer,
        parts.native,
        Layer.succeed(Host, host),
        Layer.succeed(Output, output),
        Layer.succeed(Signals, signals),
        Layer.succeed(Server, parts.server),
        CliOutput.layerPresenter(presenter(output)),
        Logger.layer([
          Logger.make(({ logLevel, message }) => {
            output.writeError(`${logLevel.toLowerCase()}: ${String(message)}`)
          })
        ])
      )
    )
  )

  const fiber = Effect.runFork(program)
  let interruptedAt: number | undefined
  let readerLeft = false
  const stopListening = host.onSignal((signal) => {
    if (signals.dispatch(signal)) return
    readerLeft ||= signal === "SIGPIPE"
    const now = host.now()
    if (interruptedAt === undefined) {
      interruptedAt = now
      if (!output.quiet && signal !== "SIGPIPE") {
        output.writeError(`stopping: ${signals.ending.stopping}; once more stops at once`)
      }
      fiber.interruptUnsafe()
    } else if (now - interruptedAt > echo && signal !== "SIGPIPE") {
      host.exit(exitStatus(cancelled()))
    }
  })
  const exit = await Effect.runPromise(Fiber.await(fiber))
  stopListening()
  const error = errorOf(exit, signals.ending.help)
  if (error === undefined) return 0
  // Nobody reads any more (chatlm … | head): that is how the reader wants it, and nothing to tell.
  if (readerLeft && error._tag === "CancelledError") return exitStatus(error)
  return tell(error, output, Exit.isFailure(exit) ? exit.cause : undefined)
}
