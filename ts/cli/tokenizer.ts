/** `chatlm tokenizer`: train, encode, and the verbs of other files. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

import { loadTokenizer, tokenizerDefaults, tokenizerModels, trainTokenizer } from "../tokenizer/tokenizer.ts"
import * as Flags from "./core/flags.ts"
import { Host } from "./core/host.ts"
import { lines } from "./core/lines.ts"
import { Output } from "./core/output.ts"
import { maxMemory } from "./core/size.ts"
import { group, verb } from "./core/verb.ts"
import { report } from "./tokenizer-report.ts"
import { extend, fromWords, imported, retrain, shown } from "./tokenizer-ways.ts"

const train = verb(
  "train",
  "Train a tokenizer on every text column of the inputs",
  {
    inputs: Flags.inputs,
    output: Flags.output,
    model: Flag.Literals("model", tokenizerModels).pipe(
      Flag.withDescription("How text becomes symbols and pieces"),
      Flag.withDefault(tokenizerDefaults.model)
    ),
    vocabSize: Flags.integer("vocab-size", "Tokens in all, special ones included", 8).pipe(
      Flag.withDefault(tokenizerDefaults.vocabSize)
    ),
    minFrequency: Flags.integer("min-frequency", "Pairs seen less often are not merged", 0).pipe(
      Flag.withDefault(tokenizerDefaults.minFrequency)
    ),
    maxMemory: maxMemory("half of what is free"),
    encoding: Flags.encoding,
    force: Flags.force
  },
  (flags) =>
    Effect.flatMap(
      trainTokenizer({
        inputs: [...flags.inputs],
        output: flags.output,
        model: flags.model,
        vocabSize: flags.vocabSize,
        minFrequency: flags.minFrequency,
        force: flags.force,
        ...Flags.given("maxMemory", flags.maxMemory),
        ...Flags.given("encoding", flags.encoding)
      }),
      shown
    )
)

const encode = verb(
  "encode",
  "Encode lines from standard input",
  { tokenizer: Flags.text("tokenizer", "A tokenizer folder", "DIR") },
  (flags) =>
    Effect.gen(function* () {
      const host = yield* Host
      const output = yield* Output
      const tokenizer = yield* loadTokenizer(flags.tokenizer)
      yield* lines(host.stdin).pipe(
        Stream.runForEach((line) =>
          Effect.flatMap(tokenizer.encode(line), (encoded) => output.result(encoded, encoded.ids.join(" ")))
        )
      )
    })
)

export const command = group("tokenizer", "Make a tokenizer or use one", [
  train,
  fromWords,
  retrain,
  imported,
  extend,
  encode,
  report
])
