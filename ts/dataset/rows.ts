/** Rows as streams, so that a program's own step may stand between those of the core. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

import { Native } from "../native/index.ts"
import type { ChatlmError, TableColumn } from "../native/index.ts"

export type { TableColumn }

/** A value of a row: what JSON knows. Whole numbers beyond 2⁵³ lose digits. */
export type RowValue =
  | null
  | boolean
  | number
  | string
  | ReadonlyArray<RowValue>
  | { readonly [name: string]: RowValue }

/** The fields of a row by name. */
export type Fields = { readonly [name: string]: RowValue }

/** A row of an input, with the place that errors name. */
export interface Row {
  /** The file it came from. */
  readonly file: string
  /** Its number, counted from 0 over all inputs as given. */
  readonly row: number
  readonly fields: Fields
}

/** Which rows to read. */
export interface RowsInput {
  /** Files, folders or globs of parquet, jsonl, json, csv or text; `-` is standard input. */
  readonly inputs: ReadonlyArray<string>
  /** Only these fields; a row that lacks one fails with `INPUT_ROW`. */
  readonly columns?: ReadonlyArray<string>
  /** Such as `gb18030`; detected where left out. */
  readonly encoding?: string
  /** Passes over rows that cannot be read. */
  readonly keepGoing?: boolean
}

/** Rows that cross the border at once. */
const batch = 1024

/**
 * The rows of all inputs, one after another, in bounded memory: a batch is read while the last one is
 * worked on, and no further. The files are closed when the consumer stops, for whatever reason.
 */
export const rows = (input: RowsInput): Stream.Stream<Row, ChatlmError, Native> =>
  Stream.unwrap(
    Effect.map(Native, (native) =>
      native
        .rows(
          {
            inputs: [...input.inputs],
            keepGoing: input.keepGoing ?? false,
            ...(input.columns === undefined ? {} : { columns: [...input.columns] }),
            ...(input.encoding === undefined ? {} : { encoding: input.encoding })
          },
          batch
        )
        .pipe(
          Stream.buffer({ capacity: 1 }),
          Stream.map((text) => JSON.parse(text) as ReadonlyArray<Row>),
          Stream.flattenIterable
        )
    )
  )

/** Where rows go. */
export interface WriteRowsOptions {
  /** `.parquet` or `.jsonl`. */
  readonly output: string
  /**
   * The columns and what they hold. Left out, those of the first 1024 rows; a later field without a column,
   * or a value that does not fit its column, fails with `INPUT_ROW`.
   */
  readonly columns?: ReadonlyArray<TableColumn>
  /** Replaces an existing output. */
  readonly force?: boolean
}

/** What was written. */
export interface WriteRowsReport {
  readonly rows: number
}

/**
 * Writes a stream of fields to a table, which appears whole at the end: a failure or an interruption leaves
 * nothing behind.
 */
export const writeRows = <Error, Needs>(
  stream: Stream.Stream<Fields, Error, Needs>,
  options: WriteRowsOptions
): Effect.Effect<WriteRowsReport, Error | ChatlmError, Needs | Native> =>
  Effect.scoped(
    Effect.gen(function* () {
      const native = yield* Native
      const writer = yield* native.rowWriter({
        output: options.output,
        force: options.force ?? false,
        ...(options.columns === undefined ? {} : { columns: [...options.columns] })
      })
      yield* stream.pipe(Stream.grouped(batch), Stream.runForEach(writer.write))
      return { rows: yield* writer.finish }
    })
  )
