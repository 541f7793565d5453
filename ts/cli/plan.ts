/** `chatlm plan`: what a training would take, before the hours. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import type { PlanReport } from "../train/plan.ts"
import * as Flags from "./core/flags.ts"
import { columns, number, Output, snakeCase } from "./core/output.ts"
import { clock } from "./core/progress.ts"
import { configWithLocalPaths } from "./core/references.ts"
import { maxMemory, sizeText as bytes } from "./core/size.ts"
import { verb } from "./core/verb.ts"

const round = (value: number) => number(value >= 100 ? Math.round(value) : Number(value.toPrecision(3)))

const time = (seconds: number) =>
  seconds < 172_800 ? clock(seconds) : `${Math.floor(seconds / 86_400)} days ${clock(seconds % 86_400)}`

/** The report for people: what one asks first stands first. */
const table = (report: PlanReport): string => {
  const or = <A>(value: A | null, show: (value: A) => string, text = "not measured") =>
    value === null ? text : show(value)
  const { longest } = report
  const free = or(report.diskFreeBytes, (value) => ` of ${bytes(value)} free`, "")
  const largest =
    report.largestBatch === 0
      ? "none: not even one row fits"
      : `${round(report.largestBatch)} rows of ${longest.join(" + ")} tokens` +
        (report.verifiedBatch === report.largestBatch
          ? ", tried"
          : `, computed from ${round(report.verifiedBatch)} that were tried`)
  return columns([
    ["parameters", `${round(report.parameters)}, ${round(report.trainable)} of them trained`],
    [
      "steps",
      `${round(report.steps)}${report.stepsDone > 0 ? `, ${round(report.stepsDone)} of them done` : ""}` +
        ` of ${round(report.tokensPerStep)} tokens`
    ],
    ["speed", or(report.tokensPerSecond, (value) => `${round(value)} tokens/s`)],
    ["a step", or(report.secondsPerStep, (value) => `${round(value)} s`)],
    ["time left", or(report.secondsLeft, (value) => `${time(value)}, without evaluations and saves`)],
    ["memory", `${or(report.memoryBytes, bytes)} of ${bytes(report.limitBytes)}`],
    ["  all rows the longest", or(report.longestMemoryBytes, bytes)],
    ["  weights", bytes(report.weightBytes)],
    ["  gradients", bytes(report.gradientBytes)],
    ["  optimizer", bytes(report.optimizerBytes)],
    ["  activations", or(report.activationBytes, bytes)],
    ["  the rest", bytes(report.baseBytes)],
    ["  while saving", `${bytes(report.saveBytes)} more, where they are free`],
    ["disk", `${bytes(report.diskBytes)}${free}, ${bytes(report.checkpointBytes)} a checkpoint`],
    ["batch", `${round(report.batchSize)}${report.fits ? "" : ": does not fit"}`],
    ["largest batch", largest]
  ])
}

export const command = verb(
  "plan",
  "What a training would take: memory, disk, time, the largest batch that fits",
  {
    config: Flags.text("config", "JSON, JSONC, YAML or a .ts module", "FILE").pipe(Flag.optional),
    set: Flags.text("set", "One key of the configuration", "KEY=JSON").pipe(Flag.atLeast(0)),
    kind: Flag.Literals("kind", ["pretrain", "sft", "dpo"]).pipe(
      Flag.withDescription("Default: told by the keys of the configuration"),
      Flag.optional
    ),
    batchOnly: Flags.boolean("batch-only", "Only look for the largest batch"),
    maxMemory: maxMemory("what the machine can give")
  },
  (flags, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      const { guessKind, readConfig, resolveConfig } = yield* Effect.promise(
        () => import("../config/index.ts")
      )
      const { plan } = yield* Effect.promise(() => import("../train/plan.ts"))
      const file = Option.getOrUndefined(flags.config)
      const input = yield* readConfig({
        file,
        set: [
          ...flags.set,
          ...(Option.isSome(common.seed) ? [`seed=${common.seed.value}`] : []),
          ...(Option.isSome(common.threads) ? [`threads=${common.threads.value}`] : [])
        ]
      })
      const kind = Option.getOrElse(flags.kind, () => guessKind(input))
      const config = yield* configWithLocalPaths<typeof kind>(yield* resolveConfig(kind, input, file))
      const report = yield* plan({
        kind,
        config,
        batchOnly: flags.batchOnly,
        ...Flags.given("maxMemory", flags.maxMemory)
      })
      yield* output.result(snakeCase(report), table(report))
    }),
  [
    { command: "chatlm plan --config pretrain.yaml", description: "Before the hours" },
    {
      command: "chatlm plan --config sft.yaml --max-memory 8GiB --batch-only",
      description: "How many rows fit into 8 GiB"
    }
  ]
)
