/** `chatlm runs`: what ran, what one run was made of, and clearing away what nothing uses. */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import * as Flags from "./core/flags.ts"
import { columns, number, Output } from "./core/output.ts"
import { clock } from "./core/progress.ts"
import { verb } from "./core/verb.ts"
import type { Verb } from "./core/verb.ts"
import { root, stageValue, summary } from "./run.ts"

const pipelines = Effect.promise(() => import("../pipeline/index.ts"))

const list = verb("runs", "The runs of pipelines, the newest first", { root }, (flags) =>
  Effect.gen(function* () {
    const output = yield* Output
    const { Ledger, listRecords } = yield* pipelines
    const records = yield* listRecords.pipe(Effect.provide(Ledger.layer(flags.root)))
    const lines = records.map(
      ({ id, pipeline, state, seconds, stages }) =>
        `${id}  ${pipeline}  ${state}  ${stages.filter(({ state }) => state === "done").length} of ` +
        `${stages.length} stages done, ${stages.filter(({ state }) => state === "kept").length} kept, ${clock(seconds)}`
    )
    yield* output.result(records, lines.length === 0 ? `no run in ${flags.root}` : lines.join("\n"))
  })
)

const show = verb(
  "show",
  "One run: its stages, their rows, steps and figures",
  {
    id: Argument.String("ID").pipe(
      Argument.withDescription("The beginning of a run's name; left out, the newest"),
      Argument.optional
    ),
    root
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const { findRecord, Ledger } = yield* pipelines
      yield* Effect.gen(function* () {
        const ledger = yield* Ledger
        const record = yield* findRecord(Option.getOrUndefined(flags.id))
        const stages = []
        const lines: Array<readonly [string, unknown]> = [
          ["run", record.id],
          ["pipeline", record.pipeline],
          ["state", record.state],
          ["started", record.startedAt],
          ["took", clock(record.seconds)]
        ]
        for (const { stage, state, key } of record.stages) {
          const found = key === null ? undefined : yield* ledger.find(stage, key)
          const manifest = found?.state === "whole" ? found.manifest : null
          const folder = key === null ? null : ledger.folderOf(stage, key)
          stages.push({ ...stageValue({ stage, state: "kept", key, folder, manifest }), state })
          lines.push([
            `  ${stage}`,
            manifest === null ? state : `${state}, ${clock(manifest.seconds)}, ${summary(manifest)}`
          ])
        }
        if (record.error !== null) {
          lines.push(["failed", `${record.error.stage}: ${record.error.code}, ${record.error.message}`])
        }
        yield* output.result({ ...record, stages }, columns(lines))
      }).pipe(Effect.provide(Ledger.layer(flags.root)))
    })
)

const gc = verb(
  "gc",
  "Remove results that the newest runs do not use, and abandoned work",
  {
    keep: Flags.integer("keep", "Newest runs of each pipeline whose results stay", 1).pipe(
      Flag.withDefault(1)
    ),
    dryRun: Flags.boolean("dry-run", "Only say what would go"),
    root
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const { collectGarbage, Ledger } = yield* pipelines
      const done = yield* collectGarbage(flags.keep, flags.dryRun).pipe(
        Effect.provide(Ledger.layer(flags.root))
      )
      yield* output.result(
        done,
        [
          ...done.removed,
          `${number(done.removed.length)} ${flags.dryRun ? "would go" : "removed"}, ` +
            `${number(Math.round(done.bytes / 1e6))} MB, ${number(done.kept)} results kept`
        ].join("\n")
      )
    })
)

export const command: Verb = list.pipe(Command.withSubcommands([show, gc])) as unknown as Verb
