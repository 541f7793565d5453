/** Adapters into models, and models in other precisions. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type {
  ChatlmError,
  ExportModelOptions,
  ExportModelReport,
  MergeLoraOptions,
  MergeLoraReport
} from "../native/index.ts"

export type { ExportModelOptions, ExportModelReport, MergeLoraOptions, MergeLoraReport }

/** What weights are written in; `int8` folders are read by this program alone. */
export const exportDtypes = ["f32", "f16", "bf16", "int8"] as const

/** Merges a PEFT adapter into its base model and writes a whole model folder. */
export const mergeLora = (options: MergeLoraOptions): Effect.Effect<MergeLoraReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.mergeLora(options))

/** Writes a model folder in another precision, its tokenizer and generation settings with it. */
export const exportModel = (
  options: ExportModelOptions
): Effect.Effect<ExportModelReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.exportModel(options))
