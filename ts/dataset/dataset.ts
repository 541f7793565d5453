/** Tables: joining, splitting, text for a tokenizer, looking inside. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

import { Native, spelledOut, switches } from "../native/index.ts"
import type {
  Brief,
  ChatlmError,
  InspectOptions,
  Inspection,
  PromptOptions,
  SplitOptions,
  SplitReport,
  TableOptions,
  TableReport
} from "../native/index.ts"

export type {
  InspectOptions,
  Inspection,
  PromptOptions,
  SplitOptions,
  SplitReport,
  TableOptions,
  TableReport
}

/** The shares of the reference. */
export const splitDefaults = { train: 0.91, valid: 0.0025, test: 0.0875 } as const

/** What a split may leave out. */
const splitting = { ...switches, ...splitDefaults, seed: 23_333 } as const
/** The options of `merge` and `corpus`. */
export type TableInput = Brief<TableOptions, typeof switches>
/** The options of `split`. */
export type SplitInput = Brief<SplitOptions, typeof splitting>

/** The rows of all inputs, in order, in one table. */
export const merge = (options: TableInput): Effect.Effect<TableReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) =>
    native.merge(spelledOut<TableOptions, typeof switches>(options, switches))
  )

/** `train.parquet`, `valid.parquet`, `test.parquet` in a folder; the same seed draws the same rows. */
export const split = (options: SplitInput): Effect.Effect<SplitReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) =>
    native.split(spelledOut<SplitOptions, typeof splitting>(options, splitting))
  )

/** `prompt[SEP]response[SEP]` a line; text files as they are. */
export const corpus = (options: TableInput): Effect.Effect<TableReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) =>
    native.corpus(spelledOut<TableOptions, typeof switches>(options, switches))
  )

/** Rows, columns, a histogram of lengths, a few rows. */
export const inspect = (options: InspectOptions): Effect.Effect<Inspection, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.inspect(options))

/** The prompts of rows (or the lines of text files), `count` at a time: files of any size in bounded memory. */
export const prompts = (
  options: PromptOptions,
  count: number
): Stream.Stream<ReadonlyArray<string>, ChatlmError, Native> =>
  Stream.unwrap(Effect.map(Native, (native) => native.prompts(options, count)))
