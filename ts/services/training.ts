/**
 * Training as services, for programs that are made of them: `Pretrain`, `Sft`, `Dpo` (a configuration in, events out),
 * `Lora` (adapters into models) and `Checkpoint` (what a run has saved). Each is a layer over `Native`.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"

import { exportModel, mergeLora } from "../checkpoint/checkpoint.ts"
import type {
  ExportModelOptions,
  ExportModelReport,
  MergeLoraOptions,
  MergeLoraReport
} from "../checkpoint/checkpoint.ts"
import { resolveConfig } from "../config/index.ts"
import type { ConfigInputs } from "../config/index.ts"
import type { Native } from "../native/index.ts"
import type { ChatlmError, TrainEvent, VerifyResumeReport } from "../native/index.ts"
import { savedCheckpoints } from "../checkpoint/saved.ts"
import type { SavedCheckpoint } from "../checkpoint/saved.ts"
import { train, trainEvents, verifyResume } from "../train/train.ts"
import type { RunKind, TrainOptions, TrainReport } from "../train/train.ts"

/** How a run begins. */
export type StartOptions = Pick<TrainOptions, "fresh" | "from" | "force" | "device">

/** One way of training. Configurations are as a user writes them: every key has a default. */
export interface Training<Kind extends RunKind> {
  /**
   * What happens, from where `out` left off. A reader that stops early or is interrupted leaves a checkpoint behind.
   */
  readonly events: (
    config: ConfigInputs[Kind],
    options?: StartOptions
  ) => Stream.Stream<TrainEvent, ChatlmError>
  /** Trains to the end. */
  readonly run: (
    config: ConfigInputs[Kind],
    options?: StartOptions & Pick<TrainOptions, "onEvent">
  ) => Effect.Effect<TrainReport, ChatlmError>
  /** Trains `steps` steps in one go, and in two with a stop after `at`, and compares every part of the state. */
  readonly verifyResume: (
    config: ConfigInputs[Kind],
    options: { readonly steps: number; readonly at: number }
  ) => Effect.Effect<VerifyResumeReport, ChatlmError>
}

const make = <Kind extends RunKind>(kind: Kind): Effect.Effect<Training<Kind>, never, Native> =>
  Effect.map(Effect.context<Native>(), (context) => ({
    events: (input, options = {}) =>
      Stream.unwrap(
        Effect.map(resolveConfig(kind, input), (config) => trainEvents({ kind, config, ...options }))
      ).pipe(Stream.provideContext(context)),
    run: (input, options = {}) =>
      Effect.flatMap(resolveConfig(kind, input), (config) => train({ kind, config, ...options })).pipe(
        Effect.provideContext(context)
      ),
    verifyResume: (input, options) =>
      Effect.flatMap(resolveConfig(kind, input), (config) => verifyResume(kind, config, options)).pipe(
        Effect.provideContext(context)
      )
  }))

/** Pre-training from random weights. */
export class Pretrain extends Context.Service<Pretrain, Training<"pretrain">>()("chatlm/train/Pretrain") {
  static readonly layer: Layer.Layer<Pretrain, never, Native> = Layer.effect(Pretrain, make("pretrain"))
}

/** Fine-tuning on questions and answers, whole or by LoRA. */
export class Sft extends Context.Service<Sft, Training<"sft">>()("chatlm/train/Sft") {
  static readonly layer: Layer.Layer<Sft, never, Native> = Layer.effect(Sft, make("sft"))
}

/** Preference tuning on chosen and rejected answers. */
export class Dpo extends Context.Service<Dpo, Training<"dpo">>()("chatlm/train/Dpo") {
  static readonly layer: Layer.Layer<Dpo, never, Native> = Layer.effect(Dpo, make("dpo"))
}

/** Adapters into models. */
export class Lora extends Context.Service<
  Lora,
  { readonly merge: (options: MergeLoraOptions) => Effect.Effect<MergeLoraReport, ChatlmError> }
>()("chatlm/train/Lora") {
  static readonly layer: Layer.Layer<Lora, never, Native> = Layer.effect(
    Lora,
    Effect.map(Effect.context<Native>(), (context) => ({
      merge: (options) => mergeLora(options).pipe(Effect.provideContext(context))
    }))
  )
}

/** What a run has saved. */
export class Checkpoint extends Context.Service<
  Checkpoint,
  {
    /** The whole checkpoints of a run folder, oldest first. */
    readonly list: (out: string) => Effect.Effect<ReadonlyArray<SavedCheckpoint>, ChatlmError>
    /** A model folder in another precision. */
    readonly export: (options: ExportModelOptions) => Effect.Effect<ExportModelReport, ChatlmError>
  }
>()("chatlm/train/Checkpoint") {
  static readonly layer: Layer.Layer<Checkpoint, never, Native> = Layer.effect(
    Checkpoint,
    Effect.map(Effect.context<Native>(), (context) => ({
      list: savedCheckpoints,
      export: (options) => exportModel(options).pipe(Effect.provideContext(context))
    }))
  )
}

/** All of them over the core. */
export const trainingLayer: Layer.Layer<Pretrain | Sft | Dpo | Lora | Checkpoint, never, Native> =
  Layer.mergeAll(Pretrain.layer, Sft.layer, Dpo.layer, Lora.layer, Checkpoint.layer)
