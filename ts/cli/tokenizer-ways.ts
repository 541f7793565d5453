/** `chatlm tokenizer from-words`, `retrain`, `import` and `extend`: ways to a tokenizer besides training anew. */
import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"

import { makeError } from "../native/index.ts"
import {
  extendTokenizer,
  fromWordsDefaults,
  importTokenizer,
  retrainDefaults,
  retrainTokenizer,
  tokenizerFromWords
} from "../tokenizer/tokenizer.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { maxMemory } from "./core/size.ts"
import { verb } from "./core/verb.ts"

/** Prints what came of it. */
export const shown = (report: object) =>
  Effect.gen(function* () {
    const output = yield* Output
    const value = snakeCase(report)
    yield* output.result(value, columns(Object.entries(value)))
  })

export const fromWords = verb(
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

export const retrain = verb(
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
      Flag.withDefault(retrainDefaults.minFrequency)
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

export const imported = verb(
  "import",
  "A SentencePiece model as a tokenizer folder with the same ids",
  {
    file: Argument.String("file").pipe(Argument.withDescription("A .model file, BPE or unigram")),
    output: Flags.output,
    force: Flags.force
  },
  (flags) => Effect.flatMap(importTokenizer(flags), shown)
)

export const extend = verb(
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
