/** `chatlm dashboard DIR…`: runs as a live page, or as one HTML file. */
import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import * as Flags from "./core/flags.ts"
import { Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "dashboard",
  "Training runs as a live page, or as one HTML file",
  {
    runs: Argument.String("dir").pipe(
      Argument.withDescription("Run folders, or folders that hold some"),
      Argument.variadic({ min: 1 })
    ),
    host: Flags.text("host", "The address to listen on", "ADDRESS").pipe(Flag.withDefault("127.0.0.1")),
    port: Flags.port(8813),
    output: Flags.text("out", "Write the page as one file instead", "FILE.html").pipe(Flag.optional),
    force: Flags.force,
    open: Flags.boolean("open", "Show the page in the browser")
  },
  ({ runs, host, port, output: target, force, open }) =>
    Effect.gen(function* () {
      const output = yield* Output
      const { openInBrowser: show } = yield* Effect.promise(() => import("../dashboard/open.ts"))
      if (Option.isSome(target)) {
        const { makeDashboard } = yield* Effect.promise(() => import("../dashboard/dashboard.ts"))
        const page = yield* makeDashboard({ inputs: runs, output: target.value, force })
        yield* output.result(snakeCase(page), page.output)
        if (open) yield* show(page.output)
        return
      }
      const { serveDashboard } = yield* Effect.promise(() => import("../dashboard/server.ts"))
      const onReady = (address: string) =>
        Effect.gen(function* () {
          yield* output.warn(`the dashboard is at ${address}`)
          if (output.json) yield* output.result({ address }, "")
          if (open) yield* show(address)
        })
      return yield* serveDashboard({ inputs: runs, host, port, onReady })
    }),
  [
    { command: "chatlm dashboard runs/", description: "All runs of a folder, live" },
    { command: "chatlm dashboard runs/a runs/b --out runs.html", description: "Two runs as one file" }
  ]
)
