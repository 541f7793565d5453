/** `chatlm reject`: the model's own answers as the rejected ones. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"

import { defaultBatch, defaultMaxNewTokens, reject } from "../generate/generate.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "reject",
  "Answers of the model as rejected beside prompt and chosen",
  {
    model: Flags.model,
    adapter: Flags.adapter,
    inputs: Flags.inputs,
    output: Flags.output,
    batch: Flags.integer("batch", "Prompts answered together", 1).pipe(Flag.withDefault(defaultBatch)),
    maxNewTokens: Flags.integer("max-new-tokens", "The longest answer in tokens", 1).pipe(
      Flag.withDefault(defaultMaxNewTokens)
    ),
    encoding: Flags.encoding,
    force: Flags.force
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const value = snakeCase(
        yield* reject({
          model: flags.model,
          inputs: [...flags.inputs],
          output: flags.output,
          batch: flags.batch,
          maxNewTokens: flags.maxNewTokens,
          force: flags.force,
          ...Flags.given("adapter", flags.adapter),
          ...Flags.given("encoding", flags.encoding)
        })
      )
      yield* output.result(value, columns(Object.entries(value)))
    })
)
