/** `chatlm tokenizer`: train, from-words, retrain, import, extend, encode, report. */

import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Stream from "effect/Stream"

import { makeError } from "../native/index.ts"
import {
  extendTokenizer,
  fromWordsDefaults,
  importTokenizer,
  loadTokenizer,
  retrainTokenizer,
  tokenizerDefaults,
  tokenizerFromWords,
  tokenizerModels,
  trainTokenizer
} from "../tokenizer/tokenizer.ts"
import * as Flags from "./core/flags.ts"
import { Host } from "./core/host.ts"
import { lines } from "./core/lines.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { maxMemory } from "./core/size.ts"
import { group, verb } from "./core/verb.ts"
import { report } from "./tokenizer-report.ts"

const shown = (report: object) =>
  Effect.gen(function* () {
    const output = yield* Output
    const value = snakeCase(report)
    yield* output.result(value, columns(Object.entries(value)))
  })

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

const fromWords = verb(
  "from-words",
  "A tokenizer of the frequent words that jieba finds",
  {
    inputs: Flags.inputs,
    output: Flags.output,
    minCount: Flags.integer("min-count", "Words seen more often than this become tokens", 0).pipe(
      Flag.withDefault(fromWordsDefaults.minCount)
    ),
    maxMemory: maxMemory("half of what is free"),
    encoding: Flags.encoding,
    force: Flags.force
  },
  (flags) =>
    Effect.flatMap(
      tokenizerFromWords({
        inputs: [...flags.inputs],
        output: flags.output,
        minCount: flags.minCount,
        force: flags.force,
        ...Flags.given("maxMemory", flags.maxMemory),
        ...Flags.given("encoding", flags.encoding)
      }),
      shown
    )
)

const retrain = verb(
  "retrain",
  "Train on new text in the pipeline of an existing tokenizer folder",
  {
    from: Flags.text("from", "The tokenizer folder whose pipeline and special tokens are kept", "DIR"),
    inputs: Flags.inputs,
    output: Flags.output,
    vocabSize: Flags.integer("vocab-size", "Tokens in all (default: as many as the old one has)", 1).pipe(
      Flag.optional
    ),
    minFrequency: Flags.integer("min-frequency", "Pairs seen less often are not merged", 0).pipe(
      Flag.withDefault(0)
    ),
    maxMemory: maxMemory("half of what is free"),
    encoding: Flags.encoding,
    force: Flags.force
  },
  (flags) =>
    Effect.flatMap(
      retrainTokenizer({
        from: flags.from,
        inputs: [...flags.inputs],
        output: flags.output,
        minFrequency: flags.minFrequency,
        force: flags.force,
        ...Flags.given("vocabSize", flags.vocabSize),
        ...Flags.given("maxMemory", flags.maxMemory),
        ...Flags.given("encoding", flags.encoding)
      }),
      shown
    )
)

const imported = verb(
  "import",
  "A SentencePiece model as a tokenizer folder with the same ids",
  {
    file: Argument.String("file").pipe(Argument.withDescription("A .model file, BPE or unigram")),
    output: Flags.output,
    force: Flags.force
  },
  (flags) => Effect.flatMap(importTokenizer(flags), shown)
)

const extend = verb(
  "extend",
  "Add tokens to a tokenizer, and rows to a model's embeddings",
  {
    tokenizer: Flags.text("tokenizer", "A tokenizer folder (default: that of the model)", "DIR").pipe(
      Flag.optional
    ),
    tokens: Flags.text("tokens", "A text file with a token a line", "FILE"),
    model: Flags.text("model", "A T5 folder whose embeddings get a row for each new token", "DIR").pipe(
      Flag.optional
    ),
    output: Flags.output,
    force: Flags.force
  },
  (flags) =>
    Effect.gen(function* () {
      const files = yield* FileSystem.FileSystem
      const text = yield* files
        .readFileString(flags.tokens)
        .pipe(
          Effect.mapError(() =>
            makeError(
              "INPUT_NOT_FOUND",
              `${flags.tokens} cannot be read`,
              "give a text file with a token a line"
            )
          )
        )
      const report = yield* extendTokenizer({
        tokens: text.split(/\r?\n/).filter((line) => line !== ""),
        output: flags.output,
        force: flags.force,
        ...Flags.given("tokenizer", flags.tokenizer),
        ...Flags.given("model", flags.model)
      })
      yield* shown(report)
    })
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
