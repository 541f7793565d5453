/** Rows from wherever a function of the user's gets them. */
import { join } from "node:path"

import type { Artifact, Inputs, Kind } from "../artifact.ts"
import { fromPromise, stage } from "../stage.ts"
import type { ArtifactsOf, JsonObject, WorkReport } from "../stage.ts"

export interface SourceOptions<K extends Kind, Files extends Readonly<Record<string, string>>> {
  readonly name?: string
  /** Raise it when the function changes what it makes. */
  readonly version: number
  /** What decides the rows besides the function, such as an address and a hash. */
  readonly settings?: JsonObject
  readonly kind: K
  /** The files that the function writes, by the names by which later stages take them. */
  readonly files: Files
  /** Stages whose results it reads. */
  readonly inputs?: Inputs
  readonly make: (place: {
    readonly paths: { readonly [name in keyof Files]: string }
    readonly inputs: Readonly<Record<string, ReadonlyArray<string>>>
    readonly scratch: string
    readonly signal: AbortSignal
  }) => Promise<WorkReport | void>
}

export const source = <const K extends Kind, const Files extends Readonly<Record<string, string>>>(
  options: SourceOptions<K, Files>
): { readonly [name in keyof Files]: Artifact<K> } => {
  const outputs = Object.fromEntries(
    Object.entries(options.files).map(([name, path]) => [name, { kind: options.kind, path: join(path) }])
  )
  return stage({
    name: options.name ?? "source",
    version: options.version,
    settings: options.settings ?? {},
    inputs: options.inputs ?? {},
    outputs,
    isSource: true,
    work: ({ outputs, inputs, scratch }) =>
      fromPromise(async (signal) => {
        const paths = outputs as { readonly [name in keyof Files]: string }
        return (await options.make({ paths, inputs, scratch, signal })) ?? {}
      })
  }) as ArtifactsOf<{ readonly [name in keyof Files]: { readonly kind: K; readonly path: string } }>
}
