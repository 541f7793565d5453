/** `chatlm generate`: answers to prompts. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { inspect } from "../dataset/dataset.ts"
import { defaultBatch, loadGenerator } from "../generate/generate.ts"
import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { generationFlags, settingsOf } from "./core/generation.ts"
import { Output } from "./core/output.ts"
import { verb } from "./core/verb.ts"

/** More rows than any file has. */
const allRows = 0xffff_ffff

/** The prompts of rows: the column `prompt`, or the lines of a text file. */
const readPrompts = (inputs: ReadonlyArray<string>, encoding: Option.Option<string>) =>
  Effect.gen(function* () {
    if (inputs.length === 0) return []
    const { samples, columns } = yield* inspect({
      inputs: [...inputs],
      rows: allRows,
      ...Flags.given("encoding", encoding)
    })
    const prompts: Array<string> = []
    for (const [row, sample] of samples.entries()) {
      const prompt = sample.prompt ?? sample.text
      if (typeof prompt !== "string" || prompt === "") {
        return yield* Effect.fail(
          makeError(
            "INPUT_ROW",
            `${inputs.join(" ")}: row ${row} has no prompt`,
            `rows need a column prompt; there are ${columns.map(({ name }) => name).join(", ")}`,
            { row, field: "prompt" }
          )
        )
      }
      prompts.push(prompt)
    }
    return prompts
  })

export const command = verb(
  "generate",
  "Answers to prompts",
  {
    model: Flags.model,
    adapter: Flags.adapter,
    inputs: Flags.optionalInputs,
    prompt: Flags.text("prompt", "A prompt; may be given several times").pipe(Flag.atLeast(0)),
    batch: Flags.integer("batch", "Prompts answered together", 1).pipe(Flag.withDefault(defaultBatch)),
    dtype: Flags.dtype,
    encoding: Flags.encoding,
    ...generationFlags
  },
  (flags, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      if (flags.prompt.length === 0 && flags.inputs.length === 0) {
        return yield* Effect.fail(
          makeError(
            "USAGE",
            "there is nothing to answer",
            "give --prompt TEXT or --in FILE (- is standard input)"
          )
        )
      }
      const prompts = [...flags.prompt, ...(yield* readPrompts(flags.inputs, flags.encoding))]
      const generator = yield* loadGenerator({
        model: flags.model,
        dtype: flags.dtype,
        ...Flags.given("adapter", flags.adapter)
      })
      const seed = Option.some(Option.getOrElse(common.seed, () => Flags.defaultSeed))
      const answers = yield* generator.generate(prompts, settingsOf(flags, seed), flags.batch)
      for (const { prompt, response, tokens } of answers) {
        yield* output.result({ prompt, response, tokens }, response)
      }
    }),
  [
    {
      command: "chatlm generate --model model_save --prompt 你好 --search sample --top-p 0.8",
      description: "One answer, sampled"
    }
  ]
)
