/** Copies of fetched files in a folder of the user's, which nothing of theirs is lost in. */
import { constants, createReadStream, createWriteStream } from "node:fs"
import * as fs from "node:fs/promises"
import { dirname, join } from "node:path"
import { pipeline } from "node:stream/promises"

import * as Effect from "effect/Effect"

import { attempt, fileError, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import * as Cache from "./cache.ts"
import { working } from "./http.ts"
import type { Listed } from "./hub.ts"
import { isWhole } from "./transfer.ts"

/** Refuses, before anything is fetched, what would be refused after it. */
export const checkOutput = (output: string, files: ReadonlyArray<Listed>): Effect.Effect<void, ChatlmError> =>
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
export const deliver = (
  from: string,
  to: string,
  file: Listed,
  force: boolean
): Effect.Effect<void, ChatlmError> =>
  Effect.gen(function* () {
    if (yield* Cache.exists(to)) {
      const same = file.hash === "" ? false : yield* isWhole(to, file)
      if (same) return
      if (!force) return yield* Effect.fail(taken(to))
    }
    yield* working(
      (signal) => copy(from, to, signal),
      (error) => fileError(error, to)
    )
  })

/** A copy that is never seen half and can be stopped. */
const copy = async (from: string, to: string, signal: AbortSignal): Promise<void> => {
  const beside = `${to}.${process.pid}.tmp`
  await fs.mkdir(dirname(to), { recursive: true })
  try {
    await fs
      .copyFile(from, beside, constants.COPYFILE_FICLONE_FORCE)
      .catch(() => pipeline(createReadStream(from), createWriteStream(beside, { flush: true }), { signal }))
    await fs.rename(beside, to)
  } finally {
    await fs.rm(beside, { force: true })
  }
}
