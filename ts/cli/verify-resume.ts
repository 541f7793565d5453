/** `chatlm verify-resume`: the same training in one go and in two must leave the same state. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "verify-resume",
  "Train in one go and in two, and compare every part of the state",
  {
    config: Flags.text("config", "JSON, JSONC, YAML or a .ts module", "FILE").pipe(Flag.optional),
    set: Flags.text("set", "One key of the configuration", "KEY=JSON").pipe(Flag.atLeast(0)),
    kind: Flag.Literals("kind", ["pretrain", "sft", "dpo"]).pipe(
      Flag.withDescription("Default: told by the keys of the configuration"),
      Flag.optional
    ),
    steps: Flags.integer("steps", "Optimizer steps of the undisturbed run", 2),
    at: Flags.integer("at", "The step after which the other run stops and goes on", 1)
  },
  (flags, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      if (flags.at >= flags.steps) {
        return yield* Effect.fail(
          makeError("USAGE", `--at ${flags.at} is not before --steps ${flags.steps}`, "stop before the end", {
            at: flags.at,
            steps: flags.steps
          })
        )
      }
      const { guessKind, readConfig, resolveConfig } = yield* Effect.promise(
        () => import("../config/index.ts")
      )
      const { verifyResume } = yield* Effect.promise(() => import("../train/train.ts"))
      const file = Option.getOrUndefined(flags.config)
      const seed = Option.isSome(common.seed) ? [`seed=${common.seed.value}`] : []
      const input = yield* readConfig({ file, set: [...flags.set, ...seed] })
      const kind = Option.getOrElse(flags.kind, () => guessKind(input))
      const config = yield* resolveConfig(kind, input, file)
      const report = yield* verifyResume(kind, config, { steps: flags.steps, at: flags.at })
      yield* output.result(
        report,
        columns([
          ["equal", report.equal],
          ...Object.entries(report.parts).map(([part, equal]) => [`  ${part}`, equal] as const)
        ])
      )
      if (!report.equal) {
        const parts = Object.keys(report.parts).filter((part) => report.parts[part] === false)
        return yield* Effect.fail(
          makeError(
            "RESUME_MISMATCH",
            `resuming at step ${flags.at} gives another state: ${parts.join(", ")}`,
            "this is a bug in chatlm: please report it with the configuration",
            { parts, at: flags.at, steps: flags.steps }
          )
        )
      }
    })
)
