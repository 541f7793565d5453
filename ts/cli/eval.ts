/** `chatlm eval bleu` and `chatlm eval perplexity`. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { evaluateBleu, evaluatePerplexity } from "../evaluation/evaluation.ts"
import { defaultBatch, defaultMaxNewTokens } from "../generate/generate.ts"
import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output } from "./core/output.ts"
import { group, verb } from "./core/verb.ts"

const batch = Flags.integer("batch", "Rows at once", 1).pipe(Flag.withDefault(defaultBatch))

const precision = (name: string, description: string) =>
  Flag.Literals(name, ["f32", "f16", "bf16", "int8"]).pipe(Flag.withDescription(description), Flag.optional)

const bleu = verb(
  "bleu",
  "BLEU-4 by characters of greedy answers, or of given predictions",
  {
    model: Flags.model.pipe(Flag.optional),
    adapter: Flags.adapter,
    predictions: Flags.text("predictions", "Rows with prediction and label, instead of a model", "FILE").pipe(
      Flag.optional
    ),
    inputs: Flags.optionalInputs,
    batch,
    maxNewTokens: Flags.integer("max-new-tokens", "The longest answer in tokens", 1).pipe(
      Flag.withDefault(defaultMaxNewTokens)
    ),
    limit: Flags.integer("limit", "Only the first so many rows", 1).pipe(Flag.optional),
    encoding: Flags.encoding
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const withModel = Option.isSome(flags.model) && flags.inputs.length > 0
      if (withModel === Option.isSome(flags.predictions)) {
        return yield* Effect.fail(
          makeError(
            "USAGE",
            "eval bleu wants a model with its rows, or predictions",
            "give --model DIR --in PATH…, or --predictions FILE"
          )
        )
      }
      const report = yield* evaluateBleu({
        inputs: [...flags.inputs],
        batch: flags.batch,
        maxNewTokens: flags.maxNewTokens,
        ...Flags.given("model", flags.model),
        ...Flags.given("adapter", flags.adapter),
        ...Flags.given("predictions", flags.predictions),
        ...Flags.given("limit", flags.limit),
        ...Flags.given("encoding", flags.encoding)
      })
      yield* output.result(report, columns(Object.entries(report)))
    })
)

const perplexity = verb(
  "perplexity",
  "Perplexity of the responses given their prompts",
  {
    model: Flags.model,
    adapter: Flags.adapter,
    inputs: Flags.inputs,
    batch,
    maxLength: Flags.integer("max-length", "The longest text in tokens, [EOS] included", 2).pipe(
      Flag.withDefault(512)
    ),
    dtype: precision("dtype", "Measure the engine that answers, in this precision"),
    compare: precision("compare", "Another one: how often both find the same token likeliest")
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const report = yield* evaluatePerplexity({
        model: flags.model,
        inputs: [...flags.inputs],
        batch: flags.batch,
        maxLength: flags.maxLength,
        ...Flags.given("adapter", flags.adapter),
        ...Flags.given("dtype", flags.dtype),
        ...Flags.given("compare", flags.compare)
      })
      yield* output.result(report, columns(Object.entries(report)))
    })
)

export const command = group("eval", "How good a model is", [bleu, perplexity])
