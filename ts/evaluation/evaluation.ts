/** How good a model is: BLEU-4 by characters and perplexity. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type {
  BleuOptions,
  BleuReport,
  ChatlmError,
  PerplexityOptions,
  PerplexityReport
} from "../native/index.ts"

export type { BleuOptions, BleuReport, PerplexityOptions, PerplexityReport }

/** Mean BLEU-4 of a model's greedy answers, or of given predictions. */
export const evaluateBleu = (options: BleuOptions): Effect.Effect<BleuReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.evaluateBleu(options))

/** Perplexity of the responses given their prompts. */
export const evaluatePerplexity = (
  options: PerplexityOptions
): Effect.Effect<PerplexityReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.evaluatePerplexity(options))
