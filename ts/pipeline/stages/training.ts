/**
 * What pre-training, fine-tuning and preference training share as stages. The run's folder lies in the
 * stage's scratch, which outlives an interruption: the run goes on from its newest checkpoint by itself.
 */
import { join } from "node:path"

import * as Effect from "effect/Effect"

import type { ConfigInputs } from "../../config/index.ts"
import { train as runTraining } from "../../train/train.ts"
import type { RunKind } from "../../train/train.ts"
import type { TrainEvent } from "../../native/index.ts"
import type { Artifact, Inputs, Pairs, PreferencePairs } from "../artifact.ts"
import { PipelineListener } from "../events.ts"
import * as Files from "../files.ts"
import { only, stage } from "../stage.ts"
import type { Json, JsonObject, WorkReport } from "../stage.ts"

/** Steps of a training in a sample run. */
const sampleSteps = 20

/** Keys that the stage sets from its inputs and place. */
export type Wired = "tokenizer" | "train" | "valid" | "out"

/** Rows to train on; with a weight each is read that often an epoch. */
export type Weighted<Table extends Pairs | PreferencePairs> =
  | Table
  | ReadonlyArray<Table | { readonly rows: Table; readonly weight: number }>

export interface TrainingOptions<Kind extends RunKind, Table extends Pairs | PreferencePairs> {
  readonly kind: Kind
  readonly name: string
  readonly train: Weighted<Table>
  readonly valid: Table | undefined
  readonly tokenizer: Artifact<"tokenizer"> | undefined
  readonly model: Artifact<"model"> | undefined
  readonly config: Omit<ConfigInputs[Kind], Wired>
  readonly makes: "model" | "adapter"
}

const spelled = <Table extends Pairs | PreferencePairs>(train: Weighted<Table>) =>
  (Array.isArray(train) ? (train as Exclude<typeof train, Table>) : [train as Table]).map((entry) =>
    "rows" in entry ? entry : { rows: entry, weight: 1 }
  )

/** Threads and the rhythm of notes change no result. */
const idle = new Set(["threads", "logEvery", "saveEvery", "saveInBackground", "keep"])

const bestOrLast = (folder: string) =>
  Effect.map(Files.exists(join(folder, "best")), (best) => join(folder, best ? "best" : "last"))

export const trainingStage = <Kind extends RunKind, Table extends Pairs | PreferencePairs>(
  options: TrainingOptions<Kind, Table>
): Artifact => {
  const { kind, name, valid, tokenizer, model, config, makes } = options
  const sets = spelled<Table>(options.train)
  const inputs: Inputs = { tokenizer, model, train: sets.map(({ rows }) => rows), valid }
  const resolved = (sample: boolean, wires: JsonObject) =>
    Effect.gen(function* () {
      const { resolveConfig } = yield* Effect.promise(() => import("../../config/index.ts"))
      const { maxSteps } = config as { readonly maxSteps?: number | null }
      return (yield* resolveConfig(
        kind,
        {
          ...config,
          ...(sample ? { maxSteps: Math.min(maxSteps ?? sampleSteps, sampleSteps) } : {}),
          ...wires
        },
        `the stage ${name}`
      )) as unknown as JsonObject
    })
  return stage({
    name,
    version: 1,
    settings: (sample) =>
      Effect.map(
        // Placeholders stand for what the inputs' hashes say better.
        resolved(sample, {
          tokenizer: "tokenizer",
          train: sets.map(({ weight }) => ({ path: "rows", weight })),
          valid: valid === undefined ? null : "valid",
          out: "out",
          ...(model === undefined ? {} : { model: "model" })
        }),
        (all) => Object.fromEntries(Object.entries(all).filter(([key]) => !idle.has(key)))
      ),
    inputs,
    outputs: { trained: { kind: makes, path: makes } },
    resumes: true,
    work: ({ inputs, outputs, records, scratch, settings }) =>
      Effect.gen(function* () {
        const tell = yield* PipelineListener
        const out = join(scratch, "run")
        const train = (inputs.train ?? []).map((path, index) => ({ path, weight: sets[index]?.weight ?? 1 }))
        // What is not part of the key comes from the options again.
        const whole = yield* resolved(false, {
          maxSteps: (settings.maxSteps ?? null) as Json,
          tokenizer: only((tokenizer === undefined ? inputs.model : inputs.tokenizer) ?? []),
          train,
          valid: valid === undefined ? null : only(inputs.valid ?? []),
          out,
          ...(model === undefined ? {} : { model: only(inputs.model ?? []) })
        })
        const figures: Record<string, number> = {}
        const onEvent = (event: TrainEvent) =>
          Effect.sync(() => {
            if (event.type === "started") {
              figures.parameters = event.parameters ?? 0
              figures.trainable = event.trainable ?? 0
            }
            if (event.type === "step" && event.loss !== undefined) figures.loss = event.loss
            tell({ type: "training", stage: name, event })
          })
        const result = yield* runTraining({ kind, config: whole, onEvent })
        if (result.evalLoss !== null) figures.evalLoss = result.evalLoss
        if (result.evalBleu4 !== null) figures.evalBleu4 = result.evalBleu4
        yield* Files.linkOrCopy(yield* bestOrLast(out), outputs.trained)
        for (const file of ["config.json", "metrics.jsonl", "samples.jsonl"]) {
          if (yield* Files.exists(join(out, file)))
            yield* Files.linkOrCopy(join(out, file), join(records, file))
        }
        return { steps: result.step, figures } satisfies WorkReport
      })
  }).trained
}
