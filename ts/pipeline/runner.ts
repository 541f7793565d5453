/**
 * Runs a pipeline: stage after stage, each found in the ledger by the hash of all that decides it, or done
 * and put there. Nothing but results is remembered, so a failed or killed run is just run again.
 */
import { join, resolve } from "node:path"

import * as Effect from "effect/Effect"

import { nearest } from "../config/nearest.ts"
import { makeError } from "../native/index.ts"
import type { ChatlmError, Native } from "../native/index.ts"
import { listOf } from "./artifact.ts"
import type { Artifact } from "./artifact.ts"
import { PipelineListener } from "./events.ts"
import type { Reason } from "./events.ts"
import { remove } from "./files.ts"
import { keyOf } from "./key.ts"
import { Ledger, now } from "./ledger.ts"
import { lock } from "./lock.ts"
import type { Manifest } from "./manifest.ts"
import { stagesFor } from "./pipeline.ts"
import type { Pipeline } from "./pipeline.ts"
import { openRecord } from "./records.ts"
import { cutGiven } from "./sample.ts"
import type { JsonObject, Stage, WorkContext } from "./stage.ts"
import { checkTarget, targetIsWhole } from "./target.ts"

export interface RunOptions {
  /** The last stage to run, with all that it needs. */
  readonly until?: string
  /** Stages that run though their results are there. */
  readonly rerun?: ReadonlyArray<string>
  /** Only says what would run. */
  readonly dryRun?: boolean
  /** Few rows and few steps, to see whether it all fits together. */
  readonly sample?: boolean
  /** Reads every byte of the results instead of trusting sizes and times. */
  readonly verify?: boolean
}

export interface StageResult {
  readonly stage: string
  /** `pending`: would run, in a dry run. */
  readonly state: "done" | "kept" | "pending"
  readonly key: string | null
  readonly folder: string | null
  readonly manifest: Manifest | null
}

export interface RunResult {
  readonly pipeline: string
  readonly stages: ReadonlyArray<StageResult>
  /** Paths of the pipeline's results by name, as far as the stages behind them are done. */
  readonly results: Readonly<Record<string, string>>
}

/** What is known of an artifact once its stage is done. */
interface Known {
  readonly hash: string
  readonly path: string
}

const unknownStage = (name: string, stages: ReadonlyArray<Stage>) => {
  const suggestion = nearest(
    name,
    stages.map((stage) => stage.name)
  )
  return makeError(
    "USAGE",
    `the pipeline has no stage "${name}"`,
    `${suggestion === undefined ? "" : `did you mean "${suggestion}"? `}its stages are ${stages.map((stage) => stage.name).join(", ")}`,
    { stage: name }
  )
}

/** The stages of a run in order, cut off after `until`. */
const choose = (
  all: ReadonlyArray<Stage>,
  options: RunOptions
): Effect.Effect<ReadonlyArray<Stage>, ChatlmError> => {
  const wanted = [...(options.rerun ?? []), ...(options.until === undefined ? [] : [options.until])]
  const missing = wanted.find((name) => !all.some((stage) => stage.name === name))
  if (missing !== undefined) return Effect.fail(unknownStage(missing, all))
  const last = all.find((stage) => stage.name === options.until)
  if (last === undefined) return Effect.succeed(all)
  return Effect.succeed([...stagesFor(Object.values(last.inputs).flatMap(listOf)), last])
}

