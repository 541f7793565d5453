/** Preference pairs: the true answers as chosen, the model's own as rejected. */
import * as Effect from "effect/Effect"

import { defaultBatch, defaultMaxNewTokens, reject as rejectRows } from "../../generate/generate.ts"
import type { Adapter, Model, Pairs, PreferencePairs } from "../artifact.ts"
import { only, stage } from "../stage.ts"

export interface RejectOptions {
  readonly name?: string
  readonly model: Model
  readonly adapter?: Adapter
  readonly from: Pairs
  readonly batch?: number
  readonly maxNewTokens?: number
}

export const reject = (options: RejectOptions): PreferencePairs => {
  const { name = "reject", model, adapter, from, batch = defaultBatch } = options
  const { maxNewTokens = defaultMaxNewTokens } = options
  return stage({
    name,
    version: 2,
    // Rows answered together change no answer.
    settings: { maxNewTokens },
    inputs: { model, adapter, from },
    outputs: { rows: { kind: "preferences", path: "preferences.parquet" } },
    work: ({ inputs, outputs }) =>
      Effect.map(
        rejectRows({
          model: only(inputs.model),
          ...(adapter === undefined ? {} : { adapter: only(inputs.adapter) }),
          inputs: [only(inputs.from)],
          output: outputs.rows,
          batch,
          settings: { search: "greedy", maxNewTokens },
          force: true
        }),
        ({ rows, kept, same, empty }) => ({ rows: { read: rows, kept, same, empty } })
      )
  }).rows
}
