/** Which commit and files a reference means: as the hub says, or as the cache has it. */
import * as fs from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { attempt, isChatlmError, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import * as Cache from "./cache.ts"
import { explain, isFailure } from "./failure.ts"
import type { Hub, Listed } from "./hub.ts"
import { showReference } from "./reference.ts"
import type { Reference, RepositoryKind } from "./reference.ts"
import type { FetchSettings } from "./settings.ts"
import { folderOf, wants } from "./wanted.ts"
import type { Purpose } from "./wanted.ts"

/** A repository at a commit, and all that is known of its files. */
export interface Found {
  readonly cache: Cache.Cache
  readonly kind: RepositoryKind
  readonly commit: string
  /** What the hub is asked by: the commit, or ModelScope's revision. */
  readonly revision: string
  readonly files: ReadonlyArray<Listed>
  readonly fromCache: boolean
}

/** The files of a cached commit that are wanted: by its listing, else by what lies there. */
const cachedFiles = (
  cache: Cache.Cache,
  commit: string,
  wanted: (file: string) => boolean
): Effect.Effect<ReadonlyArray<Listed> | undefined, ChatlmError> =>
  Effect.gen(function* () {
    const snapshot = Cache.snapshotPath(cache, commit)
    const tree = (yield* Cache.readTree(cache, commit))?.filter(({ path }) => wanted(path))
    if (tree !== undefined) {
      for (const { path } of tree) if (!(yield* Cache.exists(join(snapshot, path)))) return undefined
      return tree
    }
    const names = yield* attempt(snapshot, () =>
      fs.readdir(snapshot, { recursive: true }).catch(() => [] as Array<string>)
    )
    const files: Array<Listed> = []
    for (const path of names.filter(wanted).toSorted()) {
      const found = yield* attempt(path, () => fs.stat(join(snapshot, path)).catch(() => undefined))
      if (found?.isFile() === true) files.push({ path, size: found.size, hash: "", kind: "git" })
    }
    return files.length === 0 ? undefined : files
  })

/** The repository of one kind: asked of the hub, or as it is in the cache. */
const find = (
  hub: Hub,
  settings: FetchSettings,
  reference: Reference,
  kind: RepositoryKind,
  purpose: Purpose
) =>
  Effect.gen(function* () {
    const { name, path, revision = hub.mainRevision } = reference
    const cache = Cache.cacheOf(hub.cache, kind, name)
    const wanted = wants(path, purpose)
    const known = yield* Cache.readRef(cache, revision)
    const fromCache = (): Effect.Effect<Found | undefined, ChatlmError> =>
      known === undefined
        ? Effect.succeed(undefined)
        : Effect.map(cachedFiles(cache, known, wanted), (files) =>
            files === undefined ? undefined : { cache, kind, commit: known, revision, files, fromCache: true }
          )
    if (settings.offline) {
      const found = yield* fromCache()
      if (found !== undefined) return found
      return yield* Effect.fail(
        makeError(
          "INPUT_NOT_FOUND",
          `${showReference(reference)} is not whole in the cache at ${hub.cache}, and HF_HUB_OFFLINE is set`,
          "unset HF_HUB_OFFLINE to fetch it, or point HF_HUB_CACHE to where it is",
          { reference: showReference(reference) }
        )
      )
    }
    const asked = Effect.gen(function* () {
      const commit = Cache.isCommit(revision) ? revision : yield* hub.resolve(kind, name, revision)
      const tree = commit === undefined ? undefined : yield* Cache.readTree(cache, commit)
      const opened =
        commit !== undefined && tree !== undefined
          ? { commit, files: tree, whole: false }
          : yield* hub.list(kind, name, commit ?? revision, folderOf(path))
      // A listing is kept to save a request; a cache that may not be written still serves.
      if (opened.whole) yield* Effect.ignore(Cache.writeTree(cache, opened.commit, opened.files))
      return {
        cache,
        kind,
        commit: opened.commit,
        revision: commit ?? revision,
        files: opened.files,
        fromCache: false
      } satisfies Found
    })
    const found = yield* Effect.result(asked)
    if (found._tag === "Success") return found.success
    // A hub that is down or out of reach: what was fetched before still serves.
    if (isFailure(found.failure) && found.failure.transient) {
      const kept = yield* fromCache()
      if (kept !== undefined) return kept
    }
    return yield* Effect.fail(found.failure)
  })

const isMissing = (error: unknown) =>
  isFailure(error) &&
  !["GatedRepo", "RevisionNotFound", "EntryNotFound"].includes(error.code ?? "") &&
  (error.status === 404 || error.status === 401)

/** Tries the kinds that a reference may mean; the first error is told where none fits. */
export const findAny = (
  hub: Hub,
  settings: FetchSettings,
  reference: Reference,
  purpose: Purpose,
  kinds: ReadonlyArray<RepositoryKind>
) =>
  Effect.gen(function* () {
    const order = reference.kind === undefined ? kinds : [reference.kind]
    let first: unknown
    for (const kind of order) {
      const found = yield* Effect.result(find(hub, settings, reference, kind, purpose))
      if (found._tag === "Success") return found.success
      const offline = settings.offline && isChatlmError(found.failure)
      if (!isMissing(found.failure) && !offline) {
        return yield* Effect.fail(explain(found.failure, showReference({ ...reference, kind }), hub.name))
      }
      first ??= found.failure
    }
    const failure = first as Parameters<typeof explain>[0]
    return yield* Effect.fail(explain(failure, showReference(reference), hub.name))
  })
