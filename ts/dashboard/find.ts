/** Which folders are runs, and what they are called. */
import * as fs from "node:fs/promises"
import { basename, join, relative, resolve } from "node:path"

export interface Found {
  readonly folder: string
  readonly name: string
}

/** Folders of a run, and others, that hold no runs. */
const passedOver = new Set(["checkpoints", "best", "last", "node_modules", ".git"])
const deepest = 5

const runsIn = async (folder: string, depth = 0): Promise<ReadonlyArray<string>> => {
  const entries = await fs.readdir(folder, { withFileTypes: true }).catch(() => [])
  if (entries.some((entry) => entry.name === "metrics.jsonl")) return [folder]
  if (depth === deepest) return []
  const found = await Promise.all(
    entries
      .filter((entry) => entry.isDirectory() && !passedOver.has(entry.name))
      .map((entry) => runsIn(join(folder, entry.name), depth + 1))
  )
  return found.flat()
}

/** The runs of these folders, each a run or a folder that holds some at any depth, in the order of their names. */
export const findRuns = async (inputs: ReadonlyArray<string>): Promise<ReadonlyArray<Found>> => {
  const found = new Map<string, string>()
  for (const input of inputs) {
    for (const folder of await runsIn(input)) {
      // What a pipeline keeps of a run is in a folder of its result.
      const inside = relative(input, folder).replace(/(^|\/)records$/, "")
      const path = resolve(folder)
      if (!found.has(path)) found.set(path, inside === "" ? basename(resolve(input)) : inside)
    }
  }
  const names = [...found.values()]
  return [...found]
    .map(([folder, name]) => ({
      folder,
      name:
        names.filter((other) => other === name).length > 1 ? relative(process.cwd(), folder) || folder : name
    }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
}
