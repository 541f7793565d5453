/** `chatlm lora`: adapters into their base model, and off it again. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { combinations, mergeLora, unmergeLora } from "../checkpoint/checkpoint.ts"
import type { MergeLoraReport } from "../checkpoint/checkpoint.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { group, verb } from "./core/verb.ts"

const dtype = Flag.Literals("dtype", ["f32", "f16", "bf16"]).pipe(
  Flag.withDescription("What the weights are rounded to (default: f32)"),
  Flag.withDefault("f32")
)

const tell = (report: MergeLoraReport) =>
  Effect.gen(function* () {
    const output = yield* Output
    const value = snakeCase(report)
    yield* output.result(value, columns(Object.entries(value)))
  })

const merge = verb(
  "merge",
  "Merge PEFT adapters into their base model",
  {
    base: Flags.text("base", "The model folder the adapters were trained on", "DIR"),
    adapters: Flags.text("adapter", "An adapter folder; several are merged in their order", "DIR").pipe(
      Flag.atLeast(1)
    ),
    weights: Flags.text("weights", "A weight for each adapter: 0.7,0.3 (default: 1 each)", "LIST").pipe(
      Flag.optional
    ),
    combination: Flag.Literals("combination", combinations).pipe(
      Flag.withDescription("How adapters add up, as PEFT names it (default: cat, the weighted sum)"),
      Flag.withDefault("cat")
    ),
    output: Flags.output,
    dtype,
    force: Flags.force
  },
  ({ adapters, weights, ...flags }) =>
    Effect.flatMap(
      mergeLora({
        ...flags,
        adapters: [...adapters],
        ...(Option.isSome(weights) ? { weights: weights.value.split(",").map(Number) } : {})
      }),
      tell
    )
)

const unmerge = verb(
  "unmerge",
  "Take a merged adapter off its model (not DoRA)",
  {
    model: Flags.text("model", "The merged model's folder", "DIR"),
    adapter: Flags.text("adapter", "The adapter folder that was merged", "DIR"),
    output: Flags.output,
    dtype,
    force: Flags.force
  },
  (flags) => Effect.flatMap(unmergeLora(flags), tell)
)

export const command = group("lora", "Adapters", [merge, unmerge])
