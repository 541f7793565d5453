/** `chatlm export`: a model folder in another precision. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { exportDtypes, exportModel } from "../checkpoint/checkpoint.ts"
import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { columns, number, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "export",
  "Write a model folder in another precision",
  {
    model: Flags.model,
    output: Flags.output,
    int8: Flags.boolean("int8", "A quarter of the size and the fastest to answer; only chatlm reads it"),
    dtype: Flag.Literals("dtype", exportDtypes).pipe(
      Flag.withDescription("What the weights are rounded to; all but int8 are read by transformers"),
      Flag.optional
    ),
    force: Flags.force
  },
  ({ int8, dtype, ...flags }) =>
    Effect.gen(function* () {
      const output = yield* Output
      if (int8 === Option.isSome(dtype)) {
        return yield* Effect.fail(
          makeError(
            "USAGE",
            int8 ? "--int8 and --dtype are both given" : "no precision is given",
            "give --int8, or --dtype f32, f16 or bf16; for ONNX and CTranslate2 see docs/export.md"
          )
        )
      }
      const report = yield* exportModel({ ...flags, dtype: Option.getOrElse(dtype, () => "int8") })
      yield* output.result(
        snakeCase(report),
        columns([
          ["folder", flags.output],
          ["precision", report.dtype],
          ["size", `${number(Math.round(report.bytes / 1e6))} MB`]
        ])
      )
    }),
  [{ command: "chatlm export --int8 --model model_save --out model_int8", description: "The small one" }]
)
