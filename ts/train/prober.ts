/** How `plan.ts` makes a probe: in a child process, which may die of it. */
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

import { bug, fromBorder, ProgressReporter } from "../native/index.ts"
import type { ChatlmError, ProbeOptions, ProbeReport, Progress, RunKind } from "../native/index.ts"

/** A probe's answer; `undefined` where its process died, as one does that asks for more memory than there is. */
export type Probe = (
  kind: RunKind,
  config: object,
  options: ProbeOptions
) => Effect.Effect<ProbeReport | undefined, ChatlmError>

interface Line {
  readonly report?: ProbeReport
  readonly error?: string
  readonly progress?: Progress
}

const program = fileURLToPath(
  new URL(import.meta.url.endsWith(".ts") ? "probe.ts" : "probe.js", import.meta.url)
)

/** What a failed allocation on a device says; there it ends no process. */
const isOutOfMemory = (message: string) => /out of memory|OUT_OF_MEMORY|alloc/i.test(message)

const inProcess: Probe = (kind, config, options) =>
  Effect.gen(function* () {
    const tell = yield* ProgressReporter
    return yield* Effect.callback<ProbeReport | undefined, ChatlmError>((resume) => {
      const child = spawn(process.execPath, [program], { stdio: ["pipe", "pipe", "pipe"] })
      let rest = ""
      let complaint = ""
      let answer: Line = {}
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        const lines = (rest + text).split("\n")
        rest = lines.pop() ?? ""
        for (const line of lines) {
          const said = JSON.parse(line) as Line
          if (said.progress === undefined) answer = said
          else tell(said.progress)
        }
      })
      child.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text))
      child.stdin.on("error", () => {})
      child.on("error", (error) => resume(Effect.fail(bug(error))))
      child.on("close", (status, signal) => {
        const { report, error } = answer
        if (report !== undefined) return resume(Effect.succeed(report))
        if (error !== undefined && !isOutOfMemory(error)) {
          return resume(Effect.fail(fromBorder(new Error(error))))
        }
        // Killed, or aborted by the allocator: it asked for too much.
        if (error !== undefined || signal === "SIGKILL" || signal === "SIGABRT" || status === 134) {
          return resume(Effect.succeed(undefined))
        }
        return resume(
          Effect.fail(bug(new Error(`a probe ended with ${signal ?? status}: ${complaint.slice(-500)}`)))
        )
      })
      child.stdin.write(`${JSON.stringify({ kind, config, options })}\n`)
      return Effect.promise(
        () =>
          new Promise<void>((done) => {
            child.once("close", () => done())
            child.kill("SIGKILL")
          })
      )
    })
  })

/** Who makes probes; tests give one that knows the answers. */
export const Prober = Context.Reference<Probe>("chatlm/train/Prober", { defaultValue: () => inProcess })
