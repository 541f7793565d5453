/** `chatlm corpus`: text for a tokenizer. */
import * as Effect from "effect/Effect"

import { corpus } from "../dataset/dataset.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "corpus",
  "Text for a tokenizer: prompt[SEP]response[SEP] a row, text files and Wikipedia's dumps by lines",
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
        yield* corpus({
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
