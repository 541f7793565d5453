/** The missing files of a commit, a few at a time, into the cache. */
import * as fs from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { attempt, makeError, ProgressReporter } from "../native/index.ts"
import type { ChatlmError, Native } from "../native/index.ts"
import * as Cache from "./cache.ts"
import type { Found } from "./find.ts"
import { explain } from "./failure.ts"
import type { Hub, Listed } from "./hub.ts"
import { showReference } from "./reference.ts"
import type { Reference } from "./reference.ts"
import type { FetchSettings } from "./settings.ts"
import { incompletePath, transfer } from "./transfer.ts"

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

/** Tells how far all files are, in megabytes. */
const progressOf = (report: (typeof ProgressReporter)["Service"], total: number, before: number) => {
  const megabytes = (bytes: number) => Math.round(bytes / 1e5) / 10
  let done = before
  return (more: number) => {
    done += more
    report({ stage: "fetch", done: megabytes(done), total: megabytes(total), unit: "MB" })
  }
}

/**
 * Brings the files of a commit that are not there, each under its lock, and notes what the revision means.
 * Answers the bytes that had to come.
 */
export const bringAll = (
  hub: Hub,
  settings: FetchSettings,
  reference: Reference,
  found: Found,
  files: ReadonlyArray<Listed>
): Effect.Effect<number, ChatlmError, Native> =>
  Effect.gen(function* () {
    const { cache, commit, kind } = found
    const what = showReference(reference)
    const snapshot = Cache.snapshotPath(cache, commit)
    const missing: Array<Listed> = []
    let needed = 0
    let there = 0
    for (const file of files) {
      if (yield* Cache.exists(join(snapshot, file.path))) {
        there += file.size
        continue
      }
      missing.push(file)
      const place = Cache.blobPath(cache, file)
      if (!(yield* Cache.exists(place))) needed += file.size - (yield* sizeOf(incompletePath(place)))
    }
    const ref = Cache.writeRef(cache, reference.revision ?? hub.mainRevision, commit)
    // A cache that may not be written still serves.
    if (missing.length === 0) return yield* Effect.as(Effect.ignore(ref), 0)
    yield* Cache.prepare(hub.cache, cache, commit)
    yield* checkRoom(cache.folder, needed)

    const total = files.reduce((sum, { size }) => sum + size, 0)
    const tell = progressOf(yield* ProgressReporter, total, there)
    let fetched = 0
    const bring = (file: Listed) =>
      Effect.gen(function* () {
        const place = Cache.blobPath(cache, file)
        yield* Cache.lockBlob(cache, file)
        if (yield* Cache.exists(place)) tell(file.size)
        else {
          const before = yield* sizeOf(incompletePath(place))
          const url = hub.address(kind, reference.name, found.revision, file.path)
          const task = { url, credentials: hub.credentials, file, place, what, onBytes: tell }
          yield* transfer(task, settings).pipe(
            Effect.mapError((failure) => explain(failure, `${what}, ${file.path}`, hub.name))
          )
          fetched += Math.max(0, file.size - before)
        }
        yield* Cache.point(cache, commit, file)
      }).pipe(Effect.scoped)
    yield* Effect.forEach(missing, bring, { concurrency: settings.atOnce, discard: true })
    yield* ref
    return fetched
  })
