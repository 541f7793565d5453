/** A loaded model that answers: in batches, as a stream, or to make rejected answers for dpo. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

import { Native } from "../native/index.ts"
import type {
  Answer,
  AnswerPiece,
  AskOptions,
  ChatlmError,
  GenerationSettings,
  Generator as LoadedGenerator,
  GeneratorInfo,
  GeneratorOptions,
  RejectOptions,
  RejectReport,
  RequestEnd,
  Serving,
  ServingLimits,
  ServingStats,
  TextPiece
} from "../native/index.ts"

export type {
  Answer,
  AnswerPiece,
  AskOptions,
  GenerationSettings,
  GeneratorInfo,
  GeneratorOptions,
  LoadedGenerator,
  RejectOptions,
  RejectReport,
  RequestEnd,
  Serving,
  ServingLimits,
  ServingStats,
  TextPiece
}

export const searches = ["greedy", "beam", "beam-sample", "sample", "contrastive"] as const
/** The reference program's ways to search. */
export const presets = ["chatlm-beam", "chatlm-sample"] as const
/** When beams are content with the answers that have ended. */
export const earlyStoppings = ["true", "false", "never"] as const
/** Prompts answered together where nothing else is asked for. */
export const defaultBatch = 16
/** New tokens an answer where neither a flag nor the model says. */
export const defaultMaxNewTokens = 320

/** Loads a model with its tokenizer; it is freed with the scope. */
export const loadGenerator = (
  options: GeneratorOptions
): Effect.Effect<LoadedGenerator, ChatlmError, Native | Scope.Scope> =>
  Effect.flatMap(Native, (native) => native.generator(options))

/** Loads a model to answer many requests at once: what `chatlm serve` stands on. It is freed with the scope. */
export const loadServing = (
  options: GeneratorOptions,
  limits: ServingLimits = {}
): Effect.Effect<Serving, ChatlmError, Native | Scope.Scope> =>
  Effect.flatMap(Native, (native) => native.serving(options, limits))

/** The model's own answers as `rejected` beside the true ones as `chosen`. */
export const reject = (options: RejectOptions): Effect.Effect<RejectReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.reject(options))
