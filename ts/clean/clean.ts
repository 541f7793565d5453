/** Raw corpora to rows `prompt`, `response` (`prompt`, `chosen`, `rejected` for dpo). */
import * as Effect from "effect/Effect"

import { Native, spelledOut } from "../native/index.ts"
import type { Brief, ChatlmError, CleanOptions, CleanReport } from "../native/index.ts"

export type { CleanOptions, CleanReport }

/** The kinds of raw data that are understood. */
export const sources = ["alpaca", "belle", "medical-dialogue", "pairs", "rlhf-pairs"] as const
/** What the rows are for; it decides the columns and the rules. */
export const purposes = ["pretrain", "sft", "dpo"] as const

/** Cleans raw rows, counts what each rule drops, and keeps the dropped ones where `rejects` says so. */
export const clean = (options: Brief<CleanOptions>): Effect.Effect<CleanReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.clean(spelledOut(options)))
