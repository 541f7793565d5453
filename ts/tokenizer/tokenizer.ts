/** Making a tokenizer, by training, import or extension, and using one. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type {
  ChatlmError,
  Encoded,
  Tokenizer,
  TokenizerExtendOptions,
  TokenizerExtendReport,
  TokenizerFromWordsOptions,
  TokenizerFromWordsReport,
  TokenizerImportOptions,
  TokenizerImportReport,
  TokenizerRetrainOptions,
  TokenizerTrainOptions,
  TokenizerTrainReport
} from "../native/index.ts"

export type {
  Encoded,
  Tokenizer,
  TokenizerExtendOptions,
  TokenizerExtendReport,
  TokenizerFromWordsOptions,
  TokenizerFromWordsReport,
  TokenizerImportOptions,
  TokenizerImportReport,
  TokenizerRetrainOptions,
  TokenizerTrainOptions,
  TokenizerTrainReport
}

export const tokenizerModels = ["char-bpe", "byte-bpe", "unigram", "sentencepiece-bpe"] as const
export const tokenizerDefaults = { model: "char-bpe", vocabSize: 40_960, minFrequency: 100 } as const

/** Trains on every text column of the inputs; the folder is loadable by `transformers` as it is. */
export const trainTokenizer = (
  options: TokenizerTrainOptions
): Effect.Effect<TokenizerTrainReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.trainTokenizer(options))

/** Words seen more often than this become tokens. */
export const fromWordsDefaults = { minCount: 1500 } as const

export const retrainDefaults = { minFrequency: 0 } as const

/** Trains a new vocabulary in the pipeline of an existing folder, as `train_new_from_iterator` does. */
export const retrainTokenizer = (
  options: TokenizerRetrainOptions
): Effect.Effect<TokenizerTrainReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.retrainTokenizer(options))

/** Counts the words that jieba finds and makes the frequent ones tokens. */
export const tokenizerFromWords = (
  options: TokenizerFromWordsOptions
): Effect.Effect<TokenizerFromWordsReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.tokenizerFromWords(options))

/** A SentencePiece `.model` as a folder with the same ids. */
export const importTokenizer = (
  options: TokenizerImportOptions
): Effect.Effect<TokenizerImportReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.importTokenizer(options))

/** Adds tokens to a tokenizer and, where a model is given, rows to its embeddings. */
export const extendTokenizer = (
  options: TokenizerExtendOptions
): Effect.Effect<TokenizerExtendReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.extendTokenizer(options))

export const loadTokenizer = (folder: string): Effect.Effect<Tokenizer, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.tokenizer(folder))
