/** Rows drawn by a seed into three sets. */
import { rename } from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { split as splitRows, splitDefaults } from "../../dataset/dataset.ts"
import type { Pairs } from "../artifact.ts"
import { attempt } from "../files.ts"
import { only, stage } from "../stage.ts"

export interface SplitOptions {
  readonly name?: string
  readonly from: Pairs
  readonly train?: number
  readonly valid?: number
  readonly test?: number
  readonly seed?: number
}

export interface SplitPairs {
  readonly train: Pairs
  readonly valid: Pairs
  readonly test: Pairs
}

export const split = (options: SplitOptions): SplitPairs => {
  const { name = "split", from, seed = 23_333, ...given } = options
  const settings = { ...splitDefaults, seed, ...given }
  return stage({
    name,
    version: 1,
    settings,
    inputs: { from },
    outputs: {
      train: { kind: "pairs", path: "train.parquet" },
      valid: { kind: "pairs", path: "valid.parquet" },
      test: { kind: "pairs", path: "test.parquet" }
    },
    work: ({ inputs, outputs, scratch }) =>
      Effect.gen(function* () {
        const folder = join(scratch, "split")
        const report = yield* splitRows({
          ...settings,
          inputs: [only(inputs.from)],
          output: folder,
          keepGoing: false,
          force: true
        })
        for (const part of ["train", "valid", "test"] as const) {
          yield* attempt(outputs[part], () => rename(join(folder, `${part}.parquet`), outputs[part]))
        }
        const { rows, train, valid, test } = report
        return { rows: { read: rows, train, valid, test } }
      })
  })
}
