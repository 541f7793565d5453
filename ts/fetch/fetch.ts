/**
 * Models and data sets from Hugging Face's hub and from ModelScope: listed, fetched a few files at a time,
 * gone on from where a transfer stopped, checked by hash, kept in the cache that huggingface_hub uses too.
 *
 * `@huggingface/hub` was looked at and does less: it neither resumes nor checks hashes nor retries nor locks,
 * fetches one file after the other, and names snapshots by the last commit of each file.
 */
import * as fs from "node:fs/promises"
import { constants } from "node:fs"
import { dirname, join } from "node:path"

import * as Effect from "effect/Effect"

import { attempt, isChatlmError, makeError, ProgressReporter } from "../native/index.ts"
import type { ChatlmError, Native } from "../native/index.ts"
import * as Cache from "./cache.ts"
import { explain, isFailure } from "./http.ts"
import { huggingFace } from "./hub.ts"
import type { Hub, Listed } from "./hub.ts"
import { modelScope } from "./modelscope.ts"
import { isReference, parseReference, showReference } from "./reference.ts"
import type { Reference, RepositoryKind } from "./reference.ts"
import { FetchSettings } from "./settings.ts"
import type { FetchSettings as Settings } from "./settings.ts"
import { incompletePath, isWhole, transfer } from "./transfer.ts"
import { folderOf, isLiteral, wants } from "./wanted.ts"
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

interface Found {
  readonly cache: Cache.Cache
  readonly kind: RepositoryKind
  readonly commit: string
  /** What the hub is asked by: the commit, or ModelScope's revision. */
  readonly revision: string
  readonly files: ReadonlyArray<Listed>
  readonly fromCache: boolean
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
const find = (hub: Hub, settings: Settings, reference: Reference, kind: RepositoryKind, purpose: Purpose) =>
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
const findAny = (hub: Hub, settings: Settings, reference: Reference, options: FetchOptions) =>
  Effect.gen(function* () {
    const { purpose = "everything", kinds = ["model", "dataset"] } = options
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

/** Says before the first byte that there will be no room for the last. */
const checkRoom = (folder: string, needed: number): Effect.Effect<void, ChatlmError> =>
  attempt(folder, async () => {
    const { bavail, bsize } = await fs.statfs(folder)
    const free = bavail * bsize
    if (free >= needed) return
    const size = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`
    throw makeError(
      "DISK_FULL",
      `${folder} has room for ${size(free)}, and ${size(needed)} are still to come`,
      "free some space, or set HF_HUB_CACHE to a folder on another disk",
      { file: folder }
    )
  })

const sizeOf = (path: string): Effect.Effect<number, ChatlmError> =>
  attempt(path, () =>
    fs.stat(path).then(
      ({ size }) => size,
      () => 0
    )
  )

/** Refuses, before anything is fetched, what would be refused after it. */
const checkOutput = (output: string, files: ReadonlyArray<Listed>): Effect.Effect<void, ChatlmError> =>
  attempt(output, async () => {
    for (const file of files) {
      const path = join(output, file.path)
      const found = await fs.stat(path).catch(() => undefined)
      if (found === undefined || (found.isFile() && found.size === file.size)) continue
      throw taken(path)
    }
  })

const taken = (file: string) =>
  makeError("TARGET_EXISTS", `${file} is there already and differs`, "use --force to replace it", { file })

/** Copies a file into the output folder; shares its blocks where the file system can. */
const deliver = (from: string, to: string, file: Listed, force: boolean): Effect.Effect<void, ChatlmError> =>
  Effect.gen(function* () {
    if (yield* Cache.exists(to)) {
      const same = file.hash === "" ? false : yield* isWhole(to, file)
      if (same) return
      if (!force) return yield* Effect.fail(taken(to))
    }
    const beside = `${to}.${process.pid}.tmp`
    yield* attempt(to, async () => {
      await fs.mkdir(dirname(to), { recursive: true })
      await fs.copyFile(from, beside, constants.COPYFILE_FICLONE)
      await fs.rename(beside, to)
    }).pipe(Effect.onExit(() => Effect.ignore(attempt(beside, () => fs.rm(beside, { force: true })))))
  })

/** Fetches what a reference names; answers where it is. An interruption keeps what has arrived. */
export const fetchSnapshot = (options: FetchOptions): Effect.Effect<FetchReport, ChatlmError, Native> =>
  Effect.gen(function* () {
    const began = performance.now()
    const settings = yield* FetchSettings
    const report = yield* ProgressReporter
    const reference = yield* Effect.try({
      try: () => parseReference(options.from),
      catch: (error) => error as ChatlmError
    })
    const { purpose = "everything", output, force = false } = options
    const what = showReference(reference)
    const hub = reference.hub === "hf" ? yield* huggingFace(settings) : modelScope(settings)
    const found = yield* findAny(hub, settings, reference, options)
    const { cache, commit, kind } = found
    const wanted = wants(reference.path, purpose)
    const files = found.files
      .filter(({ path }) => wanted(path))
      .toSorted((a, b) => (a.path < b.path ? -1 : 1))
    if (files.length === 0) return yield* Effect.fail(nothing(reference, purpose, found.files))
    if (output !== undefined && !force) yield* checkOutput(output, files)

    const snapshot = Cache.snapshotPath(cache, commit)
    const bytes = files.reduce((sum, { size }) => sum + size, 0)
    let fetchedBytes = 0
    if (!found.fromCache) {
      const missing: Array<Listed> = []
      let left = 0
      for (const file of files) {
        if (yield* Cache.exists(join(snapshot, file.path))) continue
        missing.push(file)
        const place = Cache.blobPath(cache, file)
        if (!(yield* Cache.exists(place))) left += file.size - (yield* sizeOf(incompletePath(place)))
      }
      if (missing.length > 0) {
        yield* Cache.prepare(hub.cache, cache, commit)
        yield* checkRoom(cache.folder, left)
      }
      const missingBytes = missing.reduce((sum, { size }) => sum + size, 0)
      let done = bytes - missingBytes
      const megabytes = (count: number) => Math.round(count / 1e5) / 10
      const tell = (more: number) => {
        done += more
        report({ stage: "fetch", done: megabytes(done), total: megabytes(bytes), unit: "MB" })
      }
      const bring = (file: Listed) =>
        Effect.scoped(
          Effect.gen(function* () {
            const place = Cache.blobPath(cache, file)
            yield* Cache.lockBlob(cache, file)
            if (!(yield* Cache.exists(place))) {
              const before = yield* sizeOf(incompletePath(place))
              const url = hub.address(kind, reference.name, found.revision, file.path)
              const task = { url, credentials: hub.credentials, file, place, what, onBytes: tell }
              yield* transfer(task, settings).pipe(
                Effect.mapError((failure) => explain(failure, `${what}, ${file.path}`, hub.name))
              )
              fetchedBytes += Math.max(0, file.size - before)
            } else {
              tell(file.size)
            }
            yield* Cache.point(cache, commit, file)
          })
        )
      yield* Effect.forEach(missing, bring, { concurrency: settings.atOnce, discard: true })
      const ref = Cache.writeRef(cache, reference.revision ?? hub.mainRevision, commit)
      yield* missing.length === 0 ? Effect.ignore(ref) : ref
    }
    for (const file of output === undefined ? [] : files) {
      yield* deliver(join(snapshot, file.path), join(output ?? "", file.path), file, force)
    }
    return {
      kind,
      name: reference.name,
      revision: reference.revision ?? hub.mainRevision,
      commit,
      folder: output ?? snapshot,
      files: files.map(({ path }) => path),
      bytes,
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
