/**
 * Several processes of this machine that train one model: starts them, passes on what rank 0 tells, stops
 * them together, and says whose fault an end was. What they do between each other is the core's business.
 */
import { fork } from "node:child_process"
import type { ChildProcess } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"

import { ChosenDevice, fromBorder, makeError, ProgressReporter, wasInterrupted } from "../native/index.ts"
import type { ChatlmError, Progress, RunKind, TrainEvent } from "../native/index.ts"
import type { TrainOptions, TrainReport } from "./train.ts"

/** What a worker is told. */
export type ToWorker =
  | {
      readonly type: "start"
      readonly kind: RunKind
      readonly config: object
      readonly fresh: boolean
      readonly from?: number
      readonly force: boolean
      readonly device?: string
      readonly worker: { readonly rank: number; readonly folder: string }
    }
  | { readonly type: "stop" }

/** What a worker tells. */
export type Told =
  | { readonly type: "event"; readonly event: TrainEvent }
  | { readonly type: "progress"; readonly progress: Progress }
  | { readonly type: "done"; readonly report: TrainReport }
  | { readonly type: "failed"; readonly error: object }

type End = { readonly report: TrainReport } | { readonly error: ChatlmError; readonly died: boolean }

/** How long workers may take to end once one of them is gone. */
const patience = 60_000

const module = () => {
  const name = import.meta.url.endsWith(".ts") ? "./worker.ts" : "./worker.js"
  return fileURLToPath(new URL(name, import.meta.url))
}

const died = (rank: number, child: ChildProcess, code: number | null, signal: string | null): ChatlmError =>
  makeError(
    "WORKER_LOST",
    `worker ${rank} (process ${child.pid ?? "?"}) ${signal === null ? `ended with status ${code}` : `was ended by ${signal}`}`,
    "run the same command again: it goes on from the last checkpoint; was it killed for its memory?",
    { rank }
  )

/** The error to tell: the first cause, not what it did to the others. */
const worst = (ends: ReadonlyArray<End>): ChatlmError | undefined => {
  const rank = (end: { readonly error: ChatlmError; readonly died: boolean }) => {
    if (end.died) return 1
    return end.error.code === "WORKER_LOST" ? 3 : end.error.code === "CANCELLED" ? 2 : 0
  }
  const failed = ends.filter((end) => "error" in end)
  return failed.toSorted((a, b) => rank(a) - rank(b))[0]?.error
}

/** Trains with `workers` processes, to the end. */
export const trainTogether = (
  options: TrainOptions,
  workers: number
): Effect.Effect<TrainReport, ChatlmError> =>
  Effect.scoped(
    Effect.gen(function* () {
      const { kind, config, fresh = false, from, force = false, onEvent = () => Effect.void } = options
      const report = yield* ProgressReporter
      const device = options.device ?? (yield* ChosenDevice)
      const folder = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "chatlm-workers-"))),
        (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
      )
      const news = yield* Queue.unbounded<TrainEvent | undefined>()
      const ends: Array<End | undefined> = Array.from({ length: workers })
      let timer: NodeJS.Timeout | undefined
      const children: Array<ChildProcess> = []
      const send = (child: ChildProcess, message: ToWorker) => {
        // One that is gone already needs no telling.
        if (child.connected) child.send(message, () => {})
      }
      const stop = () => {
        for (const child of children) send(child, { type: "stop" })
      }
      const kill = () => {
        for (const child of children) if (child.exitCode === null) child.kill("SIGKILL")
      }
      const end = (rank: number, found: End) => {
        if (ends[rank] !== undefined) return
        ends[rank] = found
        if ("error" in found) {
          stop()
          timer ??= setTimeout(kill, patience)
        }
        Queue.offerUnsafe(news, undefined)
      }
      const start = (rank: number) => {
        const child = fork(module(), [], { execArgv: [], stdio: ["ignore", "ignore", "inherit", "ipc"] })
        children.push(child)
        child.on("message", (told: Told) => {
          if (told.type === "event") Queue.offerUnsafe(news, told.event)
          else if (told.type === "progress") report(told.progress)
          else if (told.type === "done") end(rank, { report: told.report })
          else end(rank, { error: fromBorder(new Error(JSON.stringify(told.error))), died: false })
        })
        child.on("exit", (code, signal) => end(rank, { error: died(rank, child, code, signal), died: true }))
        child.on("error", (cause) =>
          end(rank, {
            error: makeError("IO", `worker ${rank} does not start: ${cause.message}`, "see the message"),
            died: false
          })
        )
        send(child, {
          type: "start",
          kind,
          config,
          fresh,
          force,
          ...(from === undefined ? {} : { from }),
          worker: { rank, folder },
          ...(device === undefined ? {} : { device })
        })
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          for (let rank = 0; rank < workers; rank++) start(rank)
        }),
        () =>
          Effect.sync(() => {
            clearTimeout(timer)
            kill()
          })
      )
      // Until all have ended.
      const listen = Effect.gen(function* () {
        while (ends.some((found) => found === undefined)) {
          const event = yield* Queue.take(news)
          if (event !== undefined) yield* onEvent(event)
        }
      })
      yield* listen.pipe(
        Effect.onExit((exit) =>
          Exit.isFailure(exit) && wasInterrupted(exit)
            ? Effect.andThen(Effect.sync(stop), listen)
            : Effect.void
        )
      )
      const all = ends.filter((found) => found !== undefined)
      const error = worst(all)
      if (error !== undefined) return yield* Effect.fail(error)
      const [first] = all
      if (first === undefined || !("report" in first)) return yield* Effect.die("no worker has ended")
      return first.report
    })
  )
