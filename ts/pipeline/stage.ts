/**
 * A stage: a name, a version, settings, typed inputs and outputs, and the work that makes the outputs
 * from the inputs. Equal inputs and settings must give equal bytes; that is what results are kept by.
 */
import * as Effect from "effect/Effect"

import { bug, isChatlmError } from "../native/index.ts"
import type { ChatlmError, Native } from "../native/index.ts"
import { makeArtifact } from "./artifact.ts"
import type { Artifact, Inputs, Kind } from "./artifact.ts"

export type Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [key: string]: Json }
export type JsonObject = { readonly [key: string]: Json }

/** What a stage tells of its work; kept in its manifest. */
export interface WorkReport {
  readonly rows?: Readonly<Record<string, number>>
  readonly steps?: number
  readonly figures?: Readonly<Record<string, number>>
}

/** Outputs by name: what each is, and its path in the stage's folder. */
export type Outputs = Readonly<Record<string, { readonly kind: Kind; readonly path: string }>>

export interface WorkContext<Names extends string = string, OutNames extends string = string> {
  /** Absolute paths of the inputs. */
  readonly inputs: { readonly [name in Names]: ReadonlyArray<string> }
  /** Absolute paths to write the outputs to; nobody sees them before the stage is done. */
  readonly outputs: { readonly [name in OutNames]: string }
  /** A folder for what is kept beside the outputs but decides nothing, such as metrics with times. */
  readonly records: string
  /** A folder that is thrown away at the end; with `resumes` it survives an interruption. */
  readonly scratch: string
  readonly settings: JsonObject
}

export type Work<Names extends string = string, OutNames extends string = string> = (
  context: WorkContext<Names, OutNames>
) => Effect.Effect<WorkReport, ChatlmError, Native>

export interface Stage {
  readonly name: string
  readonly version: number
  /** Checked and spelled out before anything runs; part of the key. */
  readonly settings: (sample: boolean) => Effect.Effect<JsonObject, ChatlmError>
  readonly inputs: Inputs
  readonly outputs: Outputs
  /** Brings rows in from outside, so `--sample` may cut them. */
  readonly isSource: boolean
  /** The scratch folder outlives an interruption and the work goes on from it. */
  readonly resumes: boolean
  /** Where the result is also written to, outside the ledger. */
  readonly target: string | undefined
  readonly work: Work
}

export interface StageOptions<I extends Inputs, O extends Outputs> {
  readonly name: string
  /** Raise it when the work changes what it makes. */
  readonly version: number
  readonly settings?: JsonObject | Stage["settings"]
  readonly inputs: I
  readonly outputs: O
  readonly isSource?: boolean
  readonly resumes?: boolean
  readonly target?: string
  readonly work: Work<Extract<keyof I, string>, Extract<keyof O, string>>
}

export type ArtifactsOf<O extends Outputs> = { readonly [name in keyof O]: Artifact<O[name]["kind"]> }

/** A stage of one's own; answers its outputs as artifacts for the stages that follow. */
export const stage = <const I extends Inputs, const O extends Outputs>(
  options: StageOptions<I, O>
): ArtifactsOf<O> => {
  const { settings = {} } = options
  const made: Stage = {
    name: options.name,
    version: options.version,
    settings: typeof settings === "function" ? settings : () => Effect.succeed(settings),
    inputs: options.inputs,
    outputs: options.outputs,
    isSource: options.isSource ?? false,
    resumes: options.resumes ?? false,
    target: options.target,
    // The runner passes exactly the names that the options list.
    work: options.work as Work
  }
  return Object.fromEntries(
    Object.entries(options.outputs).map(([output, { kind }]) => [
      output,
      makeArtifact(kind, { type: "stage", stage: made, output })
    ])
  ) as ArtifactsOf<O>
}

/** Work of a user's asynchronous function; the signal fires when the run is interrupted. */
export const fromPromise = <A>(work: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, ChatlmError> =>
  Effect.tryPromise({
    try: work,
    catch: (error) => (isChatlmError(error) ? error : bug(error))
  })

/** The one path of an input that takes one artifact. */
export const only = (paths: ReadonlyArray<string>): string => paths[0] ?? ""
