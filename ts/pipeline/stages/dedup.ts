/** Rows without their near-duplicates. */
import * as Effect from "effect/Effect"

import { dedup as dedupRows, dedupDefaults } from "../../dedup/dedup.ts"
import type { Pairs } from "../artifact.ts"
import { stage } from "../stage.ts"

export interface DedupOptions {
  readonly name?: string
  readonly from: Pairs | ReadonlyArray<Pairs>
  /** Rows that nothing may resemble, such as those of an evaluation. */
  readonly against?: Pairs | ReadonlyArray<Pairs>
  readonly threshold?: number
  readonly ngram?: number
  readonly numPerm?: number
}

export const dedup = (options: DedupOptions): Pairs => {
  const { name = "dedup", from, against, ...given } = options
  const settings = { ...dedupDefaults, ...given }
  return stage({
    name,
    version: 2,
    settings,
    inputs: { from, against },
    outputs: {
      rows: { kind: "pairs", path: "rows.parquet" },
      clusters: { kind: "rows", path: "clusters.parquet" }
    },
    resumes: true,
    work: ({ inputs, outputs, scratch }) =>
      Effect.map(
        dedupRows({
          ...settings,
          against: against === undefined ? [] : [...inputs.against],
          work: `${scratch}/work`,
          inputs: [...inputs.from],
          output: outputs.rows,
          clusters: outputs.clusters,
          compat: false,
          keepGoing: false,
          force: true
        }),
        ({ rows, kept, duplicates, contaminated, clusters }) => ({
          rows: { read: rows, kept, duplicates, contaminated, clusters }
        })
      )
  }).rows
}
