/** `chatlm reject`: the model's own answers as the rejected ones. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { defaultBatch, reject } from "../generate/generate.ts"
import * as Flags from "./core/flags.ts"
import { generationFlags, settingsOf } from "./core/generation.ts"
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
    dtype: Flags.dtype,
    maxSimilarity: Flag.Finite("max-similarity").pipe(
      Flag.withDescription(
        "Leave out pairs whose answers are at least so alike, as dedup measures (default: only the same)"
      ),
      Flag.withMetavar("X"),
      Flag.optional
    ),
    encoding: Flags.encoding,
    keepGoing: Flags.keepGoing,
    force: Flags.force,
    ...generationFlags
  },
  (flags, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      const value = snakeCase(
        yield* reject({
          model: flags.model,
          inputs: [...flags.inputs],
          output: flags.output,
          batch: flags.batch,
          settings: settingsOf(flags, Option.some(Option.getOrElse(common.seed, () => Flags.defaultSeed))),
          keepGoing: flags.keepGoing,
          force: flags.force,
          ...Flags.given("adapter", flags.adapter),
          ...Flags.given("dtype", flags.dtype),
          ...Flags.given("maxSimilarity", flags.maxSimilarity),
          ...Flags.given("encoding", flags.encoding)
        })
      )
      yield* output.result(value, columns(Object.entries(value)))
    }),
  [
    {
      command: "chatlm reject --model sft/best --in pairs.parquet --out dpo.parquet",
      description: "Pairs for dpo; the same command goes on after an interruption"
    }
  ]
)
