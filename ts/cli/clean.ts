/** `chatlm clean`: a raw source to rows. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { clean, purposes, sources, turns } from "../clean/clean.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

const column = (what: string) =>
  Flags.text(`${what}-column`, `The column that holds the ${what}`, "NAME").pipe(Flag.optional)

export const command = verb(
  "clean",
  "Raw source to rows of prompt and response",
  {
    source: Flags.text("source", `The kind of source: ${sources.join(", ")}`, "KIND"),
    inputs: Flags.inputs,
    output: Flags.output,
    purpose: Flag.Literals("for", purposes).pipe(
      Flag.withDescription("What the rows are for (default: pretrain)"),
      Flag.withDefault("pretrain")
    ),
    rejects: Flags.text("rejects", "Keeps each dropped row with its rule, file and row", "PATH").pipe(
      Flag.optional
    ),
    report: Flags.text(
      "report",
      "Writes a report as JSON: funnel, lengths, characters, rejects",
      "FILE"
    ).pipe(Flag.optional),
    turns: Flag.Literals("turns", turns).pipe(
      Flag.withDescription("What of a conversation: its first exchange, or each as a row (default: first)"),
      Flag.withDefault("first")
    ),
    compat: Flags.boolean("compat", "Repeat the reference program bug for bug"),
    promptColumn: column("prompt"),
    responseColumn: column("response"),
    chosenColumn: column("chosen"),
    rejectedColumn: column("rejected"),
    templates: Flags.text("templates", "Questions of zhwiki, one a line with {title}", "FILE").pipe(
      Flag.optional
    ),
    encoding: Flags.encoding,
    keepGoing: Flags.keepGoing,
    force: Flags.force
  },
  (flags, { seed }) =>
    Effect.gen(function* () {
      const output = yield* Output
      const report = yield* clean({
        source: flags.source,
        purpose: flags.purpose,
        inputs: [...flags.inputs],
        output: flags.output,
        compat: flags.compat,
        turns: flags.turns,
        seed: Option.getOrElse(seed, () => Flags.defaultSeed),
        keepGoing: flags.keepGoing,
        force: flags.force,
        ...Flags.given("rejects", flags.rejects),
        ...Flags.given("report", flags.report),
        ...Flags.given("promptColumn", flags.promptColumn),
        ...Flags.given("responseColumn", flags.responseColumn),
        ...Flags.given("chosenColumn", flags.chosenColumn),
        ...Flags.given("rejectedColumn", flags.rejectedColumn),
        ...Flags.given("templates", flags.templates),
        ...Flags.given("encoding", flags.encoding)
      })
      const funnel = columns([
        ["read", report.read],
        ...Object.entries(report.dropped).map(([rule, rows]) => [`  ${rule}`, -rows] as const),
        ...(report.broken > 0 ? [["broken", report.broken] as const] : []),
        ...(report.undecodable > 0 ? [["undecodable", report.undecodable] as const] : []),
        ["kept", report.kept],
        ["seconds", report.seconds]
      ])
      yield* output.result(snakeCase(report), funnel)
    }),
  [
    {
      command: "chatlm clean --source alpaca --in alpaca.json --out rows.parquet --rejects rejects.parquet",
      description: "Clean one source and keep what was dropped"
    }
  ]
)
