/** Measurements that the core takes of itself. Their JSON and flags are the contract's. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import type {
  BenchEncodeOptions,
  BenchEncodeReport,
  BenchGenerateOptions,
  BenchGenerateReport,
  BenchLoadOptions,
  BenchLoadReport,
  BenchTrainStepOptions,
  BenchTrainStepReport,
  ChatlmError
} from "../native/index.ts"

export type {
  BenchEncodeOptions,
  BenchEncodeReport,
  BenchGenerateOptions,
  BenchGenerateReport,
  BenchLoadOptions,
  BenchLoadReport,
  BenchTrainStepOptions,
  BenchTrainStepReport
}

export const benchOptimizers = ["adamw", "adafactor"] as const
export const benchPrecisions = ["f32", "bf16", "f16"] as const
export const feedForwards = ["relu", "gated-gelu"] as const

/** Whole training steps of a T5 on random ids: forward, backward, clip, update. */
export const benchTrainStep = (
  options: BenchTrainStepOptions
): Effect.Effect<BenchTrainStepReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.benchTrainStep(options))

export const benchSearches = ["greedy", "beam"] as const

/** Answers of a fixed length to random prompts, through the engine of every answer. */
export const benchGenerate = (
  options: BenchGenerateOptions
): Effect.Effect<BenchGenerateReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.benchGenerate(options))

/** Rows through read, shuffle, encode and batch, by the loader of every run. */
export const benchLoad = (options: BenchLoadOptions): Effect.Effect<BenchLoadReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.benchLoad(options))

/** Texts to ids in batches on all threads, as the loader encodes. */
export const benchEncode = (
  options: BenchEncodeOptions
): Effect.Effect<BenchEncodeReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.benchEncode(options))