export const runPipeline = (
  whole: Pipeline,
  options: RunOptions = {}
): Effect.Effect<RunResult, ChatlmError, Native | Ledger> =>
  Effect.gen(function* () {
    const ledger = yield* Ledger
    const tell = yield* PipelineListener
    const { dryRun = false, sample = false, verify = false, rerun = [] } = options
    const pipeline = sample ? cutGiven(whole) : whole
    const stages = yield* choose(pipeline.stages, options)
    // All settings are checked before the first stage spends any time.
    const settings = new Map<Stage, JsonObject>()
    for (const stage of stages) {
      settings.set(stage, yield* stage.settings(sample))
      if (stage.target !== undefined && !dryRun) yield* checkTarget(stage.target)
    }

    if (!dryRun) yield* lock(ledger.root)
    const record = dryRun ? undefined : yield* openRecord(pipeline.name, stages, options)
    const known = new Map<Stage, Readonly<Record<string, Known>>>()
    const given = new Map<string, Known>()
    const results: Array<StageResult> = []

    const knownOf = (artifact: Artifact) =>
      Effect.gen(function* () {
        const { origin } = artifact
        if (origin.type === "stage") return known.get(origin.stage)?.[origin.output]
        const path = resolve(origin.path)
        const before = given.get(path)
        if (before !== undefined) return before
        const found = { path, hash: yield* ledger.hashGiven(path) }
        given.set(path, found)
        return found
      })

    const outputsOf = (folder: string, manifest: Manifest) =>
      Object.fromEntries(
        Object.entries(manifest.outputs).map(([name, output]) => [
          name,
          { hash: output.sha256, path: join(folder, output.path) }
        ])
      )

    const perform = (
      stage: Stage,
      key: string,
      inputs: ReadonlyArray<readonly [string, ReadonlyArray<Known>]>
    ) =>
      Effect.gen(function* () {
        const startedAt = yield* now
        const place = yield* ledger.begin(stage.name, key, stage.resumes)
        const context: WorkContext = {
          inputs: Object.fromEntries(inputs.map(([name, list]) => [name, list.map(({ path }) => path)])),
          outputs: Object.fromEntries(
            Object.entries(stage.outputs).map(([name, { path }]) => [name, join(place.result, path)])
          ),
          records: place.records,
          scratch: place.scratch,
          settings: settings.get(stage) ?? {}
        }
        const report = yield* stage.work(context).pipe(
          // A stage that cannot resume leaves nothing; killed outright, the next attempt clears up.
          Effect.onExit((exit) =>
            exit._tag === "Failure" && !stage.resumes ? Effect.ignore(remove(place.folder)) : Effect.void
          )
        )
        const seconds = ((yield* now) - startedAt) / 1000
        const making = {
          stage: stage.name,
          version: stage.version,
          key,
          settings: context.settings,
          inputs: Object.fromEntries(inputs.map(([name, list]) => [name, list.map(({ hash }) => hash)])),
          outputs: stage.outputs
        }
        return yield* ledger.publish(making, place, report, startedAt, seconds)
      })

    const advance = (stage: Stage, place: number) =>
      Effect.gen(function* () {
        const inputs: Array<readonly [string, ReadonlyArray<Known>]> = []
        for (const [name, input] of Object.entries(stage.inputs)) {
          const list: Array<Known> = []
          for (const artifact of listOf(input)) {
            const one = yield* knownOf(artifact)
            // Only in a dry run, behind a stage that would run.
            if (one === undefined)
              return { stage: stage.name, state: "pending", key: null, folder: null, manifest: null } as const
            list.push(one)
          }
          inputs.push([name, list])
        }
        const key = keyOf({
          stage: stage.name,
          version: stage.version,
          settings: settings.get(stage) ?? {},
          inputs: Object.fromEntries(inputs.map(([name, list]) => [name, list.map(({ hash }) => hash)]))
        })
        const found = yield* ledger.find(stage.name, key, verify)
        let reason: Reason = "new"
        if (found.state === "damaged") {
          reason = "damaged"
          tell({ type: "damaged", stage: stage.name, message: `${found.folder}: ${found.reason}` })
        } else if (found.state === "whole") {
          if (rerun.includes(stage.name)) reason = "rerun"
          else if (yield* targetIsWhole(stage.target, found.manifest)) {
            known.set(stage, outputsOf(found.folder, found.manifest))
            tell({ type: "kept", stage: stage.name, manifest: found.manifest })
            return {
              stage: stage.name,
              state: "kept",
              key,
              folder: found.folder,
              manifest: found.manifest
            } as const
          } else reason = "damaged"
        }
        if (dryRun) return { stage: stage.name, state: "pending", key, folder: null, manifest: null } as const
        tell({ type: "started", stage: stage.name, place, of: stages.length, reason })
        // A result that will not be used must not be there if the work fails or is killed.
        if (reason !== "new") yield* ledger.forget(stage.name, key)
        const manifest = yield* perform(stage, key, inputs)
        const folder = ledger.folderOf(stage.name, key)
        known.set(stage, outputsOf(folder, manifest))
        tell({ type: "done", stage: stage.name, manifest })
        return { stage: stage.name, state: "done", key, folder, manifest } as const
      })

    const all = Effect.gen(function* () {
      for (const [index, stage] of stages.entries()) {
        const result = yield* advance(stage, index + 1).pipe(
          Effect.tapError((error) => record?.failed(stage.name, error) ?? Effect.void)
        )
        results.push(result)
        yield* record?.add(result) ?? Effect.void
      }
    })
    yield* record === undefined ? all : Effect.onExit(all, (exit) => record.close(exit))

    const paths: Record<string, string> = {}
    for (const [name, artifact] of Object.entries(pipeline.results)) {
      const one =
        artifact.origin.type === "given"
          ? undefined
          : known.get(artifact.origin.stage)?.[artifact.origin.output]
      if (one !== undefined) paths[name] = one.path
    }
    return { pipeline: pipeline.name, stages: results, results: paths }
  }).pipe(Effect.scoped)
