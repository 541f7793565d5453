/** Raw corpora to rows `prompt`, `response` (`prompt`, `chosen`, `rejected` for dpo). */
import * as Effect from "effect/Effect"

import { Native, spelledOut, switches } from "../native/index.ts"
import type { Brief, ChatlmError, CleanOptions, CleanReport } from "../native/index.ts"

export type { CleanOptions, CleanReport }

/** The kinds of raw data that are understood; `rlhf-pairs` is for dpo alone. */
export const sources = [
  "webtext2019zh",
  "baike-qa2019",
  "medical-dialogue",
  "zhihu-kol",
  "zhwiki",
  "belle",
  "finance-qa",
  "alpaca",
  "sharegpt",
  "pairs",
  "rlhf-pairs"
] as const
/** What the rows are for; it decides the columns and the rules. */
export const purposes = ["pretrain", "sft", "dpo"] as const
/** What becomes of a conversation: its first exchange, or a row for each. */
export const turns = ["first", "each"] as const

/** What may be left out. */
const defaults = { ...switches, purpose: "pretrain", turns: "first", seed: 23_333 } as const
/** The options of `clean`. */
export type CleanInput = Brief<CleanOptions, typeof defaults>

/** Cleans raw rows, counts what each rule drops, and keeps the dropped ones where `rejects` says so. */
export const clean = (options: CleanInput): Effect.Effect<CleanReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) =>
    native.clean(spelledOut<CleanOptions, typeof defaults>(options, defaults))
  )
