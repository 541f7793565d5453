/** Reading configuration files (JSON, JSONC, YAML, TypeScript modules) and `--set a.b=JSON`. */
import { extname, resolve } from "node:path"
import { pathToFileURL } from "node:url"

import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"

import { makeError } from "../native/index.ts"
import type { InputError, RunKind, UsageError } from "../native/index.ts"
import { isDictionary, resolveConfig } from "./resolve.ts"
import type { Configs } from "./schema.ts"

const invalid = (file: string, message: string, help: string, context: object = {}, cause?: unknown) =>
  makeError("CONFIG_INVALID", `${file}: ${message}`, help, { file, ...context }, cause)

const place = (text: string, offset: number) => {
  const before = text.slice(0, offset).split("\n")
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 }
}

const parseJson = (file: string, text: string): Effect.Effect<unknown, InputError> =>
  Effect.flatMap(
    Effect.promise(() => import("jsonc-parser")),
    ({ parse, printParseErrorCode }) => {
      const errors: Array<{ error: number; offset: number; length: number }> = []
      const value: unknown = parse(text, errors, { allowTrailingComma: true, allowEmptyContent: false })
      const first = errors[0]
      if (first === undefined) return Effect.succeed(value)
      const { line, column } = place(text, first.offset)
      const what = printParseErrorCode(first.error)
      return Effect.fail(
        invalid(file, `line ${line}, column ${column}: ${what}`, "correct the JSON", { line, column })
      )
    }
  )

const parseYaml = (file: string, text: string): Effect.Effect<unknown, InputError> =>
  Effect.flatMap(
    Effect.promise(() => import("yaml")),
    ({ parse }) =>
      Effect.try({
        try: () => parse(text) as unknown,
        catch: (error) =>
          invalid(
            file,
            error instanceof Error ? (error.message.split("\n")[0] ?? "not YAML") : "not YAML",
            "correct the YAML",
            {},
            error
          )
      })
  )

const importModule = (file: string): Effect.Effect<unknown, InputError> =>
  Effect.tryPromise({
    try: async () => {
      const module = (await import(pathToFileURL(resolve(file)).href)) as { default?: unknown }
      const exported = module.default
      return (typeof exported === "function" ? await (exported as () => unknown)() : exported) as unknown
    },
    catch: (error) =>
      invalid(
        file,
        error instanceof Error ? (error.message.split("\n")[0] ?? "does not load") : "does not load",
        "the module must load by itself and export the configuration as its default",
        {},
        error
      )
  })

/** What a file says, before any check. */
export const readConfigFile = (file: string): Effect.Effect<unknown, InputError, FileSystem.FileSystem> =>
  Effect.gen(function* () {
    const files = yield* FileSystem.FileSystem
    const extension = extname(file).toLowerCase()
    const text = yield* files
      .readFileString(file)
      .pipe(
        Effect.mapError((error) =>
          makeError(
            "INPUT_NOT_FOUND",
            `cannot read the configuration ${file}: ${error.message.split("\n")[0] ?? ""}`,
            "check the path; relative paths start at the current folder",
            { file },
            error
          )
        )
      )
    if ([".ts", ".mts", ".js", ".mjs"].includes(extension)) return yield* importModule(file)
    // An empty file leaves every key to its default.
    if (text.trim() === "") return {}
    if ([".yaml", ".yml"].includes(extension)) return (yield* parseYaml(file, text)) ?? {}
    return yield* parseJson(file, text)
  })

/** One `--set a.b=JSON`; a value that is not JSON is taken as text. */
export const applySetting = (
  target: unknown,
  setting: string
): Effect.Effect<Record<string, unknown>, UsageError> => {
  const equals = setting.indexOf("=")
  const path = setting.slice(0, Math.max(0, equals)).trim()
  if (equals < 1 || path.split(".").includes("")) {
    return Effect.fail(
      makeError(
        "USAGE",
        `--set ${setting} is not key=value`,
        "write --set a.b=JSON, such as --set batchSize=8",
        {
          setting
        }
      )
    )
  }
  const text = setting.slice(equals + 1)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    value = text
  }
  const put = (node: unknown, [head, ...rest]: ReadonlyArray<string>): unknown => {
    if (head === undefined) return value
    if (Array.isArray(node) && /^\d+$/.test(head)) {
      const copy: Array<unknown> = [...(node as ReadonlyArray<unknown>)]
      copy[Number(head)] = put(copy[Number(head)], rest)
      return copy
    }
    const base = isDictionary(node) ? node : {}
    return { ...base, [head]: put(base[head], rest) }
  }
  return Effect.succeed(put(target, path.split(".")) as Record<string, unknown>)
}

export interface LoadOptions {
  readonly file?: string | undefined
  /** `a.b=JSON`, applied in order over the file. */
  readonly set?: ReadonlyArray<string>
}

/** What file and settings say together, before defaults. */
export const readConfig = (
  options: LoadOptions
): Effect.Effect<unknown, InputError | UsageError, FileSystem.FileSystem> =>
  Effect.gen(function* () {
    let input: unknown = options.file === undefined ? {} : yield* readConfigFile(options.file)
    for (const setting of options.set ?? []) input = yield* applySetting(input, setting)
    return input
  })

/** The whole configuration of a kind from a file and settings. */
export const loadConfig = <Kind extends RunKind>(
  kind: Kind,
  options: LoadOptions
): Effect.Effect<Configs[Kind], InputError | UsageError, FileSystem.FileSystem> =>
  Effect.flatMap(readConfig(options), (input) => resolveConfig(kind, input, options.file))
