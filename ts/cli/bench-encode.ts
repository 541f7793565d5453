/** `chatlm bench encode`: how fast texts become ids. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"

import { benchEncode } from "../bench/bench.ts"
import * as Flags from "./core/flags.ts"
import { columns, number, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const encode = verb(
  "encode",
  "Tokens a second of a tokenizer over texts, on all threads, and memory",
  {
    inputs: Flags.inputs,
    tokenizer: Flags.text("tokenizer", "A tokenizer folder", "DIR"),
    batch: Flags.integer("batch", "Texts encoded together (default: 4096)", 1).pipe(Flag.withDefault(4096)),
    bytes: Flags.integer("bytes", "Text that is taken, from the start (default: 100000000)", 1).pipe(
      Flag.withDefault(100_000_000)
    ),
    rounds: Flags.integer("rounds", "Rounds that count; one before them warms up (default: 3)", 1).pipe(
      Flag.withDefault(3)
    )
  },
  (flags, { threads }) =>
    Effect.gen(function* () {
      const output = yield* Output
      const report = yield* benchEncode({
        ...flags,
        inputs: [...flags.inputs],
        ...Flags.given("threads", threads)
      })
      const rate = (value: number) => number(Math.round(value))
      yield* output.result(
        snakeCase(report),
        columns([
          ["tokens a second", rate(report.tokensPerSecond)],
          ["characters a second", rate(report.charactersPerSecond)],
          ["bytes a second", rate(report.bytesPerSecond)],
          ["texts", report.texts],
          ["peak memory", `${rate(report.peakRssBytes / 1e6)} MB`],
          ["processor path", report.cpu]
        ])
      )
    }),
  [
    {
      command: "chatlm bench encode --tokenizer model_save/tokenizer --in corpus.txt --json",
      description: "For a program to read"
    }
  ]
)
