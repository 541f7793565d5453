/** `chatlm bench`: what a training step and an answer take on this machine. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import {
  benchGenerate,
  benchLoad,
  benchOptimizers,
  benchPrecisions,
  benchSearches,
  benchTrainStep,
  feedForwards
} from "../bench/bench.ts"
import { makeError } from "../native/index.ts"
import { encode } from "./bench-encode.ts"
import * as Flags from "./core/flags.ts"
import { columns, number, Output, snakeCase } from "./core/output.ts"
import { group, verb } from "./core/verb.ts"

/** A size with its default, which help shows. */
const size = (name: string, description: string, value: number, minimum = 1) =>
  Flags.integer(name, `${description} (default: ${value})`, minimum).pipe(Flag.withDefault(value))

const seconds = (value: number) => `${number(value)} s`

const trainStep = verb(
  "train-step",
  "Seconds and memory of a training step on random ids; the defaults are the 0.2 B model's",
  {
    dModel: size("d-model", "Width of the model", 768),
    dFf: size("d-ff", "Width of the feed-forward layers", 3072),
    heads: size("heads", "Attention heads; each is d-model / heads wide", 12),
    layers: size("layers", "Layers of the encoder, and of the decoder", 10),
    // 0 and 1 are [PAD] and [EOS], which random ids leave out.
    vocab: size("vocab", "Size of the vocabulary", 29_298, 3),
    batch: size("batch", "Rows a step", 4),
    source: size("source", "Source tokens a row", 128),
    target: size("target", "Target tokens a row", 128),
    optimizer: Flag.Literals("optimizer", benchOptimizers).pipe(
      Flag.withDescription("What updates the weights (default: adamw)"),
      Flag.withDefault("adamw")
    ),
    precision: Flag.Literals("precision", benchPrecisions).pipe(
      Flag.withDescription("Precision of the matrix products; f16 on graphics cards alone (default: f32)"),
      Flag.withDefault("f32")
    ),
    steps: size("steps", "Steps that count; one more before them warms up", 5),
    clip: Flag.Finite("clip").pipe(
      Flag.withDescription(
        "Largest gradient norm; 0 updates each weight as its gradient is complete (default: 1)"
      ),
      Flag.withDefault(1)
    ),
    recompute: Flags.boolean(
      "recompute",
      "Compute activations again in the backward pass instead of keeping them"
    ),
    feedForward: Flag.Literals("feed-forward", feedForwards).pipe(
      Flag.withDescription("relu is T5 v1.0's, gated-gelu v1.1's (default: relu)"),
      Flag.withDefault("relu")
    )
  },
  ({ feedForward, ...flags }, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      if (flags.dModel % flags.heads !== 0) {
        return yield* Effect.fail(
          makeError(
            "USAGE",
            `--d-model ${flags.dModel} is no multiple of --heads ${flags.heads}`,
            "each head is d-model / heads wide: choose sizes that divide",
            { dModel: flags.dModel, heads: flags.heads }
          )
        )
      }
      const report = yield* benchTrainStep({
        ...flags,
        gated: feedForward === "gated-gelu",
        seed: Option.getOrElse(common.seed, () => Flags.defaultSeed),
        ...Flags.given("threads", common.threads)
      })
      const { loss } = report
      yield* output.result(
        snakeCase(report),
        columns([
          ["a step", seconds(report.secondsPerStep)],
          ["  forward", seconds(report.forward)],
          ["  backward", seconds(report.backward)],
          ["  update", seconds(report.update)],
          ["tokens a second", Math.round(report.tokensPerSecond)],
          ["peak memory", `${number(Math.round(report.peakRssBytes / 1e6))} MB`],
          ["loss", [loss.at(0), loss.at(-1)].map((value) => number(value ?? Number.NaN)).join(" → ")],
          ["processor path", report.cpu]
        ])
      )
    }),
  [
    {
      command: "chatlm bench train-step --batch 16 --source 64 --target 64 --steps 10 --json",
      description: "Another batch, for a program to read"
    }
  ]
)

const generate = verb(
  "generate",
  "Tokens a second of answers to random prompts, and memory",
  {
    model: Flags.model,
    batch: size("batch", "Prompts answered together", 1),
    source: size("source", "Tokens a prompt", 64),
    tokens: size("tokens", "New tokens a row, exactly", 96),
    search: Flag.Literals("search", benchSearches).pipe(
      Flag.withDescription("How an answer is looked for (default: greedy)"),
      Flag.withDefault("greedy")
    ),
    beams: size("beams", "Beams, with --search beam", 5),
    dtype: Flags.dtype,
    runs: size("runs", "Runs that count; one more before them warms up", 3)
  },
  ({ dtype, ...flags }, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      const report = yield* benchGenerate({
        ...flags,
        seed: Option.getOrElse(common.seed, () => Flags.defaultSeed),
        ...Flags.given("dtype", dtype),
        ...Flags.given("threads", common.threads)
      })
      yield* output.result(
        snakeCase(report),
        columns([
          ["tokens a second", number(report.tokensPerSecond)],
          ["first token", seconds(report.firstTokenSeconds)],
          ["loading", seconds(report.loadSeconds)],
          ["peak memory", `${number(Math.round(report.peakRssBytes / 1e6))} MB`],
          ["processor path", report.cpu]
        ])
      )
    }),
  [
    {
      command: "chatlm bench generate --model model_save --batch 8 --dtype int8 --json",
      description: "Eight prompts together in int8"
    }
  ]
)

const load = verb(
  "load",
  "Rows a second through read, shuffle, encode and batch, padding and memory",
  {
    inputs: Flags.inputs,
    tokenizer: Flags.text("tokenizer", "A tokenizer folder", "DIR"),
    batch: size("batch", "Rows a batch", 16),
    batchTokens: Flags.integer(
      "batch-tokens",
      "Instead of --batch: tokens a batch, padding included",
      1
    ).pipe(Flag.optional),
    maxLength: size("max-length", "Tokens of each side, [EOS] included; what is longer is cut", 256, 2),
    batches: size("batches", "Batches that count; one more before them warms up", 1000),
    mixed: Flags.boolean("mixed-lengths", "Batches of rows as they come, not of like lengths"),
    row: Flags.integer("row", "Start at this row of the first epoch").pipe(Flag.withDefault(0))
  },
  ({ batchTokens, mixed, ...flags }, common) =>
    Effect.gen(function* () {
      const output = yield* Output
      const report = yield* benchLoad({
        ...flags,
        inputs: [...flags.inputs],
        groupByLength: !mixed,
        seed: Option.getOrElse(common.seed, () => Flags.defaultSeed),
        ...Flags.given("batchTokens", batchTokens),
        ...Flags.given("threads", common.threads)
      })
      yield* output.result(
        snakeCase(report),
        columns([
          ["rows a second", number(Math.round(report.rowsPerSecond))],
          ["tokens a second", number(Math.round(report.tokensPerSecond))],
          ["padding", `${number(report.paddingShare * 100)} %`],
          ["opening", seconds(report.openSeconds)],
          ["first batch", seconds(report.firstBatchSeconds)],
          ["peak memory", `${number(Math.round(report.peakRssBytes / 1e6))} MB`],
          ["processor path", report.cpu]
        ])
      )
    }),
  [
    {
      command: "chatlm bench load --in data/*.parquet --tokenizer model_save/tokenizer --json",
      description: "The loader of every training run, for a program to read"
    }
  ]
)

export const command = group("bench", "What this program takes on this machine", [
  trainStep,
  generate,
  load,
  encode
])
