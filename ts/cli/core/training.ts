/** What `pretrain`, `sft` and `dpo` share: configuration, events, the end. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import type { RunKind, TrainEvent } from "../../native/index.ts"
import { clock, sparkline } from "./progress.ts"
import * as Flags from "./flags.ts"
import { Host } from "./host.ts"
import { columns, number, Output, snakeCase } from "./output.ts"
import { configWithLocalPaths } from "./references.ts"
import { sizeText } from "./size.ts"
import { verb } from "./verb.ts"

/** A step line without a terminal, at most so often. */
const lineEvery = 10_000

const stepText = (event: TrainEvent): string =>
  [
    `loss ${number(event.loss ?? Number.NaN)}`,
    `lr ${number(event.learningRate ?? 0)}`,
    `norm ${number(event.gradNorm ?? 0)}`,
    `${number(Math.round(event.tokensPerSecond ?? 0))} tokens/s`,
    ...(event.rewards === undefined
      ? []
      : [`margin ${number(event.rewards.margins)}`, `accuracy ${number(event.rewards.accuracies)}`])
  ].join(", ")

/** Losses that the terminal's line remembers. */
const remembered = 400

/** The first step after `step` at which something is done every so many steps; nothing for never. */
const next = (what: string, step: number, every: number, total: number): string | undefined => {
  const at = every > 0 ? (Math.floor(step / every) + 1) * every : undefined
  return at === undefined || at > total ? undefined : `${what} at ${number(at)}`
}

/** What a terminal shows beside the bar: as much as tells how the run fares and what comes next. */
export const terminalText = (
  event: TrainEvent,
  losses: ReadonlyArray<number>,
  config: { readonly saveEvery: number; readonly evalEvery: number; readonly valid: string | null }
): string => {
  const total = event.totalSteps ?? Infinity
  return [
    `loss ${number(event.loss ?? Number.NaN)} ${sparkline(losses)}`,
    ...(event.rewards === undefined ? [] : [`accuracy ${number(event.rewards.accuracies)}`]),
    `${number(Math.round(event.tokensPerSecond ?? 0))} tokens/s`,
    ...(event.rssBytes === undefined ? [] : [sizeText(event.rssBytes)]),
    next("save", event.step, config.saveEvery, total),
    config.valid === null ? undefined : next("evaluation", event.step, config.evalEvery, total)
  ]
    .filter((part) => part !== undefined)
    .join(", ")
}

/** Nothing where no evaluation row is trained on. */
const contaminationLines = ({
  rows = 0,
  exact = 0,
  same = 0,
  prompts = 0,
  first = []
}: TrainEvent): ReadonlyArray<string> => {
  const also = prompts > same ? `; ${number(prompts - same)} more share only their prompt` : ""
  if (same === 0) {
    return prompts === 0 ? [] : [`note: ${number(prompts)} of ${number(rows)} prompts of valid are in train`]
  }
  return [
    `warning: ${number(same)} of ${number(rows)} rows of valid are in train (${number(exact)} to the byte), ` +
      `such as row ${first.join(", ")}${also}; chatlm dedup --against finds the merely alike, too`
  ]
}

/** An event as a line for people; nothing for steps, which have their own rhythm. */
const eventLines = (event: TrainEvent): ReadonlyArray<string> => {
  switch (event.type) {
    case "started": {
      const size = `${number(event.parameters ?? 0)} parameters, ${number(event.trainable ?? 0)} of them trained`
      return [
        ...(event.skipped ?? []).map((reason) => `passed over a broken checkpoint: ${reason}`),
        ...(event.inexact ?? []).map((what) => `not to the bit as it would have gone on: another ${what}`),
        event.resumedFrom === undefined
          ? `start: ${number(event.totalSteps ?? 0)} steps, ${size}`
          : `go on from ${event.resumedFrom}: step ${event.step} of ${number(event.totalSteps ?? 0)}, ${size}`
      ]
    }
    case "evaluated":
      return [
        `step ${event.step}: evaluation loss ${number(event.evalLoss ?? Number.NaN)}` +
          `${event.evalBleu4 === undefined ? "" : `, BLEU-4 ${number(event.evalBleu4)}`}` +
          `${event.best === true ? ", the best so far" : ""}`
      ]
    case "sample":
      return [`  ${event.prompt ?? ""} → ${event.response ?? ""} (${event.label ?? ""})`]
    case "saved":
      return [`step ${event.step}: saved ${event.path ?? ""}`]
    case "skipped":
      return [`step ${event.step}: skipped, ${event.reason ?? ""}`]
    case "reference":
      return [
        event.computed === 0
          ? `reference: ${number(event.rows ?? 0)} rows found`
          : `reference: ${number(event.computed ?? 0)} of ${number(event.rows ?? 0)} rows computed`
      ]
    case "contamination":
      return contaminationLines(event)
    case "warned":
      return [`warning: ${event.reason ?? ""}`]
    case "step":
    case "finished":
      return []
  }
}

