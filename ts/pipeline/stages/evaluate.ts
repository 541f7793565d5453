/** Figures of a model on rows: perplexity, and BLEU-4 of its own answers where that is asked for. */
import * as Effect from "effect/Effect"

import { evaluateBleu, evaluatePerplexity } from "../../evaluation/evaluation.ts"
import { defaultBatch, defaultMaxNewTokens } from "../../generate/generate.ts"
import type { Adapter, Model, Pairs, Report } from "../artifact.ts"
import * as Files from "../files.ts"
import { only, stage } from "../stage.ts"

export interface EvaluateOptions {
  readonly name?: string
  readonly model: Model
  readonly adapter?: Adapter
  readonly rows: Pairs
  readonly perplexity?: boolean
  /** Greedy answers to the first `limit` rows against the true ones. */
  readonly bleu?: boolean
  readonly limit?: number
  readonly maxNewTokens?: number
  readonly maxLength?: number
  readonly batch?: number
}

export const evaluate = (options: EvaluateOptions): Report => {
  const { name = "evaluate", model, adapter, rows, perplexity = true, bleu = false, limit } = options
  const { maxNewTokens = defaultMaxNewTokens, maxLength = 512, batch = defaultBatch } = options
  return stage({
    name,
    version: 1,
    settings: { perplexity, bleu, limit: limit ?? null, maxNewTokens, maxLength },
    inputs: { model, adapter, rows },
    outputs: { report: { kind: "report", path: "report.json" } },
    work: ({ inputs, outputs }) =>
      Effect.gen(function* () {
        const figures: Record<string, number> = {}
        const counts: Record<string, number> = {}
        const common = {
          model: only(inputs.model),
          ...(adapter === undefined ? {} : { adapter: only(inputs.adapter) }),
          inputs: [only(inputs.rows)],
          batch
        }
        if (perplexity) {
          const report = yield* evaluatePerplexity({ ...common, maxLength })
          figures.loss = report.loss
          figures.perplexity = report.perplexity
          counts.tokens = report.tokens
        }
        if (bleu) {
          const report = yield* evaluateBleu({
            ...common,
            maxNewTokens,
            ...(limit === undefined ? {} : { limit })
          })
          figures.bleu4 = report.bleu4
          counts.answers = report.rows
        }
        yield* Files.writeWhole(outputs.report, `${JSON.stringify({ ...figures, ...counts }, null, 2)}\n`)
        return { figures, rows: counts }
      })
  }).report
}
