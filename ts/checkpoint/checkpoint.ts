/** Adapters into models, and models in other precisions. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type {
  ChatlmError,
  ExportModelOptions,
  ExportModelReport,
  MergeLoraOptions,
  MergeLoraReport,
  UnmergeLoraOptions
} from "../native/index.ts"

export type { ExportModelOptions, ExportModelReport, MergeLoraOptions, MergeLoraReport, UnmergeLoraOptions }

/** What weights are written in; `int8` folders are read by this program alone. */
export const exportDtypes = ["f32", "f16", "bf16", "int8"] as const

/** How adapters are added up, as PEFT's `add_weighted_adapter` names it. */
export const combinations = ["cat", "linear"] as const

/** Merges PEFT adapters into their base model, in their order, and writes a whole model folder. */
export const mergeLora = (options: MergeLoraOptions): Effect.Effect<MergeLoraReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.mergeLora(options))

/** Takes a merged adapter off its model: the base, up to rounding. DoRA cannot be taken off. */
export const unmergeLora = (
  options: UnmergeLoraOptions
): Effect.Effect<MergeLoraReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.unmergeLora(options))

/** Writes a model folder in another precision, its tokenizer and generation settings with it. */
export const exportModel = (
  options: ExportModelOptions
): Effect.Effect<ExportModelReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.exportModel(options))
