/**
 * The questions of earlier conversations, for the arrow keys: one JSON text a line in the user's state folder,
 * readable for the user alone. A history that cannot be read or written is none: nobody's answer waits for it.
 */
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join } from "node:path"

const kept = 1000

export interface History {
  /** The newest first. */
  readonly entries: ReadonlyArray<string>
  readonly add: (text: string) => void
}

/** Where it lies, by the XDG base directories. */
export const historyFile = (env: Readonly<Record<string, string | undefined>>): string =>
  join(env.XDG_STATE_HOME || join(env.HOME || homedir(), ".local", "state"), "chatlm", "history.jsonl")

const read = (file: string): ReadonlyArray<string> => {
  try {
    return readFileSync(file, "utf8")
      .split("\n")
      .flatMap((line) => {
        try {
          const text: unknown = JSON.parse(line)
          return typeof text === "string" ? [text] : []
        } catch {
          return []
        }
      })
  } catch {
    return []
  }
}

export const openHistory = (file: string): History => {
  const all = read(file)
  const entries = all.slice(-kept)
  const write = (work: () => void) => {
    try {
      work()
    } catch {
      // As said above.
    }
  }
  const rows = (texts: ReadonlyArray<string>) => texts.map((text) => `${JSON.stringify(text)}\n`).join("")
  if (all.length > 2 * kept) write(() => writeFileSync(file, rows(entries), { mode: 0o600 }))
  return {
    entries: entries.toReversed(),
    add: (text) =>
      write(() => {
        mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
        appendFileSync(file, rows([text]), { mode: 0o600 })
      })
  }
}
