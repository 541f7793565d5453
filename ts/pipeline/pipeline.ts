/** A pipeline: a name and the artifacts that are wanted; the stages follow from them. */
import { makeError } from "../native/index.ts"
import { listOf } from "./artifact.ts"
import type { Artifact } from "./artifact.ts"
import type { Stage } from "./stage.ts"

/** Not `instanceof`: a user's module may hold another copy of this one. */
const mark = Symbol.for("chatlm/pipeline/Pipeline")

export interface Pipeline {
  readonly [mark]: true
  readonly name: string
  /** What is wanted, by name. */
  readonly results: Readonly<Record<string, Artifact>>
  /** Each after all that it needs. */
  readonly stages: ReadonlyArray<Stage>
}

export const isPipeline = (value: unknown): value is Pipeline =>
  typeof value === "object" && value !== null && mark in value

/** The stages that these artifacts need, each once, each after those before it. */
export const stagesFor = (artifacts: ReadonlyArray<Artifact>): ReadonlyArray<Stage> => {
  const ordered = new Set<Stage>()
  const visit = ({ origin }: Artifact): void => {
    if (origin.type === "given" || ordered.has(origin.stage)) return
    for (const input of Object.values(origin.stage.inputs))
      for (const artifact of listOf(input)) visit(artifact)
    ordered.add(origin.stage)
  }
  for (const artifact of artifacts) visit(artifact)
  return [...ordered]
}

/** What `chatlm run` runs: a module's default export. */
export const pipeline = (name: string, results: Readonly<Record<string, Artifact>>): Pipeline => {
  const stages = stagesFor(Object.values(results))
  const seen = new Set<string>()
  for (const stage of stages) {
    if (!/^[a-z0-9][a-z0-9-]*$/.test(stage.name)) {
      throw makeError(
        "CONFIG_INVALID",
        `"${stage.name}" cannot be the name of a stage`,
        "use small letters, digits and hyphens",
        { stage: stage.name }
      )
    }
    if (seen.has(stage.name)) {
      throw makeError(
        "CONFIG_INVALID",
        `two stages of the pipeline ${name} are called "${stage.name}"`,
        "give one of them another name",
        { stage: stage.name }
      )
    }
    seen.add(stage.name)
  }
  return { [mark]: true, name, results, stages }
}
