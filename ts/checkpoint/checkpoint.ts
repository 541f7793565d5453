/** Adapters into models. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type { ChatlmError, MergeLoraOptions, MergeLoraReport } from "../native/index.ts"

export type { MergeLoraOptions, MergeLoraReport }

/** Merges a PEFT adapter into its base model and writes a whole model folder. */
export const mergeLora = (options: MergeLoraOptions): Effect.Effect<MergeLoraReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.mergeLora(options))
