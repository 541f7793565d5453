/**
 * The cache on disk, laid out as huggingface_hub lays it out, so that either program finds what the other has
 * fetched: `models--owner--name/` with `blobs/HASH`, `snapshots/COMMIT/path` (links to blobs),
 * `refs/REVISION` (a commit), `trees/COMMIT.json` (a listing), and locks under `.locks/`.
 */
import * as fs from "node:fs/promises"
import { dirname, join, relative } from "node:path"

import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

import { attempt, Native } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { checkedPath } from "./hub.ts"
import type { Listed } from "./hub.ts"
import type { RepositoryKind } from "./reference.ts"

export interface Cache {
  /** The repository's folder. */
  readonly folder: string
  readonly locks: string
}

/** The place of a repository in the cache at `root`. */
export const cacheOf = (root: string, kind: RepositoryKind, name: string): Cache => {
  const own = [`${kind}s`, ...name.split("/")].join("--")
  return { folder: join(root, own), locks: join(root, ".locks", own) }
}

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision)

export const blobPath = ({ folder }: Cache, { hash }: Listed): string => join(folder, "blobs", hash)
export const snapshotPath = ({ folder }: Cache, commit: string): string => join(folder, "snapshots", commit)

const there = (path: string): Promise<boolean> =>
  fs.stat(path).then(
    () => true,
    () => false
  )

/** Whether a path (or what it links to) is there. */
export const exists = (path: string): Effect.Effect<boolean, ChatlmError> => attempt(path, () => there(path))

/** The text of a file; undefined where it is missing. */
const read = (path: string): Promise<string | undefined> =>
  fs.readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined
    throw error
  })

/** A short write, which an interruption waits for. */
const writing = (path: string, work: () => Promise<void>): Effect.Effect<void, ChatlmError> =>
  Effect.uninterruptible(attempt(path, work))

const writeWhole = async (path: string, text: string) => {
  await fs.mkdir(dirname(path), { recursive: true })
  const beside = `${path}.${process.pid}.tmp`
  try {
    await fs.writeFile(beside, text)
    await fs.rename(beside, path)
  } catch (error) {
    await fs.rm(beside, { force: true })
    throw error
  }
}

/** The commit that a revision meant when it was last asked for. */
export const readRef = (
  { folder }: Cache,
  revision: string
): Effect.Effect<string | undefined, ChatlmError> => {
  if (isCommit(revision)) return Effect.succeed(revision)
  const path = join(folder, "refs", revision)
  return attempt(path, async () => (await read(path))?.trim())
}

export const writeRef = (
  { folder }: Cache,
  revision: string,
  commit: string
): Effect.Effect<void, ChatlmError> => {
  const path = join(folder, "refs", revision)
  return writing(path, async () => {
    if (revision !== commit && (await read(path)) !== commit) await writeWhole(path, commit)
  })
}

interface TreeEntry {
  readonly size: number
  readonly blob_id: string
  readonly lfs_sha256?: string
  readonly lfs_size?: number
  readonly xet_hash?: string
}

const treePath = ({ folder }: Cache, commit: string) => join(folder, "trees", `${commit}.json`)

/** All files of a commit, where a listing of it was kept. */
export const readTree = (
  cache: Cache,
  commit: string
): Effect.Effect<ReadonlyArray<Listed> | undefined, ChatlmError> =>
  attempt(treePath(cache, commit), async () => {
    const text = await read(treePath(cache, commit))
    try {
      const tree = JSON.parse(text ?? "null") as {
        format_version?: number
        files?: Record<string, TreeEntry>
      } | null
      if (tree?.format_version !== 1 || tree.files === undefined) return undefined
      if (!Object.keys(tree.files).every((path) => checkedPath(path) !== undefined)) return undefined
      return Object.entries(tree.files).map(([path, entry]): Listed => {
        const { size, blob_id: gitId, lfs_sha256: sha256, lfs_size: lfsSize, xet_hash: xetHash } = entry
        return {
          path,
          size: lfsSize ?? size,
          hash: sha256 ?? gitId,
          kind: sha256 === undefined ? "git" : "sha256",
          gitId,
          ...(xetHash === undefined ? {} : { xetHash })
        }
      })
    } catch {
      // Another version's, or cut short: it will be asked for again.
      return undefined
    }
  })

export const writeTree = (
  cache: Cache,
  commit: string,
  files: ReadonlyArray<Listed>
): Effect.Effect<void, ChatlmError> =>
  writing(treePath(cache, commit), async () => {
    const entries = files
      .toSorted((a, b) => (a.path < b.path ? -1 : 1))
      .map(({ path, size, hash, kind, gitId, xetHash }): readonly [string, TreeEntry] => [
        path,
        {
          size,
          blob_id: gitId ?? hash,
          ...(kind === "sha256" ? { lfs_sha256: hash, lfs_size: size } : {}),
          ...(xetHash === undefined ? {} : { xet_hash: xetHash })
        }
      ])
    await writeWhole(
      treePath(cache, commit),
      JSON.stringify({ format_version: 1, files: Object.fromEntries(entries) }, null, 1)
    )
  })

const tag = `Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by huggingface_hub.
# For information about cache directory tags see: https://bford.info/cachedir/
`

/** Makes the folders of a commit, and marks the whole as a cache that backups may leave out. */
export const prepare = (root: string, cache: Cache, commit: string): Effect.Effect<void, ChatlmError> =>
  writing(cache.folder, async () => {
    await fs.mkdir(join(cache.folder, "blobs"), { recursive: true })
    await fs.mkdir(snapshotPath(cache, commit), { recursive: true })
    await fs.writeFile(join(root, "CACHEDIR.TAG"), tag, { flag: "wx" }).catch(() => {})
  })

/** The file of a snapshot: a relative link to the blob, or the blob itself where there are no links. */
export const point = (cache: Cache, commit: string, file: Listed): Effect.Effect<void, ChatlmError> => {
  const pointer = join(snapshotPath(cache, commit), file.path)
  const blob = blobPath(cache, file)
  return writing(pointer, async () => {
    if (await there(pointer)) return
    await fs.mkdir(dirname(pointer), { recursive: true })
    await fs.rm(pointer, { force: true })
    try {
      await fs.symlink(relative(dirname(pointer), blob), pointer)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === "EEXIST") return
      if (code !== "EPERM" && code !== "ENOTSUP" && code !== "ENOSYS" && code !== "EINVAL") throw error
      await fs.rename(blob, pointer)
    }
  })
}

/** Holds the lock of a blob, which other programs honour too, until the scope ends. */
export const lockBlob = (
  { locks }: Cache,
  { hash }: Listed
): Effect.Effect<void, ChatlmError, Native | Scope.Scope> =>
  Effect.gen(function* () {
    const native = yield* Native
    const path = join(locks, `${hash}.lock`)
    const take = Effect.acquireRelease(native.tryLock(path), (lock) => Effect.sync(() => lock?.release()))
    while ((yield* take) === null) yield* Effect.sleep("100 millis")
  })
