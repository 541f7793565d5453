/** Near-duplicates: a row falls when some earlier row resembles it. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type { ChatlmError, DedupOptions, DedupReport } from "../native/index.ts"

export type { DedupOptions, DedupReport }

/** Threshold, shingle length and permutations where nothing else is asked for. */
export const dedupDefaults = { threshold: 0.85, ngram: 5, numPerm: 128 } as const

export const dedup = (options: DedupOptions): Effect.Effect<DedupReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.dedup(options))
