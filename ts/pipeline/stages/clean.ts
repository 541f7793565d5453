/** Raw rows to rows with prompt and response, or with prompt, chosen and rejected. */
import * as Effect from "effect/Effect"

import { clean as cleanRows } from "../../clean/clean.ts"
import type { Artifact, Pairs, PreferencePairs, Rows } from "../artifact.ts"
import { stage } from "../stage.ts"

export interface CleanOptions {
  readonly name?: string
  readonly from: Rows | Pairs | PreferencePairs | ReadonlyArray<Rows | Pairs | PreferencePairs>
  /** The kind of raw data, such as `pairs` or `belle`. */
  readonly source: string
  /** What the rows are for; `dpo` makes preference pairs. */
  readonly purpose?: "pretrain" | "sft" | "dpo"
  /** What becomes of a conversation (default: its first exchange). */
  readonly turns?: "first" | "each"
  readonly promptColumn?: string
  readonly responseColumn?: string
  readonly chosenColumn?: string
  readonly rejectedColumn?: string
  readonly encoding?: string
  readonly keepGoing?: boolean
  readonly compat?: boolean
  /** Draws the report's samples of dropped rows. */
  readonly seed?: number
}

export function clean(options: CleanOptions & { readonly purpose: "dpo" }): PreferencePairs
export function clean(options: CleanOptions & { readonly purpose?: "pretrain" | "sft" }): Pairs
export function clean(options: CleanOptions): Artifact<"pairs" | "preferences"> {
  const {
    name = "clean",
    from,
    purpose = "pretrain",
    turns = "first",
    seed = 23_333,
    keepGoing = false,
    compat = false,
    ...rest
  } = options
  const { rows } = stage({
    name,
    version: 2,
    settings: { ...rest, purpose, turns, seed, keepGoing, compat },
    inputs: { from },
    outputs: {
      rows: { kind: purpose === "dpo" ? "preferences" : "pairs", path: "rows.parquet" },
      rejects: { kind: "rows", path: "rejects.parquet" },
      report: { kind: "report", path: "report.json" }
    },
    work: ({ inputs, outputs }) =>
      Effect.map(
        cleanRows({
          ...rest,
          purpose,
          keepGoing,
          compat,
          turns,
          seed,
          inputs: [...inputs.from],
          output: outputs.rows,
          rejects: outputs.rejects,
          report: outputs.report,
          force: true
        }),
        ({ read, kept, dropped, broken }) => ({ rows: { read, kept, broken, ...dropped } })
      )
  })
  return rows
}
