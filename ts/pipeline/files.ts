/** The file system as the ledger needs it: hashes, whole writes, links, removal. */
import { createHash } from "node:crypto"
import { createReadStream } from "node:fs"
import * as fs from "node:fs/promises"
import { dirname, join, relative } from "node:path"

import type * as Effect from "effect/Effect"

import { attempt } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"

export { attempt } from "../native/index.ts"

/** A file as a manifest remembers it. */
export interface FileEntry {
  /** Relative, with `/`; empty for a single file. */
  readonly path: string
  readonly size: number
  readonly sha256: string
  /** Of no meaning by itself: equal, the content need not be read to be believed. */
  readonly modified: number
}

const hashFile = async (path: string, signal: AbortSignal): Promise<string> => {
  const hash = createHash("sha256")
  for await (const chunk of createReadStream(path, { signal, highWaterMark: 1 << 20 })) hash.update(chunk)
  return hash.digest("hex")
}

const walk = async (path: string): Promise<Array<string>> => {
  if (!(await fs.stat(path)).isDirectory()) return [path]
  const names = (await fs.readdir(path)).sort()
  return (await Promise.all(names.map((name) => walk(join(path, name))))).flat()
}

/** Every file of a file or folder with its hash; what `known` remembers unchanged is not read again. */
export const entriesOf = (
  path: string,
  known: ReadonlyMap<string, FileEntry> = new Map()
): Effect.Effect<ReadonlyArray<FileEntry>, ChatlmError> =>
  attempt(path, async (signal) => {
    const entries: Array<FileEntry> = []
    for (const file of await walk(path)) {
      const { size, mtimeMs } = await fs.stat(file)
      const before = known.get(file)
      const sha256 =
        before !== undefined && before.size === size && before.modified === mtimeMs
          ? before.sha256
          : await hashFile(file, signal)
      entries.push({ path: relative(path, file), size, sha256, modified: mtimeMs })
    }
    return entries
  })

export const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex")

/** One hash over a file or all of a folder. */
export const combinedHash = (entries: ReadonlyArray<FileEntry>): string => {
  const [first] = entries
  if (entries.length === 1 && first !== undefined && first.path === "") return first.sha256
  return sha256(entries.map((entry) => `${entry.path}\0${entry.sha256}\n`).join(""))
}

/** How the files of a manifest stand: whole, touched but the same, or damaged. */
export const compare = (
  folder: string,
  entries: ReadonlyArray<FileEntry>,
  full: boolean
): Effect.Effect<{ readonly damaged: string | undefined; readonly touched: boolean }, ChatlmError> =>
  attempt(folder, async (signal) => {
    let touched = false
    for (const entry of entries) {
      const path = join(folder, entry.path)
      const found = await fs.stat(path).catch(() => undefined)
      if (found === undefined || found.size !== entry.size) return { damaged: entry.path, touched }
      if (full || found.mtimeMs !== entry.modified) {
        touched ||= found.mtimeMs !== entry.modified
        if ((await hashFile(path, signal)) !== entry.sha256) return { damaged: entry.path, touched }
      }
    }
    return { damaged: undefined, touched }
  })

const sync = async (path: string) => {
  const handle = await fs.open(path, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Makes sure that files survive a power cut, before a manifest vouches for them. */
export const syncAll = (path: string): Effect.Effect<void, ChatlmError> =>
  attempt(path, async () => {
    for (const file of await walk(path)) await sync(file)
  })

/** Writes a small file beside its place and renames it there. */
export const writeWhole = (path: string, text: string): Effect.Effect<void, ChatlmError> =>
  attempt(path, async () => {
    const beside = `${path}.${process.pid}.tmp`
    try {
      const handle = await fs.open(beside, "w")
      try {
        await handle.writeFile(text)
        await handle.sync()
      } finally {
        await handle.close()
      }
      await fs.rename(beside, path)
    } catch (error) {
      await fs.rm(beside, { force: true })
      throw error
    }
  })

export const rename = (from: string, to: string): Effect.Effect<void, ChatlmError> =>
  attempt(to, async () => {
    await fs.mkdir(dirname(to), { recursive: true })
    await fs.rename(from, to)
    await sync(dirname(to))
  })

export const remove = (path: string): Effect.Effect<void, ChatlmError> =>
  attempt(path, () => fs.rm(path, { recursive: true, force: true }))

export const makeFolder = (path: string): Effect.Effect<void, ChatlmError> =>
  attempt(path, async () => {
    await fs.mkdir(path, { recursive: true })
  })

export const exists = (path: string): Effect.Effect<boolean, ChatlmError> =>
  attempt(path, () =>
    fs.stat(path).then(
      () => true,
      () => false
    )
  )

/** Names in a folder, sorted; none where there is no folder. */
export const list = (path: string): Effect.Effect<ReadonlyArray<string>, ChatlmError> =>
  attempt(path, async () => {
    try {
      return (await fs.readdir(path)).sort()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return []
      throw error
    }
  })

/** A JSON file; undefined where it is missing or not JSON. */
export const readJson = (path: string): Effect.Effect<unknown, ChatlmError> =>
  attempt(path, async () => {
    try {
      return JSON.parse(await fs.readFile(path, "utf8")) as unknown
    } catch (error) {
      if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined
      throw error
    }
  })

/** The same content in another place, by a second name where the file system has them. */
export const linkOrCopy = (from: string, to: string): Effect.Effect<void, ChatlmError> =>
  attempt(to, async () => {
    for (const file of await walk(from)) {
      const path = join(to, relative(from, file))
      await fs.mkdir(dirname(path), { recursive: true })
      await fs.link(file, path).catch(() => fs.copyFile(file, path))
    }
  })

/** A copy that is never seen half. */
export const copyWhole = (from: string, to: string): Effect.Effect<void, ChatlmError> =>
  attempt(to, async () => {
    const beside = `${to}.${process.pid}.tmp`
    try {
      await fs.mkdir(dirname(to), { recursive: true })
      await fs.copyFile(from, beside)
      await sync(beside)
      await fs.rename(beside, to)
    } catch (error) {
      await fs.rm(beside, { force: true })
      throw error
    }
  })

/** Bytes of a file or folder. */
export const sizeOf = (path: string): Effect.Effect<number, ChatlmError> =>
  attempt(path, async () => {
    const sizes = await Promise.all((await walk(path)).map(async (file) => (await fs.stat(file)).size))
    return sizes.reduce((sum, size) => sum + size, 0)
  })
