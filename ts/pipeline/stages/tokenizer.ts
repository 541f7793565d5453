/** A tokenizer trained on the texts of rows. */
import * as Effect from "effect/Effect"

import { tokenizerDefaults, type tokenizerModels, trainTokenizer } from "../../tokenizer/tokenizer.ts"
import type { Pairs, Rows, Tokenizer } from "../artifact.ts"
import { stage } from "../stage.ts"

export interface TokenizerOptions {
  readonly name?: string
  readonly from: Pairs | Rows | ReadonlyArray<Pairs | Rows>
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
    outputs: { tokenizer: { kind: "tokenizer", path: "tokenizer" } },
    work: ({ inputs, outputs }) =>
      Effect.map(
        trainTokenizer({ ...settings, inputs: [...inputs.from], output: outputs.tokenizer, force: true }),
        ({ vocabSize, merges, texts }) => ({ rows: { texts }, figures: { vocabSize, merges } })
      )
  }).tokenizer
}
