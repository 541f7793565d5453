/** `chatlm split`: rows drawn into train, valid and test. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { split, splitDefaults } from "../dataset/dataset.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

const share = (name: "train" | "valid" | "test") =>
  Flag.Finite(name).pipe(
    Flag.withMetavar("SHARE"),
    Flag.withDescription(`Share of the rows in ${name}.parquet`),
    Flag.withDefault(splitDefaults[name])
  )

export const command = verb(
  "split",
  "Draw each row into train.parquet, valid.parquet or test.parquet of a folder",
  {
    inputs: Flags.inputs,
    output: Flags.output,
    train: share("train"),
    valid: share("valid"),
    test: share("test"),
    encoding: Flags.encoding,
    keepGoing: Flags.keepGoing,
    force: Flags.force
  },
  (flags, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      const value = snakeCase(
        yield* split({
          inputs: [...flags.inputs],
          output: flags.output,
          train: flags.train,
          valid: flags.valid,
          test: flags.test,
          seed: Option.getOrElse(common.seed, () => Flags.defaultSeed),
          keepGoing: flags.keepGoing,
          force: flags.force,
          ...Flags.given("encoding", flags.encoding)
        })
      )
      yield* output.result(value, columns(Object.entries(value)))
    })
)
