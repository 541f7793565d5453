/** Runs as one HTML file: loss, rates, memory, answers through time, several runs over each other. */
import * as Effect from "effect/Effect"

import { attempt, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { checkPage, writePage } from "../report/report.ts"
import { readRun } from "./follow.ts"
import { findRuns } from "./find.ts"
import { filePage } from "./page.ts"
import type { RunData } from "./view/data.ts"

export { readRun, watch } from "./follow.ts"
export type { RunEvent, WatchOptions } from "./follow.ts"
export type { Metrics, RunData, Sample } from "./view/data.ts"

export interface DashboardOptions {
  /** Run folders, or folders that hold some. */
  readonly inputs: ReadonlyArray<string>
  /** The page. */
  readonly output: string
  /** Replaces an existing page. */
  readonly force?: boolean
}

export interface DashboardPage {
  readonly runs: ReadonlyArray<string>
  readonly output: string
  readonly bytes: number
}

/** Lines of a run that a file holds. */
const most = 4000

/** No more lines than a file should hold: of the steps every so many, evaluations all. */
export const lighten = (run: RunData): RunData => {
  const steps = run.lines.filter((line) => line.loss !== undefined).length
  const every = Math.ceil(steps / most)
  if (every <= 1) return run
  let seen = 0
  const lines = run.lines.filter((line, place) => {
    if (line.loss === undefined || place === run.lines.length - 1) return true
    seen += 1
    return seen % every === 1
  })
  return { ...run, lines }
}

const noRuns = (inputs: ReadonlyArray<string>) =>
  makeError(
    "INPUT_NOT_FOUND",
    `there is no run in ${inputs.join(", ")}`,
    "give run folders (out of a training's configuration), or a folder that holds some",
    { inputs: [...inputs] }
  )

/** Writes the page of runs as one file that asks for nothing else; it shows without its script too. */
export const makeDashboard = (options: DashboardOptions): Effect.Effect<DashboardPage, ChatlmError> =>
  Effect.gen(function* () {
    const { inputs, output } = options
    yield* checkPage(options)
    const found = yield* attempt(inputs.join(", "), () => findRuns(inputs))
    if (found.length === 0) return yield* Effect.fail(noRuns(inputs))
    const runs = yield* Effect.forEach(found, ({ folder, name }) => readRun(folder, name))
    const bytes = yield* writePage(options, filePage(runs.map(lighten)))
    return { runs: runs.map(({ name }) => name), output, bytes }
  })
