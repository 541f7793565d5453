/** `chatlm generate`: answers to prompts. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"

import { prompts } from "../dataset/dataset.ts"
import { defaultBatch, loadGenerator } from "../generate/generate.ts"
import { makeError, ProgressReporter } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { answersFlag, generationFlags, settingsOf } from "./core/generation.ts"
import { Output } from "./core/output.ts"
import { verb } from "./core/verb.ts"

/** Batches of prompts that are read, answered and printed at a time: bounds memory, whatever the file's size. */
const groups = 16

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
    answers: answersFlag,
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
      const generator = yield* loadGenerator({
        model: flags.model,
        dtype: flags.dtype,
        ...Flags.given("adapter", flags.adapter)
      })
      const settings = {
        ...settingsOf(flags, Option.some(Option.getOrElse(common.seed, () => Flags.defaultSeed))),
        ...Flags.given("answers", flags.answers)
      }
      const size = flags.batch * groups
      const read =
        flags.inputs.length === 0
          ? Stream.empty
          : prompts({ inputs: [...flags.inputs], ...Flags.given("encoding", flags.encoding) }, size)
      const given = Stream.fromIterable(flags.prompt.length === 0 ? [] : [flags.prompt])
      const report = yield* ProgressReporter
      let first = 0
      yield* Stream.concat(given, read).pipe(
        Stream.runForEach((some) =>
          Effect.gen(function* () {
            const answers = yield* generator.generate(some, settings, flags.batch, first)
            for (const { prompt, response, tokens, score } of answers) {
              const scored = typeof score === "number" ? { score } : {}
              yield* output.result({ prompt, response, tokens, ...scored }, response)
            }
            first += some.length
          })
        ),
        // How many a file holds is known only at its end.
        Effect.provideService(ProgressReporter, (progress) =>
          report(
            flags.inputs.length === 0 || progress.stage !== "generate"
              ? progress
              : { ...progress, total: null }
          )
        )
      )
    }),
  [
    {
      command: "chatlm generate --model model_save --prompt 你好 --search sample --top-p 0.8",
      description: "One answer, sampled"
    },
    {
      command: "chatlm generate --model model_save --in questions.jsonl --beams 5 --n-best 3 --json",
      description: "The three best of five beams for every row, with their scores"
    }
  ]
)
