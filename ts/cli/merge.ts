/** `chatlm merge`: the rows of several inputs in one table. */
import * as Effect from "effect/Effect"

import { merge } from "../dataset/dataset.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "merge",
  "The rows of all inputs, in order, in one table",
  {
    inputs: Flags.inputs,
    output: Flags.output,
    encoding: Flags.encoding,
    keepGoing: Flags.keepGoing,
    force: Flags.force
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const value = snakeCase(
        yield* merge({
          inputs: [...flags.inputs],
          output: flags.output,
          keepGoing: flags.keepGoing,
          force: flags.force,
          ...Flags.given("encoding", flags.encoding)
        })
      )
      yield* output.result(value, columns(Object.entries(value)))
    })
)
