/** Results that are also written outside the ledger, such as a model folder for people. */
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import * as Files from "./files.ts"
import type { Manifest } from "./manifest.ts"

/** The file by which a target is known as the ledger's own to replace. */
const marker = "manifest.json"

/** Whether the target of a finished stage still holds what was written there. */
export const targetIsWhole = (
  target: string | undefined,
  manifest: Manifest
): Effect.Effect<boolean, ChatlmError> =>
  target === undefined
    ? Effect.succeed(true)
    : Effect.gen(function* () {
        for (const output of Object.values(manifest.outputs)) {
          const state = yield* Files.compare(target, output.files, false)
          if (state.damaged !== undefined) return false
        }
        return true
      })

const foreign = (file: string) =>
  makeError(
    "TARGET_EXISTS",
    `${file} is there already and no pipeline wrote it`,
    "move it away, or export to another folder",
    {
      file
    }
  )

/** Said before any work, not after hours of it: a model of another origin is in the way. */
export const checkTarget = (target: string): Effect.Effect<void, ChatlmError> =>
  Effect.gen(function* () {
    const weights = join(target, "model.safetensors")
    if ((yield* Files.exists(weights)) && !(yield* Files.exists(join(target, marker)))) {
      return yield* Effect.fail(foreign(weights))
    }
  })

/** Copies a folder's files into the target; other files there stay, those of another origin are not replaced. */
export const writeTarget = (from: string, target: string): Effect.Effect<number, ChatlmError> =>
  Effect.gen(function* () {
    const entries = yield* Files.entriesOf(from)
    const marked = yield* Files.exists(join(target, marker))
    for (const { path, sha256 } of entries) {
      const there = join(target, path)
      if (marked || !(yield* Files.exists(there))) continue
      const [found] = yield* Files.entriesOf(there)
      if (found?.sha256 === sha256) continue
      return yield* Effect.fail(foreign(there))
    }
    // First without the marker's word for it: a killed copy is not taken for a whole one.
    yield* Files.makeFolder(target)
    yield* Files.writeWhole(join(target, marker), JSON.stringify({ format: 1, state: "writing", files: [] }))
    let bytes = 0
    for (const { path, size } of entries) {
      yield* Files.copyWhole(join(from, path), join(target, path))
      bytes += size
    }
    const files = entries.map(({ path, size, sha256 }) => ({ path, size, sha256 }))
    yield* Files.writeWhole(
      join(target, marker),
      JSON.stringify({ format: 1, state: "whole", files }, null, 2)
    )
    return bytes
  })
