/** `chatlm tokenizer report`: what a tokenizer makes of text, beside another where one is named. */
import { basename } from "node:path"

import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { percent } from "../report/charts.ts"
import { checkPage, makePage, readTokenizerReport } from "../report/report.ts"
import type { TokenizerReportJson } from "../report/report.ts"
import { tokenizerReport } from "../tokenizer/report.ts"
import * as Flags from "./core/flags.ts"
import { number, Output } from "./core/output.ts"
import { table } from "./core/table.ts"
import { verb } from "./core/verb.ts"

type Figures = TokenizerReportJson["tokenizers"][number]

const quantile = ({ tokens_per_row: { quantiles } }: Figures, wanted: number) =>
  quantiles.find(({ q }) => q === wanted)?.value ?? 0

/** What stands in the table, a line each. */
const lines: ReadonlyArray<readonly [string, (figures: Figures) => string]> = [
  ["vocabulary", ({ vocab_size }) => number(vocab_size)],
  ["tokens", ({ tokens }) => number(tokens)],
  ["characters a token", ({ characters_per_token }) => characters_per_token.toFixed(3)],
  ["bytes a token", ({ bytes_per_token }) => bytes_per_token.toFixed(3)],
  ["unknown tokens", ({ unknown }) => percent(unknown.share)],
  ["unknown characters", ({ unknown }) => percent(unknown.character_share)],
  ["texts that do not come back", ({ round_trip: { failed_share } }) => percent(failed_share)],
  ["  as they were do", ({ round_trip: { exact, texts } }) => percent(texts === 0 ? 0 : exact / texts)],
  ["vocabulary never used", ({ unused }) => percent(unused.share)],
  ["tokens a row, median", (figures) => number(quantile(figures, 0.5))],
  ["  99 % of rows up to", (figures) => number(quantile(figures, 0.99))],
  ["  at most", ({ tokens_per_row: { max } }) => number(max ?? 0)],
  ["longest token", ({ longest }) => longest[0]?.text.trim() ?? ""]
]

const show = ({ rows, texts, characters, tokenizers }: TokenizerReportJson) =>
  Effect.gen(function* () {
    const parts = [`${number(rows)} rows, ${number(texts)} texts, ${number(characters)} characters`]
    parts.push(
      yield* table(
        ["", ...tokenizers.map(({ folder }) => folder)],
        lines.map(([name, value]) => [name, ...tokenizers.map(value)])
      )
    )
    for (const { folder, round_trip } of tokenizers) {
      for (const { file, row, reason, text, back } of round_trip.examples) {
        parts.push(`${folder}: ${file}, row ${number(row)} (${reason})`, `  ${text}`, `  ${back}`)
      }
    }
    return parts.join("\n")
  })

export const report = verb(
  "report",
  "What a tokenizer makes of texts: compression, unknown characters, round trips, unused tokens",
  {
    tokenizer: Flags.text("tokenizer", "A tokenizer folder", "DIR"),
    against: Flags.text("against", "Other tokenizer folders, to compare with", "DIR…").pipe(Flag.atLeast(0)),
    inputs: Flags.inputs,
    page: Flags.text("out", "Write an HTML page, too", "PATH").pipe(Flag.optional),
    encoding: Flags.encoding,
    keepGoing: Flags.keepGoing,
    force: Flags.force
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const page = Option.map(flags.page, (file) => ({ output: file, force: flags.force }))
      // Not after an hour of counting.
      if (Option.isSome(page)) yield* checkPage(page.value)
      const value = yield* tokenizerReport({
        inputs: [...flags.inputs],
        tokenizers: [flags.tokenizer, ...flags.against],
        keepGoing: flags.keepGoing,
        ...Flags.given("encoding", flags.encoding)
      })
      const found = yield* readTokenizerReport(value)
      if (Option.isSome(page)) {
        yield* makePage(page.value, [{ file: basename(page.value.output), report: found }])
      }
      yield* output.result(value, output.json ? "" : yield* show(found))
    }),
  [
    {
      command:
        "chatlm tokenizer report --tokenizer mine --against theirs --in data/*.parquet --out report.html",
      description: "Two tokenizers beside each other, as a table and as a page"
    }
  ]
)
