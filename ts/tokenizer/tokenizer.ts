/** Training a tokenizer and using one. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type {
  ChatlmError,
  Encoded,
  Tokenizer,
  TokenizerTrainOptions,
  TokenizerTrainReport
} from "../native/index.ts"

export type { Encoded, Tokenizer, TokenizerTrainOptions, TokenizerTrainReport }

export const tokenizerModels = ["char-bpe", "byte-bpe"] as const
export const tokenizerDefaults = { model: "char-bpe", vocabSize: 40_960, minFrequency: 100 } as const

/** Trains on every text column of the inputs; the folder is loadable by `transformers` as it is. */
export const trainTokenizer = (
  options: TokenizerTrainOptions
): Effect.Effect<TokenizerTrainReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.trainTokenizer(options))

export const loadTokenizer = (folder: string): Effect.Effect<Tokenizer, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.tokenizer(folder))
