/** `chatlm lora merge`: an adapter into its base model. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"

import { mergeLora } from "../checkpoint/checkpoint.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { group, verb } from "./core/verb.ts"

const merge = verb(
  "merge",
  "Merge a PEFT adapter into its base model",
  {
    base: Flags.text("base", "The model folder the adapter was trained on", "DIR"),
    adapter: Flags.text("adapter", "The adapter folder", "DIR"),
    output: Flags.output,
    dtype: Flag.Literals("dtype", ["f32", "f16", "bf16"]).pipe(
      Flag.withDescription("What the merged weights are rounded to (default: f32)"),
      Flag.withDefault("f32")
    ),
    force: Flags.force
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const value = snakeCase(yield* mergeLora(flags))
      yield* output.result(value, columns(Object.entries(value)))
    })
)

export const command = group("lora", "Adapters", [merge])
