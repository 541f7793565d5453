/** Near-duplicates: a row falls when some earlier row resembles it. */
import * as Effect from "effect/Effect"

import { Native, spelledOut, switches } from "../native/index.ts"
import type { Brief, ChatlmError, DedupOptions, DedupReport } from "../native/index.ts"

export type { DedupOptions, DedupReport }

/** Threshold, shingle length and permutations where nothing else is asked for. */
export const dedupDefaults = { threshold: 0.85, ngram: 5, numPerm: 128 } as const

/** What may be left out. */
const defaults = { ...switches, ...dedupDefaults, against: [] as Array<string> }
/** The options of `dedup`. */
export type DedupInput = Brief<DedupOptions, typeof defaults>

/** Drops each row that some earlier row resembles; order is kept. */
export const dedup = (options: DedupInput): Effect.Effect<DedupReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) =>
    native.dedup(spelledOut<DedupOptions, typeof defaults>(options, defaults))
  )
