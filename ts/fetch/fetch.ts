/**
 * Models and data sets from Hugging Face's hub and from ModelScope: listed, fetched a few files at a time,
 * gone on from where a transfer stopped, checked by hash, kept in the cache that huggingface_hub uses too.
 *
 * `@huggingface/hub` was looked at and does less: it neither resumes nor checks hashes nor retries nor locks,
 * fetches one file after the other, and names snapshots by the last commit of each file.
 */
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { makeError } from "../native/index.ts"
import type { ChatlmError, Native } from "../native/index.ts"
import { bringAll } from "./bring.ts"
import * as Cache from "./cache.ts"
import { findAny } from "./find.ts"
import { huggingFace } from "./hub.ts"
import type { Listed } from "./hub.ts"
import { modelScope } from "./modelscope.ts"
import { checkOutput, deliver } from "./output.ts"
import { isReference, parseReference, showReference } from "./reference.ts"
import type { Reference, RepositoryKind } from "./reference.ts"
import { FetchSettings } from "./settings.ts"
import { isLiteral, wants } from "./wanted.ts"
import type { Purpose } from "./wanted.ts"

export { FetchSettings, fetchSettings } from "./settings.ts"
export { isReference, parseReference, showReference } from "./reference.ts"
export type { Reference, RepositoryKind } from "./reference.ts"
export type { Purpose } from "./wanted.ts"

/** What to fetch, and where to. */
export interface FetchOptions {
  /** Such as `hf:owner/name`, `hf:datasets/owner/name@v1:data/*.parquet`, `modelscope:owner/name`. */
  readonly from: string
  /** Which files are meant where the reference names none, or a folder; `everything` by default. */
  readonly purpose?: Purpose
  /** The kinds that a reference without a prefix may mean, in this order; a model, then a data set, by default. */
  readonly kinds?: ReadonlyArray<RepositoryKind>
  /** A folder that gets a copy of the files. */
  readonly output?: string
  /** Replaces files of the output folder that differ. */
  readonly force?: boolean
}

/** What was fetched, and where it is. */
export interface FetchReport {
  readonly kind: RepositoryKind
  readonly name: string
  readonly revision: string
  /** The commit that the revision meant; for ModelScope a hash over all files. */
  readonly commit: string
  /** The output folder, or the snapshot in the cache. */
  readonly folder: string
  /** The files relative to the folder, sorted. */
  readonly files: ReadonlyArray<string>
  readonly bytes: number
  /** Bytes that came over the network; the rest was there. */
  readonly fetchedBytes: number
  /** Whether the hub was not asked: offline, or not to be reached, so that a newer commit may be there. */
  readonly fromCache: boolean
  readonly seconds: number
}

const nothing = (reference: Reference, purpose: Purpose, files: ReadonlyArray<Listed>): ChatlmError => {
  const what = showReference({ ...reference, path: undefined })
  const some = files.slice(0, 8).map(({ path }) => path)
  const list = files.length > some.length ? `${some.join(", ")}, …` : some.join(", ")
  const wanted = reference.path === undefined ? `no files of a ${purpose}` : `no ${reference.path}`
  return makeError(
    "INPUT_NOT_FOUND",
    `${what} holds ${wanted}`,
    files.length === 0 ? "look at its files on the hub" : `it holds ${list}`,
    { reference: what, ...(reference.path === undefined ? {} : { path: reference.path }) }
  )
}

/** Fetches what a reference names; answers where it is. An interruption keeps what has arrived. */
export const fetchSnapshot = (options: FetchOptions): Effect.Effect<FetchReport, ChatlmError, Native> =>
  Effect.gen(function* () {
    const began = performance.now()
    const settings = yield* FetchSettings
    const reference = yield* Effect.try({
      try: () => parseReference(options.from),
      catch: (error) => error as ChatlmError
    })
    const { purpose = "everything", kinds = ["model", "dataset"], output, force = false } = options
    const hub = reference.hub === "hf" ? yield* huggingFace(settings) : modelScope(settings)
    const found = yield* findAny(hub, settings, reference, purpose, kinds)
    const wanted = wants(reference.path, purpose)
    const files = found.files
      .filter(({ path }) => wanted(path))
      .toSorted((a, b) => (a.path < b.path ? -1 : 1))
    if (files.length === 0) return yield* Effect.fail(nothing(reference, purpose, found.files))
    if (output !== undefined && !force) yield* checkOutput(output, files)
    const fetchedBytes = found.fromCache ? 0 : yield* bringAll(hub, settings, reference, found, files)
    const snapshot = Cache.snapshotPath(found.cache, found.commit)
    for (const file of output === undefined ? [] : files) {
      yield* deliver(join(snapshot, file.path), join(output ?? "", file.path), file, force)
    }
    return {
      kind: found.kind,
      name: reference.name,
      revision: reference.revision ?? hub.mainRevision,
      commit: found.commit,
      folder: output ?? snapshot,
      files: files.map(({ path }) => path),
      bytes: files.reduce((sum, { size }) => sum + size, 0),
      fetchedBytes,
      fromCache: found.fromCache,
      seconds: (performance.now() - began) / 1000
    }
  })

/**
 * A local folder for what may be a reference: itself where it is none, else the model (or tokenizer) fetched.
 * With a path inside the repository, that folder of it.
 */
export const localFolder = (
  place: string,
  purpose: "model" | "tokenizer"
): Effect.Effect<string, ChatlmError, Native> =>
  isReference(place)
    ? Effect.map(fetchSnapshot({ from: place, purpose, kinds: ["model"] }), ({ folder }) => {
        const { path } = parseReference(place)
        return isLiteral(path) ? join(folder, path) : folder
      })
    : Effect.succeed(place)

/** Local inputs for what may hold references: each of those becomes the files of its rows. */
export const localInputs = (
  places: ReadonlyArray<string>
): Effect.Effect<ReadonlyArray<string>, ChatlmError, Native> =>
  Effect.map(
    Effect.forEach(places, (place) =>
      isReference(place)
        ? Effect.map(
            fetchSnapshot({ from: place, purpose: "data", kinds: ["dataset", "model"] }),
            ({ folder, files }) => files.map((file) => join(folder, file))
          )
        : Effect.succeed([place])
    ),
    (lists) => lists.flat()
  )
