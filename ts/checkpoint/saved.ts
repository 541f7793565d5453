/** The checkpoints of a run folder, as its `checkpoints/step-00000100/manifest.json` tell of them. */
import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"

import type * as Effect from "effect/Effect"

import { attempt } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"

export interface SavedCheckpoint {
  readonly step: number
  readonly path: string
  readonly bytes: number
}

const manifestOf = async (path: string): Promise<SavedCheckpoint | undefined> => {
  try {
    const text = await readFile(join(path, "manifest.json"), "utf8")
    const { step, files } = JSON.parse(text) as { step: number; files: Record<string, { bytes: number }> }
    return { step, path, bytes: Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0) }
  } catch {
    // Without a manifest, or with a broken one, a folder does not count.
    return undefined
  }
}

/** The whole ones, oldest first; none where the run has saved nothing yet. Hashes are checked when one is loaded. */
export const savedCheckpoints = (out: string): Effect.Effect<ReadonlyArray<SavedCheckpoint>, ChatlmError> => {
  const folder = join(out, "checkpoints")
  return attempt(folder, async () => {
    const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return []
      throw error
    })
    const found = await Promise.all(
      names.filter((name) => /^step-\d+$/.test(name)).map((name) => manifestOf(join(folder, name)))
    )
    return found.filter((saved) => saved !== undefined).sort((a, b) => a.step - b.step)
  })
}
