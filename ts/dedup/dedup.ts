/** Near-duplicates: a row falls when some earlier row resembles it. */
import * as Effect from "effect/Effect"

import { Native, spelledOut } from "../native/index.ts"
import type { Brief, ChatlmError, DedupOptions, DedupReport } from "../native/index.ts"

export type { DedupOptions, DedupReport }

/** Threshold, shingle length and permutations where nothing else is asked for. */
export const dedupDefaults = { threshold: 0.85, ngram: 5, numPerm: 128 } as const

/** Drops each row that some earlier row resembles; order is kept. */
export const dedup = (options: Brief<DedupOptions>): Effect.Effect<DedupReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.dedup(spelledOut(options)))
