/** One run at a time over a ledger. A lock of a process that is gone does not count. */
import { open, readFile, rm } from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

import { makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { attempt, remove } from "./files.ts"

/** When a process began, in ticks since the machine did: tells a process from a later one of the same number. */
const beganAt = async (pid: number): Promise<string> => {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "")
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? ""
}

const isAlive = async (holder: string): Promise<boolean> => {
  const [pid = "", began = ""] = holder.trim().split(" ")
  if (!/^\d+$/.test(pid)) return false
  try {
    process.kill(Number(pid), 0)
  } catch (error) {
    // Another user's process may not be signalled, but it is there.
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false
  }
  return began === "" || (await beganAt(Number(pid))) === began
}

const take = async (path: string): Promise<string | undefined> => {
  for (let attempts = 0; attempts < 3; attempts += 1) {
    try {
      const handle = await open(path, "wx")
      await handle.writeFile(`${process.pid} ${await beganAt(process.pid)}\n`)
      await handle.close()
      return undefined
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
    }
    const holder = await readFile(path, "utf8").catch(() => "")
    if (await isAlive(holder)) return holder.trim().split(" ")[0]
    await rm(path, { force: true })
  }
  return "another process"
}

/** Holds the lock for the scope. */
export const lock = (root: string): Effect.Effect<void, ChatlmError, Scope.Scope> => {
  const path = join(root, "lock")
  return Effect.acquireRelease(
    Effect.flatMap(
      attempt(path, () => take(path)),
      (holder) =>
        holder === undefined
          ? Effect.void
          : Effect.fail(
              makeError(
                "USAGE",
                `process ${holder} runs a pipeline with the results in ${root}`,
                "wait for it, or give another --root",
                { file: path, holder }
              )
            )
    ),
    () => Effect.ignore(remove(path))
  )
}
