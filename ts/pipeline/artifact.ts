/**
 * What stages hand to each other: a place where a result will be, with its kind in its type, so that a
 * tokenizer where rows belong does not compile. An artifact holds no data; the runner finds its path.
 */
import type { Stage } from "./stage.ts"

/**
 * `rows`: raw rows of any columns. `pairs`: rows with prompt and response. `preferences`: rows with prompt,
 * chosen and rejected. `tokenizer`, `model`, `adapter`: folders. `report`: figures or text for people.
 */
export type Kind = "rows" | "pairs" | "preferences" | "tokenizer" | "model" | "adapter" | "report"

declare const brand: unique symbol

/** Where an artifact comes from: an output of a stage, or a file or folder of the user's. */
export type Origin =
  | { readonly type: "stage"; readonly stage: Stage; readonly output: string }
  | { readonly type: "given"; readonly path: string }

export interface Artifact<out K extends Kind = Kind> {
  /** Only `makeArtifact` makes one. */
  readonly [brand]: K
  readonly kind: K
  readonly origin: Origin
}

export type Rows = Artifact<"rows">
export type Pairs = Artifact<"pairs">
export type PreferencePairs = Artifact<"preferences">
export type Tokenizer = Artifact<"tokenizer">
export type Model = Artifact<"model">
export type Adapter = Artifact<"adapter">
export type Report = Artifact<"report">

export const makeArtifact = <K extends Kind>(kind: K, origin: Origin): Artifact<K> =>
  // The brand is in the type alone.
  ({ kind, origin }) as Artifact<K>

/** A file or folder that is there already. Its content, not its name, decides what must run again. */
export const given = <K extends Kind>(kind: K, path: string): Artifact<K> =>
  makeArtifact(kind, { type: "given", path })

/** Inputs of a stage by name. */
export type Inputs = Readonly<Record<string, Artifact | ReadonlyArray<Artifact> | undefined>>

const isMany = (input: Artifact | ReadonlyArray<Artifact>): input is ReadonlyArray<Artifact> =>
  Array.isArray(input)

/** One name's artifacts as a list. */
export const listOf = (input: Artifact | ReadonlyArray<Artifact> | undefined): ReadonlyArray<Artifact> =>
  input === undefined ? [] : isMany(input) ? input : [input]
