/** `--sample`: rows that come in from outside are cut to a few, so that a whole pipeline is tried in seconds. */
import { rename } from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import { listOf } from "./artifact.ts"
import type { Artifact, Inputs } from "./artifact.ts"
import { attempt } from "./files.ts"
import { pipeline } from "./pipeline.ts"
import type { Pipeline } from "./pipeline.ts"
import { only, stage } from "./stage.ts"
import type { Stage } from "./stage.ts"

/** Rows that a sample has, about. */
const sampleRows = 200

const isTable = ({ kind }: Artifact) => kind === "rows" || kind === "pairs" || kind === "preferences"

const cut = (artifact: Artifact, name: string): Artifact =>
  stage({
    name,
    version: 1,
    settings: { rows: sampleRows },
    inputs: { from: artifact },
    outputs: { rows: { kind: artifact.kind, path: "sample.parquet" } },
    work: ({ inputs, outputs, scratch }) =>
      Effect.gen(function* () {
        const native = yield* Native
        const from = only(inputs.from)
        const { rows } = yield* native.inspect({ inputs: [from], rows: 0 })
        const train = Math.min(1, sampleRows / Math.max(1, rows))
        const folder = join(scratch, "split")
        const report = yield* native.split({
          inputs: [from],
          output: folder,
          train,
          valid: 0,
          test: 0,
          seed: 23_333,
          keepGoing: false,
          force: true
        })
        yield* attempt(outputs.rows, () => rename(join(folder, "train.parquet"), outputs.rows))
        return { rows: { rows: report.train } }
      })
  }).rows

/** The same pipeline with a cut behind each table that comes from outside. */
export const cutGiven = (whole: Pipeline): Pipeline => {
  const cuts = new Map<string, Artifact>()
  const stages = new Map<Stage, Stage>()
  const replaceStage = (old: Stage): Stage => {
    const before = stages.get(old)
    if (before !== undefined) return before
    const inputs: Inputs = Object.fromEntries(
      Object.entries(old.inputs).map(([name, input]) => [
        name,
        listOf(input).map((one) => replace(one, true))
      ])
    )
    const replaced = { ...old, inputs }
    stages.set(old, replaced)
    return replaced
  }
  const replace = (artifact: Artifact, cutting: boolean): Artifact => {
    const { origin } = artifact
    const moved: Artifact =
      origin.type === "given"
        ? artifact
        : { ...artifact, origin: { ...origin, stage: replaceStage(origin.stage) } }
    if (!cutting || !isTable(artifact) || (origin.type === "stage" && !origin.stage.isSource)) return moved
    const id = origin.type === "given" ? origin.path : `${origin.stage.name}/${origin.output}`
    const made = cuts.get(id) ?? cut(moved, `sample-${cuts.size + 1}`)
    cuts.set(id, made)
    return made
  }
  return pipeline(
    whole.name,
    Object.fromEntries(
      Object.entries(whole.results).map(([name, artifact]) => [name, replace(artifact, false)])
    )
  )
}
