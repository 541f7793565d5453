/**
 * The program of one worker: trains its share, told what by the process that started it, and tells that one
 * what happens. Without it it ends at once; the run goes on from its last checkpoint.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Cause from "effect/Cause"

import {
  bug,
  isChatlmError,
  makeError,
  Native,
  ProgressReporter,
  toEnvelope,
  wasInterrupted
} from "../native/index.ts"
import { train } from "./train.ts"
import type { ToWorker, Told } from "./workers.ts"

const tell = (told: Told, done: () => void = () => {}) => void process.send?.(told, undefined, {}, done)

const outcome = (exit: Exit.Exit<Told, unknown>): Told => {
  if (Exit.isSuccess(exit)) return exit.value
  const squashed = Cause.squash(exit.cause)
  const error = isChatlmError(squashed)
    ? squashed
    : wasInterrupted(exit)
      ? makeError("CANCELLED", "interrupted", "what was done is saved: run the same command again to go on")
      : bug(squashed)
  return { type: "failed", error: toEnvelope(error) }
}

let running: Fiber.Fiber<Told, unknown> | undefined

const stop = () => {
  running?.interruptUnsafe()
}

const start = async (ask: Extract<ToWorker, { type: "start" }>) => {
  const leads = ask.worker.rank === 0
  const program = train({
    ...ask,
    onEvent: (event) => (leads ? Effect.sync(() => tell({ type: "event", event })) : Effect.void)
  }).pipe(
    Effect.map((report): Told => ({ type: "done", report })),
    Effect.provideService(ProgressReporter, (progress) => {
      if (leads) tell({ type: "progress", progress })
    }),
    Effect.provide(Native.layer)
  )
  running = Effect.runFork(program)
  const exit = await Effect.runPromise(Fiber.await(running))
  tell(outcome(exit), () => process.exit(0))
}

process.on("message", (message: ToWorker) => {
  if (message.type === "stop") stop()
  else void start(message)
})
process.on("disconnect", () => process.exit(3))
// A terminal signals all of its processes; the one that started this one decides.
for (const signal of ["SIGINT", "SIGHUP"] as const) process.on(signal, () => {})
process.on("SIGTERM", stop)
