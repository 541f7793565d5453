/** The page of what cleaning and dedup have done, and of tokenizers, made of the reports that they write as JSON. */
import * as fs from "node:fs/promises"
import { basename, dirname, join } from "node:path"

import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

import { attempt, bug, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { page } from "./page.ts"
import { CleanReport, DedupReport, TokenizerReport } from "./schema.ts"
import type { DataReport, Named } from "./schema.ts"

export type {
  CleanReport as CleanReportJson,
  DataReport,
  DedupReport as DedupReportJson,
  TokenizerReport as TokenizerReportJson
} from "./schema.ts"

/** Which reports, and where the page goes. */
export interface ReportOptions {
  /** Reports as `clean` and `dedup` write them, or folders that hold some, at any depth. */
  readonly inputs: ReadonlyArray<string>
  /** The page. */
  readonly output: string
  /** Replaces an existing page. */
  readonly force?: boolean
}

/** What the page is made of. */
export interface ReportPage {
  readonly reports: number
  /** Reports of each kind. */
  readonly kinds: Readonly<Record<string, number>>
  readonly output: string
  readonly bytes: number
}

const schemas = { clean: CleanReport, dedup: DedupReport, tokenizer: TokenizerReport } as const

/** What writes a report of each kind. */
const writers = {
  clean: "chatlm clean --report",
  dedup: "chatlm dedup --report",
  tokenizer: "chatlm tokenizer report --json"
} as const

const kindOf = (value: unknown): keyof typeof schemas | undefined => {
  const kind = typeof value === "object" && value !== null && "kind" in value ? value.kind : undefined
  return typeof kind === "string" && Object.hasOwn(schemas, kind) ? (kind as keyof typeof schemas) : undefined
}

/** A value as the report that it says it is; undefined where it says nothing of the sort. */
const decode = (file: string, value: unknown): Effect.Effect<DataReport | undefined, ChatlmError> => {
  const kind = kindOf(value)
  if (kind === undefined) return Effect.succeed(undefined)
  const decoded: Effect.Effect<DataReport, Schema.SchemaError> = Schema.decodeUnknownEffect(schemas[kind])(
    value
  )
  return Effect.mapError(decoded, (error) =>
    makeError(
      "INPUT_FORMAT",
      `${file} is no whole report of kind ${kind}: ${error.message.replaceAll(/\s*\n\s*/g, ", ")}`,
      `write it again with ${writers[kind]}`,
      { file },
      error
    )
  )
}

/** What a file holds; undefined for what is no JSON. */
const parse = async (file: string): Promise<unknown> => {
  const text = await fs.readFile(file, "utf8")
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Folders that hold results or packages, no reports of the user's. */
const passedOver = new Set(["node_modules", ".git"])

const jsonFiles = async (folder: string): Promise<ReadonlyArray<string>> => {
  const entries = (await fs.readdir(folder, { withFileTypes: true })).toSorted((a, b) =>
    a.name < b.name ? -1 : 1
  )
  const found = await Promise.all(
    entries.map(async (entry) => {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) return passedOver.has(entry.name) ? [] : jsonFiles(path)
      return entry.name.endsWith(".json") ? [path] : []
    })
  )
  return found.flat()
}

/** The largest file of a folder that may be a report: others (tokenizers, models) are not worth reading. */
const largest = 64 << 20

/** The reports of a file, which must be one, or of a folder, where others are passed over. */
const readInput = (input: string): Effect.Effect<ReadonlyArray<Named>, ChatlmError> =>
  Effect.gen(function* () {
    const isFolder = yield* attempt(input, async () => (await fs.stat(input)).isDirectory())
    const files = isFolder ? yield* attempt(input, () => jsonFiles(input)) : [input]
    const reports: Array<Named> = []
    for (const file of files) {
      const size = yield* attempt(file, async () => (await fs.stat(file)).size)
      if (isFolder && size > largest) continue
      const report = yield* decode(file, yield* attempt(file, () => parse(file)))
      if (report !== undefined) reports.push({ file: basename(file), report })
    }
    if (reports.length > 0) return reports
    return yield* Effect.fail(
      makeError(
        "INPUT_FORMAT",
        isFolder ? `${input} holds no reports` : `${input} is no report`,
        "give what chatlm clean --report, chatlm dedup --report or chatlm tokenizer report --json has written",
        { file: input }
      )
    )
  })

/** Where a page goes. */
export type PageTarget = Pick<ReportOptions, "output" | "force">

/** Fails where a page is there already, so that long work before it is not in vain. */
export const checkPage = ({ output, force = false }: PageTarget): Effect.Effect<void, ChatlmError> =>
  Effect.flatMap(
    Effect.promise(() =>
      fs.lstat(output).then(
        () => !force,
        () => false
      )
    ),
    (isTaken) => (isTaken ? Effect.fail(taken(output)) : Effect.void)
  )

/** Writes the page of reports, in their order; how many bytes it has. */
export const makePage = (
  target: PageTarget,
  reports: ReadonlyArray<Named>
): Effect.Effect<number, ChatlmError> => Effect.suspend(() => writePage(target, page(reports)))

/** Puts a page in place whole or not at all; how many bytes it has. */
export const writePage = (
  { output, force = false }: PageTarget,
  text: string
): Effect.Effect<number, ChatlmError> =>
  Effect.uninterruptible(
    attempt(output, async () => {
      const beside = join(dirname(output), `.${basename(output)}.${process.pid}.tmp`)
      await fs.mkdir(dirname(output), { recursive: true })
      try {
        await fs.writeFile(beside, text, { flush: true })
        // A link refuses where something is there already; a rename would replace it.
        await (force ? fs.rename(beside, output) : fs.link(beside, output))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
        throw taken(output)
      } finally {
        await fs.rm(beside, { force: true })
      }
      return Buffer.byteLength(text)
    })
  )

const taken = (file: string) =>
  makeError("TARGET_EXISTS", `${file} is there already`, "use --force to replace it", { file })

/** What `tokenizerReport` answers, as what it says. */
export const readTokenizerReport = (value: unknown): Effect.Effect<TokenizerReport, ChatlmError> =>
  Effect.mapError(Schema.decodeUnknownEffect(TokenizerReport)(value), (error) => bug(error))

/** Makes one HTML page of reports, in their order; it asks for nothing else and runs no script. */
export const makeReport = (options: ReportOptions): Effect.Effect<ReportPage, ChatlmError> =>
  Effect.gen(function* () {
    const reports = (yield* Effect.forEach(options.inputs, readInput)).flat()
    const bytes = yield* makePage(options, reports)
    const kinds: Record<string, number> = {}
    for (const { report } of reports) kinds[report.kind] = (kinds[report.kind] ?? 0) + 1
    return { reports: reports.length, kinds, output: options.output, bytes }
  })
