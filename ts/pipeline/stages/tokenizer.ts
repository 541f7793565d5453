/** Tokenizers: trained on the texts of rows in one way or another, imported, extended. */
import * as Effect from "effect/Effect"

import {
  extendTokenizer,
  fromWordsDefaults,
  importTokenizer as importFile,
  retrainDefaults,
  retrainTokenizer,
  tokenizerDefaults,
  tokenizerFromWords,
  type tokenizerModels,
  trainTokenizer
} from "../../tokenizer/tokenizer.ts"
import type { Model, Pairs, Rows, Tokenizer } from "../artifact.ts"
import { only, stage } from "../stage.ts"

type Texts = Pairs | Rows | ReadonlyArray<Pairs | Rows>

const folder = { tokenizer: { kind: "tokenizer", path: "tokenizer" } } as const

export interface TokenizerOptions {
  readonly name?: string
  readonly from: Texts
  readonly model?: (typeof tokenizerModels)[number]
  readonly vocabSize?: number
  readonly minFrequency?: number
}

export const tokenizer = (options: TokenizerOptions): Tokenizer => {
  const { name = "tokenizer", from, ...given } = options
  const settings = { ...tokenizerDefaults, ...given }
  return stage({
    name,
    version: 1,
    settings,
    inputs: { from },
    outputs: folder,
    work: ({ inputs, outputs }) =>
      Effect.map(
        trainTokenizer({ ...settings, inputs: [...inputs.from], output: outputs.tokenizer, force: true }),
        ({ vocabSize, merges, texts }) => ({ rows: { texts }, figures: { vocabSize, merges } })
      )
  }).tokenizer
}

export interface FromWordsOptions {
  readonly name?: string
  readonly from: Texts
  readonly minCount?: number
}

/** The frequent words that jieba finds. */
export const fromWords = (options: FromWordsOptions): Tokenizer => {
  const { name = "tokenizer", from, ...given } = options
  const settings = { ...fromWordsDefaults, ...given }
  return stage({
    name,
    version: 1,
    settings: { way: "from-words", ...settings },
    inputs: { from },
    outputs: folder,
    work: ({ inputs, outputs }) =>
      Effect.map(
        tokenizerFromWords({ ...settings, inputs: [...inputs.from], output: outputs.tokenizer, force: true }),
        ({ vocabSize, merges, texts, words, kept }) => ({
          rows: { texts },
          figures: { vocabSize, merges, words, kept }
        })
      )
  }).tokenizer
}

export interface RetrainOptions {
  readonly name?: string
  /** Its pipeline and special tokens are kept. */
  readonly tokenizer: Tokenizer | Model
  readonly from: Texts
  /** As large as the old one where left out. */
  readonly vocabSize?: number
  readonly minFrequency?: number
}

/** A new vocabulary in the pipeline of another tokenizer. */
export const retrain = (options: RetrainOptions): Tokenizer => {
  const { name = "tokenizer", from, tokenizer: old, ...given } = options
  const settings = { ...retrainDefaults, ...given }
  return stage({
    name,
    version: 1,
    settings: { way: "retrain", ...settings },
    inputs: { tokenizer: old, from },
    outputs: folder,
    work: ({ inputs, outputs }) =>
      Effect.map(
        retrainTokenizer({
          ...settings,
          from: only(inputs.tokenizer),
          inputs: [...inputs.from],
          output: outputs.tokenizer,
          force: true
        }),
        ({ vocabSize, merges, texts }) => ({ rows: { texts }, figures: { vocabSize, merges } })
      )
  }).tokenizer
}

export interface ImportOptions {
  readonly name?: string
  /** A `.model` file of SentencePiece: `given("tokenizer", "spiece.model")`. */
  readonly file: Tokenizer
}

/** A SentencePiece model as a tokenizer folder. */
export const importTokenizer = ({ name = "tokenizer", file }: ImportOptions): Tokenizer =>
  stage({
    name,
    version: 1,
    settings: { way: "import" },
    inputs: { file },
    outputs: folder,
    work: ({ inputs, outputs }) =>
      Effect.map(
        importFile({ file: only(inputs.file), output: outputs.tokenizer, force: true }),
        ({ vocabSize, merges }) => ({ figures: { vocabSize, merges } })
      )
  }).tokenizer

export interface ExtendOptions<Extended extends Tokenizer | Model> {
  readonly name?: string
  /** A tokenizer, or a model, whose embeddings get a row for each new token. */
  readonly to: Extended
  readonly tokens: ReadonlyArray<string>
}

/** More tokens in a tokenizer, or in a model and its tokenizer. */
export const extend = <Extended extends Tokenizer | Model>({
  name = "extend",
  to,
  tokens
}: ExtendOptions<Extended>): Extended => {
  const { extended } = stage({
    name,
    version: 1,
    settings: { tokens },
    inputs: { to },
    outputs: { extended: { kind: to.kind, path: to.kind } },
    work: ({ inputs, outputs }) =>
      Effect.map(
        extendTokenizer({
          [to.kind as "model"]: only(inputs.to),
          tokens: [...tokens],
          output: outputs.extended,
          force: true
        }),
        ({ vocabSize, added, rows }) => ({ figures: { vocabSize, added, rows } })
      )
  })
  // Of the kind that came in.
  return extended as Extended
}
