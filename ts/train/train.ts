/**
 * A training run from its folder to its end. The core runs a bounded number of steps a call; between the
 * calls an interruption is noticed, the state is saved, and the run ends.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

import { Native, wasInterrupted } from "../native/index.ts"
import type {
  ChatlmError,
  RunKind,
  TrainEvent,
  VerifyResumeOptions,
  VerifyResumeReport
} from "../native/index.ts"

export type { RunKind, TrainEvent, VerifyResumeReport }

export const runKinds = ["pretrain", "sft", "dpo"] as const

export interface TrainOptions {
  readonly kind: RunKind
  /** As resolved by `ts/config`. */
  readonly config: object
  /** Starts over instead of going on from the newest checkpoint. */
  readonly fresh?: boolean
  /** With `fresh`: throws away what is there. */
  readonly force?: boolean
  /** `cpu`, `cuda:N` or `metal`; where left out the chosen one, or the best there is. */
  readonly device?: string
  /** Which of several workers this process is; those that `workers` asks for are started by `train`. */
  readonly worker?: { readonly rank: number; readonly folder: string }
  /** Told everything that happens, in order. */
  readonly onEvent?: (event: TrainEvent) => Effect.Effect<void>
}

export interface TrainReport {
  readonly step: number
  /** `steps` or `earlyStop`. */
  readonly reason: string
  readonly loss: number | null
  readonly evalLoss: number | null
  readonly evalBleu4: number | null
  readonly seconds: number
}

/** A border call should last about so long: short enough to stop soon, long enough to cost nothing. */
const targetMillis = 250

/**
 * Trains to the end. Interrupted, the running step ends, a checkpoint is saved (told as a `saved` event)
 * and the fiber ends interrupted.
 */
export const train = (options: TrainOptions): Effect.Effect<TrainReport, ChatlmError, Native> => {
  const { kind, config, fresh = false, force = false, device, worker, onEvent = () => Effect.void } = options
  const { workers = 1 } = config as { readonly workers?: number }
  if (workers > 1 && worker === undefined && process.env["OMPI_COMM_WORLD_SIZE"] === undefined) {
    // Only those who train with several pay for it.
    return Effect.flatMap(
      Effect.promise(() => import("./workers.ts")),
      ({ trainTogether }) => trainTogether(options, workers)
    )
  }
  return Effect.scoped(
    Effect.gen(function* () {
      const native = yield* Native
      const began = yield* Clock.currentTimeMillis
      const run = yield* native.trainingRun(kind, config, {
        fresh,
        force,
        ...(device === undefined ? {} : { device }),
        ...(worker === undefined ? {} : { worker })
      })
      const last: { loss: number | null; evalLoss: number | null; evalBleu4: number | null; step: number } = {
        loss: null,
        evalLoss: null,
        evalBleu4: null,
        step: 0
      }
      const loop = Effect.gen(function* () {
        let steps = 1
        for (;;) {
          const before = yield* Clock.currentTimeMillis
          const events = yield* run.advance(steps)
          const millis = (yield* Clock.currentTimeMillis) - before
          steps = Math.max(1, Math.min(100, Math.round((steps * targetMillis) / Math.max(1, millis))))
          for (const event of events) {
            yield* onEvent(event)
            last.step = event.step
            last.loss = event.loss ?? last.loss
            last.evalLoss = event.evalLoss ?? last.evalLoss
            last.evalBleu4 = event.evalBleu4 ?? last.evalBleu4
            if (event.type === "finished") return event.reason ?? "steps"
          }
        }
      })
      const reason = yield* loop.pipe(
        Effect.onExit((exit) =>
          Exit.isFailure(exit) && wasInterrupted(exit)
            ? run.interrupt.pipe(
                Effect.flatMap((path) =>
                  path === null ? Effect.void : onEvent({ type: "saved", step: last.step, path })
                )
              )
            : Effect.void
        )
      )
      const seconds = ((yield* Clock.currentTimeMillis) - began) / 1000
      return { ...last, reason, seconds }
    })
  )
}

/** Trains in one go and in two, and compares every part of the state. */
export const verifyResume = (
  kind: RunKind,
  config: object,
  options: VerifyResumeOptions
): Effect.Effect<VerifyResumeReport, ChatlmError, Native> =>
  Effect.flatMap(Native, (native) => native.verifyResume(kind, config, options))
