/**
 * Values that may name something on a hub (`hf:…`, `modelscope:…`): by the names of flags, since a flag means
 * the same wherever it stands. What they name is fetched before a verb runs, which then sees local paths.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import type { Configs } from "../../config/index.ts"
import { isReference } from "../../fetch/reference.ts"
import { makeError } from "../../native/index.ts"
import type { ChatlmError, Native, RunKind } from "../../native/index.ts"

/** What is fetched for a flag. */
const meanings = {
  model: "model",
  base: "model",
  adapter: "model",
  tokenizer: "tokenizer",
  inputs: "data",
  against: "data",
  predictions: "file"
} as const

type Meaning = (typeof meanings)[keyof typeof meanings]

// Fetching is loaded by those alone who name something on a hub.
const load = Effect.promise(() => import("../../fetch/fetch.ts"))

/** One file, where a flag takes no more. */
const oneFile = (place: string) =>
  Effect.gen(function* () {
    const { localInputs } = yield* load
    const [file = place, ...more] = yield* localInputs([place])
    if (more.length === 0) return file
    return yield* Effect.fail(
      makeError(
        "USAGE",
        `${place} are ${more.length + 1} files, and one is wanted`,
        `name one, as in ${place}:FILE`
      )
    )
  })

const local = (place: string, meaning: Meaning): Effect.Effect<string, ChatlmError, Native> =>
  !isReference(place)
    ? Effect.succeed(place)
    : meaning === "data" || meaning === "file"
      ? oneFile(place)
      : Effect.flatMap(load, ({ localFolder }) => localFolder(place, meaning))

const isTexts = (value: unknown): value is ReadonlyArray<string> =>
  Array.isArray(value) && value.every((one) => typeof one === "string")

/** The value of a flag with local paths for what it names on a hub. */
const resolve = (value: unknown, meaning: Meaning): Effect.Effect<unknown, ChatlmError, Native> => {
  if (typeof value === "string") return local(value, meaning)
  if (isTexts(value)) {
    return value.some(isReference)
      ? Effect.flatMap(load, ({ localInputs }) => localInputs(value))
      : Effect.succeed(value)
  }
  if (Option.isOption(value) && Option.isSome(value) && typeof value.value === "string") {
    return Effect.map(local(value.value, meaning), Option.some)
  }
  return Effect.succeed(value)
}

/** The flags of a verb with local paths. */
export const withLocalPaths = <Flags>(flags: Flags): Effect.Effect<Flags, ChatlmError, Native> =>
  Effect.gen(function* () {
    const result: Record<string, unknown> = { ...(flags as object) }
    for (const [name, meaning] of Object.entries(meanings)) {
      if (name in result) result[name] = yield* resolve(result[name], meaning)
    }
    // Each value is of the kind it was.
    return result as Flags
  })

/** A training configuration with local paths. */
export const configWithLocalPaths = <Kind extends RunKind>(
  config: Configs[Kind]
): Effect.Effect<Configs[Kind], ChatlmError, Native> =>
  Effect.gen(function* () {
    const { model, tokenizer, train, valid }: Configs[RunKind] = config
    const sets = yield* Effect.forEach(train, (set) =>
      Effect.map(resolve(set.paths, "data"), (paths) => ({ ...set, paths }))
    )
    return {
      ...config,
      model: yield* resolve(model, "model"),
      tokenizer: yield* resolve(tokenizer, "tokenizer"),
      train: sets,
      valid: yield* resolve(valid, "file")
    } as Configs[Kind]
  })
