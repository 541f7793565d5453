/** `chatlm run FILE.ts`: the pipeline of a module, stage after stage. */
import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"

import * as Flags from "./core/flags.ts"
import { columns, number, Output, snakeCase } from "./core/output.ts"
import { clock } from "./core/progress.ts"
import { verb } from "./core/verb.ts"
import type { Manifest, PipelineEvent, StageResult } from "../pipeline/index.ts"

export const root = Flags.text("root", "Folder of the results", "DIR").pipe(Flag.withDefault(".chatlm"))

/** What a manifest says, in a few words. */
export const summary = ({ rows, steps, figures }: Manifest): string =>
  [
    ...(steps === null ? [] : [`${number(steps)} steps`]),
    ...Object.entries(rows).map(([name, count]) => `${name} ${number(count)}`),
    ...Object.entries(figures).map(([name, value]) => `${name} ${number(value)}`)
  ].join(", ")

/** An event as a line for people; training has a progress bar, so only what it saves is told. */
export const eventLine = (event: PipelineEvent): string | undefined => {
  switch (event.type) {
    case "started":
      return `[${event.place}/${event.of}] ${event.stage}${event.reason === "rerun" ? ", again as asked" : ""} …`
    case "damaged":
      return `${event.stage}: done again, because of ${event.message}`
    case "kept":
      return `${event.stage}: done before`
    case "done":
      return `${event.stage}: ${clock(event.manifest.seconds)}, ${summary(event.manifest)}`
    case "training":
      if (event.event.type === "saved") return `${event.stage}: saved ${event.event.path ?? ""}`
      return event.event.type === "started" && event.event.resumedFrom !== undefined
        ? `${event.stage}: goes on from step ${event.event.step}`
        : undefined
  }
}

export const stageValue = ({ stage, state, key, folder, manifest }: StageResult) => ({
  stage,
  state,
  key,
  folder,
  ...(manifest === null
    ? {}
    : {
        seconds: manifest.seconds,
        steps: manifest.steps,
        rows: snakeCase(manifest.rows),
        figures: snakeCase(manifest.figures)
      })
})

const words = { done: "done", kept: "done before", pending: "would run" } as const

export const command = verb(
  "run",
  "Run the pipeline of a module; what is done and unchanged is not done again",
  {
    file: Argument.String("FILE").pipe(
      Argument.withDescription("A .ts module whose default export is a pipeline")
    ),
    until: Flags.text("until", "The last stage to run", "STAGE").pipe(Flag.optional),
    dryRun: Flags.boolean("dry-run", "Only say what would run"),
    rerun: Flags.text("rerun", "Run a stage though its result is there", "STAGE").pipe(Flag.atLeast(0)),
    sample: Flags.boolean("sample", "Few rows and few steps, to see whether it all fits together"),
    verify: Flags.boolean("verify", "Read every byte of the results instead of trusting sizes and times"),
    root
  },
  (flags, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      const { Ledger, loadPipeline, PipelineListener, runPipeline } = yield* Effect.promise(
        () => import("../pipeline/index.ts")
      )
      const pipeline = yield* loadPipeline(flags.file)
      let total: number | undefined
      const listener = (event: PipelineEvent) => {
        if (event.type === "training" && event.event.type === "started") total = event.event.totalSteps
        if (event.type === "training" && event.event.type === "step" && event.event.loss !== undefined) {
          common.progress.report(
            { stage: event.stage, done: event.event.step, total: total ?? null, unit: "steps" },
            `loss ${number(event.event.loss)}`
          )
        }
        const line = eventLine(event)
        if (line !== undefined && !output.quiet) output.writeError(line)
      }
      const result = yield* runPipeline(pipeline, {
        rerun: [...flags.rerun],
        dryRun: flags.dryRun,
        sample: flags.sample,
        verify: flags.verify,
        ...Flags.given("until", flags.until)
      }).pipe(Effect.provideService(PipelineListener, listener), Effect.provide(Ledger.layer(flags.root)))
      const value = {
        pipeline: result.pipeline,
        stages: result.stages.map(stageValue),
        results: result.results
      }
      const lines: ReadonlyArray<readonly [string, unknown]> = [
        ...result.stages.map(({ stage, state }) => [stage, words[state]] as const),
        ...Object.entries(result.results)
      ]
      yield* output.result(value, columns(lines))
    }),
  [{ command: "chatlm run pipeline.ts --until tokenizer", description: "Run up to one stage" }]
)
