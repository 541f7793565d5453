/**
 * `npm run quickstart -- [--data PATH] [--root DIR] [--seed N] [--out DIR]`: runs the pipeline beside this
 * file and shows what came of it. What is done is not done again; interrupted, it goes on at the next call.
 */
import { parseArgs } from "node:util"

import { BugError, exitStatus, isChatlmError, makeError, Native } from "chatlm"
import type { ChatlmError } from "chatlm"
import { Ledger, PipelineListener, runPipeline } from "chatlm/pipeline"
import type { PipelineEvent } from "chatlm/pipeline"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"

import { quickstart } from "./pipeline.ts"
import { report } from "./report.ts"

const say = (text: string) => process.stderr.write(`${text}\n`)

/** A line for each stage, and for a training one every five seconds. */
const listener = () => {
  let total = 0
  let last = 0
  return (event: PipelineEvent) => {
    if (event.type === "started") say(`[${event.place}/${event.of}] ${event.stage}`)
    if (event.type === "damaged") say(`${event.stage} is done again: ${event.message}`)
    if (event.type !== "training") return
    const { type, step, totalSteps, loss, evalLoss, resumedFrom } = event.event
    if (type === "started") total = totalSteps ?? 0
    if (type === "started" && resumedFrom !== undefined) say(`    goes on from step ${step}`)
    if (type === "evaluated") say(`    step ${step}: validation loss ${evalLoss?.toFixed(3) ?? ""}`)
    if (type !== "step" || Date.now() - last < 5000) return
    last = Date.now()
    say(`    step ${step} of ${total}, loss ${loss?.toFixed(3) ?? ""}`)
  }
}

const options = () => {
  try {
    const text = { type: "string" } as const
    const { values } = parseArgs({ options: { data: text, root: text, seed: text, out: text } })
    const { data, root = ".chatlm/quickstart", seed = "23333", out = "model_save" } = values
    if (!/^\d{1,15}$/.test(seed)) throw new Error(`--seed ${seed} is no number`)
    return { data, root, seed: Number(seed), out }
  } catch (error) {
    throw makeError(
      "USAGE",
      error instanceof Error ? error.message : String(error),
      "npm run quickstart -- [--data PATH] [--root DIR] [--seed N] [--out DIR]"
    )
  }
}

const program = Effect.gen(function* () {
  const { data, root, seed, out } = yield* Effect.try({
    try: options,
    catch: (error) => error as ChatlmError
  })
  const result = yield* runPipeline(quickstart({ data, seed, exportTo: out })).pipe(
    Effect.provideService(PipelineListener, listener()),
    Effect.provide(Ledger.layer(root))
  )
  process.stdout.write(`${yield* Effect.promise(() => report(result, root, out))}\n`)
}).pipe(Effect.provide(Native.layer))

const statusOf = (exit: Exit.Exit<void, unknown>): number => {
  if (Exit.isSuccess(exit)) return 0
  if (Cause.hasInterruptsOnly(exit.cause)) {
    say("error[CANCELLED]: interrupted\nhelp: what was done is saved: run the same command again to go on")
    return 130
  }
  const error = Cause.squash(exit.cause)
  const known = isChatlmError(error)
    ? error
    : new BugError({ code: "INTERNAL", message: String(error), help: "please report this", context: {} })
  say(`error[${known.code}]: ${known.message}\nhelp: ${known.help}`)
  return exitStatus(known)
}

const fiber = Effect.runFork(program)
let interrupted = 0
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    // npm passes on what the terminal sent to us as well.
    if (interrupted > 0 && Date.now() - interrupted > 300) process.exit(130)
    if (interrupted === 0) {
      say("stopping: what runs is saved first; once more stops at once")
      interrupted = Date.now()
      fiber.interruptUnsafe()
    }
  })
}
process.exit(statusOf(await Effect.runPromise(Fiber.await(fiber))))
