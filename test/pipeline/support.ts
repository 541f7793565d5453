/** Toy stages over small text files, and a run of them in a folder of its own. */
import { mkdtempSync } from "node:fs"
import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { Native } from "../../ts/native/index.ts"
import type { Border } from "../../ts/native/index.ts"
import {
  fromPromise,
  Ledger,
  only,
  pipeline,
  PipelineListener,
  runPipeline,
  stage
} from "../../ts/pipeline/index.ts"
import type { Pairs, Pipeline, PipelineEvent, RunOptions } from "../../ts/pipeline/index.ts"

export const newRoot = () => mkdtempSync(join(tmpdir(), "chatlm-pipeline-"))

/** Which stages worked, in order. */
export type Log = Array<string>

export const first = (log: Log, text = "a\nb\n", name = "first"): Pairs =>
  stage({
    name,
    version: 1,
    settings: { text },
    inputs: {},
    outputs: { rows: { kind: "pairs", path: "rows.txt" } },
    work: ({ outputs, settings }) =>
      fromPromise(async () => {
        log.push(name)
        await writeFile(outputs.rows, String(settings.text))
        return { rows: { lines: String(settings.text).split("\n").length - 1 } }
      })
  }).rows

/** Each line with something at its end. */
export const suffix = (
  log: Log,
  from: Pairs,
  end: string,
  name: string,
  hold: () => Promise<unknown> = async () => {}
): Pairs =>
  stage({
    name,
    version: 1,
    settings: { end },
    inputs: { from },
    outputs: { rows: { kind: "pairs", path: "out/rows.txt" } },
    work: ({ inputs, outputs, settings }) =>
      fromPromise(async (signal) => {
        log.push(name)
        const text = await readFile(only(inputs.from), "utf8")
        await mkdir(join(outputs.rows, ".."), { recursive: true })
        await writeFile(outputs.rows, "half")
        await Promise.race([hold(), new Promise((_, failed) => signal.addEventListener("abort", failed))])
        await writeFile(outputs.rows, text.replaceAll("\n", `${String(settings.end)}\n`))
        return {}
      })
  }).rows

/** Counts its attempts in its scratch folder, as a training run keeps its checkpoints. */
export const counting = (log: Log, from: Pairs, until: number, hold: () => Promise<unknown>) =>
  stage({
    name: "counting",
    version: 1,
    inputs: { from },
    outputs: { model: { kind: "model", path: "model.txt" } },
    resumes: true,
    work: ({ outputs, scratch }) =>
      fromPromise(async (signal) => {
        log.push("counting")
        const file = join(scratch, "steps")
        for (;;) {
          const done = (await readFile(file, "utf8").catch(() => "")).length
          if (done >= until) break
          await appendFile(file, ".")
          await Promise.race([hold(), new Promise((_, failed) => signal.addEventListener("abort", failed))])
        }
        await writeFile(outputs.model, `steps ${until}`)
        return { steps: until }
      })
  }).model

export const effectOf = (
  root: string,
  what: Pipeline,
  options: RunOptions = {},
  border: Partial<Border> = {},
  events: Array<PipelineEvent> = []
) =>
  runPipeline(what, options).pipe(
    Effect.provideService(PipelineListener, (event) => void events.push(event)),
    Effect.provide(Ledger.layer(root)),
    Effect.provide(Native.testLayer(border))
  )

export const run = (...args: Parameters<typeof effectOf>) => Effect.runPromise(effectOf(...args))

export const states = (result: Awaited<ReturnType<typeof run>>) =>
  Object.fromEntries(result.stages.map(({ stage, state }) => [stage, state]))

export { pipeline }
