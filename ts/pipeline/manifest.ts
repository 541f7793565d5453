/** `manifest.json` of a result: what was made, from what, and how to tell that it is still whole. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

import type { JsonObject } from "./stage.ts"

const Entry = Schema.Struct({
  path: Schema.String,
  size: Schema.Number,
  sha256: Schema.String,
  modified: Schema.Number
})

const Output = Schema.Struct({
  kind: Schema.String,
  /** Inside the result's folder. */
  path: Schema.String,
  /** Of a file its own hash, of a folder one over names and hashes. */
  sha256: Schema.String,
  files: Schema.Array(Entry)
})

export const Manifest = Schema.Struct({
  format: Schema.Literal(1),
  stage: Schema.String,
  version: Schema.Number,
  key: Schema.String,
  settings: Schema.Record(Schema.String, Schema.Unknown),
  /** Content hashes by name. */
  inputs: Schema.Record(Schema.String, Schema.Array(Schema.String)),
  outputs: Schema.Record(Schema.String, Output),
  rows: Schema.Record(Schema.String, Schema.Number),
  figures: Schema.Record(Schema.String, Schema.Number),
  steps: Schema.NullOr(Schema.Number),
  /** ISO 8601. */
  startedAt: Schema.String,
  /** Of the attempt that finished it. */
  seconds: Schema.Number,
  peakRssBytes: Schema.Number
})

export interface Manifest extends Omit<typeof Manifest.Type, "settings"> {
  readonly settings: JsonObject
}

const decode = Schema.decodeUnknownEffect(Manifest)

/** The manifest in what was read; undefined where it is none. */
export const readManifest = (value: unknown): Effect.Effect<Manifest | undefined> =>
  decode(value).pipe(
    Effect.map((manifest) => manifest as Manifest),
    Effect.catch(() => Effect.succeed(undefined))
  )
