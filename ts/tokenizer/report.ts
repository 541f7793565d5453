/** What tokenizers make of text. */
import * as Effect from "effect/Effect"

import { Native, spelledOut } from "../native/index.ts"
import type { Brief, ChatlmError, TokenizerReportOptions } from "../native/index.ts"

const defaults = { keepGoing: false } as const

export type { TokenizerReportOptions }
export type TokenizerReportInput = Brief<TokenizerReportOptions, typeof defaults>

/** Encodes and decodes every text with each tokenizer; the answer is the JSON that `makeReport` reads too. */
export const tokenizerReport = (input: TokenizerReportInput): Effect.Effect<unknown, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) =>
    native.tokenizerReport(spelledOut<TokenizerReportOptions, typeof defaults>(input, defaults))
  )
