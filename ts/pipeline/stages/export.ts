/** A model folder where people and other programs look for it. */
import { resolve } from "node:path"

import * as Effect from "effect/Effect"

import type { Model } from "../artifact.ts"
import { linkOrCopy } from "../files.ts"
import { only, stage } from "../stage.ts"
import { writeTarget } from "../target.ts"

export interface ExportOptions {
  readonly name?: string
  readonly model: Model
  /** Relative paths start at the current folder. */
  readonly to: string
}

export const exportModel = ({ name = "export", model, to }: ExportOptions): Model => {
  const target = resolve(to)
  return stage({
    name,
    version: 1,
    settings: { to: target },
    inputs: { model },
    outputs: { model: { kind: "model", path: "model" } },
    target,
    work: ({ inputs, outputs }) =>
      Effect.gen(function* () {
        yield* linkOrCopy(only(inputs.model), outputs.model)
        const bytes = yield* writeTarget(outputs.model, target)
        return { figures: { bytes } }
      })
  }).model
}
