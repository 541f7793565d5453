/** An adapter merged into its model. */
import * as Effect from "effect/Effect"

import { mergeLora } from "../../checkpoint/checkpoint.ts"
import type { Adapter, Model } from "../artifact.ts"
import { only, stage } from "../stage.ts"

export interface MergeOptions {
  readonly name?: string
  readonly model: Model
  readonly adapter: Adapter
}

export const merge = ({ name = "merge", model, adapter }: MergeOptions): Model =>
  stage({
    name,
    version: 1,
    inputs: { model, adapter },
    outputs: { model: { kind: "model", path: "model" } },
    work: ({ inputs, outputs }) =>
      Effect.map(
        mergeLora({
          base: only(inputs.model),
          adapters: [only(inputs.adapter)],
          output: outputs.model,
          force: true
        }),
        ({ maxLogitDifference, merged }) => ({ figures: { maxLogitDifference, merged } })
      )
  }).model
