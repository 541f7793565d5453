/** Tables joined, looked into, turned into text for a tokenizer, or put through a step of the user's own. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

import { corpus as corpusText, inspect as inspectRows, merge as mergeTables } from "../../dataset/dataset.ts"
import { rows as rowsOf, writeRows } from "../../dataset/rows.ts"
import type { Fields, Row } from "../../dataset/rows.ts"
import type { ChatlmError, Native } from "../../native/index.ts"
import type { Artifact, Pairs, PreferencePairs, Report, Rows } from "../artifact.ts"
import * as Files from "../files.ts"
import { stage } from "../stage.ts"
import type { JsonObject } from "../stage.ts"

type Table = Rows | Pairs | PreferencePairs

/** The options of `mergeRows` and `corpus`. */
export interface TablesOptions<T extends Table = Table> {
  readonly name?: string
  readonly from: T | ReadonlyArray<T>
}

/** The rows of several tables, in order, in one. */
export const mergeRows = <K extends Table["kind"]>({
  name = "merge-rows",
  from
}: TablesOptions<Artifact<K> & Table>): Artifact<K> =>
  stage({
    name,
    version: 1,
    inputs: { from },
    outputs: { rows: { kind: kindOf(from), path: "rows.parquet" } },
    work: ({ inputs, outputs }) =>
      Effect.map(
        mergeTables({ inputs: [...inputs.from], output: outputs.rows, keepGoing: false, force: true }),
        ({ rows }) => ({ rows: { rows } })
      )
    // Tables of one kind give a table of that kind.
  }).rows as Artifact<K>

const kindOf = (from: Table | ReadonlyArray<Table>): Table["kind"] =>
  ("kind" in from ? from.kind : from[0]?.kind) ?? "rows"

/** Text for a tokenizer: `prompt[SEP]response[SEP]` a row. */
export const corpus = ({ name = "corpus", from }: TablesOptions<Rows | Pairs>): Rows =>
  stage({
    name,
    version: 1,
    inputs: { from },
    outputs: { text: { kind: "rows", path: "corpus.txt" } },
    work: ({ inputs, outputs }) =>
      Effect.map(
        corpusText({ inputs: [...inputs.from], output: outputs.text, keepGoing: false, force: true }),
        ({ rows }) => ({ rows: { rows } })
      )
  }).text

/** Rows, columns, lengths and a few rows of a table, as JSON. */
export const inspect = ({
  name = "inspect",
  from,
  samples = 5
}: TablesOptions & { readonly samples?: number }): Report =>
  stage({
    name,
    version: 1,
    settings: { samples },
    inputs: { from },
    outputs: { report: { kind: "report", path: "report.json" } },
    work: ({ inputs, outputs }) =>
      Effect.gen(function* () {
        const inspection = yield* inspectRows({ inputs: [...inputs.from], rows: samples })
        yield* Files.writeWhole(outputs.report, `${JSON.stringify(inspection, null, 2)}\n`)
        return { rows: { rows: inspection.rows } }
      })
  }).report

/** The options of `through`. */
export interface ThroughOptions<K extends Table["kind"]> {
  readonly name: string
  /** Raise it when the step changes what it makes. */
  readonly version: number
  /** What decides the rows besides the step. */
  readonly settings?: JsonObject
  readonly from: Table | ReadonlyArray<Table>
  /** What the rows are afterwards. */
  readonly kind: K
  /** The step: rows in, fields of rows out. Equal rows must give equal fields. */
  readonly step: (rows: Stream.Stream<Row, ChatlmError>) => Stream.Stream<Fields, ChatlmError>
}

/** Rows put through a step of the user's own, as a stream: files of any size in bounded memory. */
export const through = <K extends Table["kind"]>(options: ThroughOptions<K>): Artifact<K> =>
  stage({
    name: options.name,
    version: options.version,
    settings: options.settings ?? {},
    inputs: { from: options.from },
    outputs: { rows: { kind: options.kind, path: "rows.parquet" } },
    work: ({ inputs, outputs }) =>
      Effect.gen(function* () {
        const context = yield* Effect.context<Native>()
        const stream = Stream.provideContext(rowsOf({ inputs: inputs.from }), context)
        const { rows } = yield* writeRows(options.step(stream), { output: outputs.rows, force: true })
        return { rows: { kept: rows } }
      })
  }).rows
