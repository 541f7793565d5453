/** `chatlm report IN.json… --out report.html`: what cleaning and dedup have done, as one page. */
import * as Argument from "effect/cli/Argument"
import * as Effect from "effect/Effect"

import { makeReport } from "../report/report.ts"
import * as Flags from "./core/flags.ts"
import { Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "report",
  "One HTML page of what clean and dedup have reported",
  {
    reports: Argument.String("report").pipe(
      Argument.withDescription("What --report has written, or folders that hold such files"),
      Argument.variadic({ min: 1 })
    ),
    output: Flags.output,
    force: Flags.force
  },
  ({ reports, output: target, force }) =>
    Effect.gen(function* () {
      const output = yield* Output
      const page = yield* makeReport({ inputs: reports, output: target, force })
      yield* output.result(snakeCase(page), page.output)
    }),
  [{ command: "chatlm report reports/ --out report.html", description: "All reports of a folder" }]
)
