/**
 * Where lines go: results on standard output, everything else on standard error; with `--json` standard
 * output holds JSON and nothing else.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

import type { Host } from "./host.ts"

export interface Output {
  readonly json: boolean
  readonly quiet: boolean
  readonly debug: boolean
  readonly colour: boolean
  /** Standard error is a terminal. */
  readonly terminal: boolean
  /** A result: `value` as one JSON line with `--json`, else `text`. */
  readonly result: (value: unknown, text: string) => Effect.Effect<void>
  /** Raw text on standard output, such as a piece of a streamed answer. */
  readonly raw: (text: string) => Effect.Effect<void>
  /** A line on standard error that `--quiet` silences. */
  readonly note: (text: string) => Effect.Effect<void>
  /** A line on standard error that is always said. */
  readonly warn: (text: string) => Effect.Effect<void>
  /** Called before each line on standard error, so that a progress bar can make room. */
  clearBar: () => void
  readonly writeOut: (text: string) => void
  readonly writeError: (line: string) => void
}

export const Output = Context.Service<Output>("chatlm/cli/Output")

/** The flags that hold even where the command line cannot be parsed, so that its error has the right form. */
const has = (args: ReadonlyArray<string>, flag: string) => {
  const end = args.indexOf("--")
  return (end === -1 ? args : args.slice(0, end)).includes(flag)
}

export const makeOutput = (host: Host): Output => {
  const json = has(host.args, "--json")
  const quiet = has(host.args, "--quiet")
  const noColour = (host.env.NO_COLOR ?? "") !== ""
  const writeOut = (text: string) => {
    output.clearBar()
    host.writeOut(text)
  }
  const writeError = (line: string) => {
    output.clearBar()
    host.writeError(`${line}\n`)
  }
  const output: Output = {
    json,
    quiet,
    debug: has(host.args, "--debug"),
    colour: host.errorIsTerminal && !noColour,
    terminal: host.errorIsTerminal,
    clearBar: () => {},
    writeOut,
    writeError,
    result: (value, text) => Effect.sync(() => writeOut(`${json ? JSON.stringify(value) : text}\n`)),
    raw: (text) => Effect.sync(() => writeOut(text)),
    note: (text) => (quiet ? Effect.void : Effect.sync(() => writeError(text))),
    warn: (text) => Effect.sync(() => writeError(text))
  }
  return output
}

/** The keys of a report as JSON shows them: `peakRssBytes` becomes `peak_rss_bytes`. One level deep. */
export const snakeCase = (report: object): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(report).map(([key, value]) => [
      key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      value as unknown
    ])
  )

export const number = (value: number): string =>
  Number.isInteger(value)
    ? value.toLocaleString("en-US")
    : Math.abs(value) >= 0.001 && Math.abs(value) < 1e6
      ? String(Number(value.toPrecision(4)))
      : value.toExponential(3)

/** Lines `name  value`, the values in one column. */
export const columns = (rows: ReadonlyArray<readonly [string, unknown]>): string => {
  const width = Math.max(0, ...rows.map(([name]) => name.length))
  return rows
    .map(
      ([name, value]) => `${name.padEnd(width)}  ${typeof value === "number" ? number(value) : String(value)}`
    )
    .join("\n")
}
