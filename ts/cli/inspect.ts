/** `chatlm inspect PATH`: rows, schema, lengths, a few rows. */
import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"

import { inspect } from "../dataset/dataset.ts"
import type { Inspection } from "../dataset/dataset.ts"
import * as Flags from "./core/flags.ts"
import { number, Output } from "./core/output.ts"
import { table } from "./core/table.ts"
import { verb } from "./core/verb.ts"

const shorten = (value: unknown) => {
  const text = typeof value === "string" ? value : JSON.stringify(value)
  return text === undefined ? "" : text.length > 60 ? `${text.slice(0, 59)}…` : text
}

const show = (inspection: Inspection) =>
  Effect.gen(function* () {
    const parts = [`${number(inspection.rows)} rows`]
    parts.push(
      yield* table(
        ["column", "kind"],
        inspection.columns.map(({ name, kind }) => [name, kind])
      )
    )
    for (const { column, min, max, mean, buckets } of inspection.lengths) {
      const most = Math.max(1, ...buckets.map(({ rows }) => rows))
      parts.push(
        `${column}: ${number(min)} to ${number(max)} characters, ${number(mean)} on average`,
        ...buckets.map(
          ({ upTo, rows }) =>
            `  ≤ ${String(upTo).padStart(7)}  ${number(rows).padStart(9)}  ${"█".repeat(Math.ceil((rows / most) * 30))}`
        )
      )
    }
    if (inspection.samples.length > 0) {
      const names = inspection.columns.map(({ name }) => name)
      parts.push(
        yield* table(
          names,
          inspection.samples.map((row) => names.map((name) => shorten(row[name])))
        )
      )
    }
    return parts.join("\n")
  })

export const command = verb(
  "inspect",
  "Rows, columns, a histogram of lengths and a few rows",
  {
    inputs: Argument.String("path").pipe(
      Argument.withDescription("Files, folders or globs"),
      Argument.variadic({ min: 1 })
    ),
    rows: Flags.integer("rows", "How many rows to show").pipe(Flag.withDefault(5)),
    encoding: Flags.encoding
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const inspection = yield* inspect({
        inputs: [...flags.inputs],
        rows: flags.rows,
        ...Flags.given("encoding", flags.encoding)
      })
      const lengths = inspection.lengths.map(({ buckets, ...rest }) => ({
        ...rest,
        buckets: buckets.map(({ upTo, rows }) => ({ up_to: upTo, rows }))
      }))
      yield* output.result({ ...inspection, lengths }, output.json ? "" : yield* show(inspection))
    })
)