export const trainingVerb = (kind: RunKind, description: string) =>
  verb(
    kind,
    description,
    {
      config: Flags.text("config", "JSON, JSONC, YAML or a .ts module", "FILE").pipe(Flag.optional),
      set: Flags.text("set", "One key of the configuration", "KEY=JSON").pipe(Flag.atLeast(0)),
      workers: Flags.integer("workers", "Processes on this machine that train together (default 1)", 1).pipe(
        Flag.optional
      ),
      printConfig: Flags.boolean("print-config", "Print the whole configuration and stop"),
      fresh: Flags.boolean("fresh", "Start over instead of going on from the newest checkpoint"),
      from: Flags.integer("from", "Go on from the checkpoint of this step instead of the newest", 1).pipe(
        Flag.optional
      ),
      force: Flags.boolean(
        "force",
        "With --fresh: throw away what is there; with --from: the checkpoints after that step"
      )
    },
    (flags, common) =>
      Effect.gen(function* () {
        const host = yield* Host
        const output = yield* Output
        // The schemas take a while to load, so only those who need them do.
        const { loadConfig } = yield* Effect.promise(() => import("../../config/index.ts"))
        const { train } = yield* Effect.promise(() => import("../../train/train.ts"))
        const written = yield* loadConfig(kind, {
          file: Option.getOrUndefined(flags.config),
          set: [
            ...flags.set,
            ...(Option.isSome(flags.workers) ? [`workers=${flags.workers.value}`] : []),
            ...(Option.isSome(common.seed) ? [`seed=${common.seed.value}`] : []),
            ...(Option.isSome(common.threads) ? [`threads=${common.threads.value}`] : [])
          ]
        })
        if (flags.printConfig) return yield* output.result(written, JSON.stringify(written, null, 2))
        const config = yield* configWithLocalPaths<typeof kind>(written)
        const from = Option.getOrUndefined(flags.from)

        // Of those that mpirun starts the first speaks.
        if ((host.env["OMPI_COMM_WORLD_RANK"] ?? "0") !== "0") {
          yield* train({ kind, config, fresh: flags.fresh, from, force: flags.force })
          return
        }
        let total: number | undefined
        let lastLine = host.now()
        const losses: Array<number> = []
        const onEvent = (event: TrainEvent) =>
          Effect.gen(function* () {
            if (output.json) yield* output.result({ ...snakeCase(event) }, "")
            if (event.type === "started") total = event.totalSteps
            if (event.type === "step") {
              losses.push(event.loss ?? Number.NaN)
              if (losses.length > remembered) losses.shift()
              if (output.terminal) {
                const progress = { stage: kind, done: event.step, total: total ?? null, unit: "steps" }
                return common.progress.report(progress, terminalText(event, losses, config))
              }
              if (host.now() - lastLine < lineEvery) return
              lastLine = host.now()
              return yield* output.note(
                `step ${event.step}${total === undefined ? "" : ` of ${total}`}: ${stepText(event)}`
              )
            }
            for (const line of eventLines(event)) yield* output.note(line)
          })
        const report = yield* train({ kind, config, fresh: flags.fresh, from, force: flags.force, onEvent })
        yield* output.note(`${kind} is done: ${number(report.step)} steps in ${clock(report.seconds)}`)
        // With --json the last event says it all.
        if (output.json) return
        const rows: ReadonlyArray<readonly [string, unknown]> = [
          ["out", config.out],
          ["steps", report.step],
          ["ended by", report.reason],
          ["loss", report.loss],
          ["evaluation loss", report.evalLoss],
          ["evaluation BLEU-4", report.evalBleu4],
          ["seconds", report.seconds]
        ]
        yield* output.result({}, columns(rows.filter(([, value]) => value !== null)))
      }),
    [
      {
        command: `chatlm ${kind} --config ${kind}.yaml --set batchSize=8 learningRate=1e-4`,
        description: "Train, or go on where the run stopped"
      }
    ]
  )
