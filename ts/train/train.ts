/**
 * A training run from its folder to its end. The core runs a bounded number of steps a call; between the
 * calls an interruption is noticed, the state is saved, and the run ends.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"

import { Native, wasInterrupted } from "../native/index.ts"
import type {
  ChatlmError,
  RunKind,
  TrainEvent,
  TrainingRun,
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
  /** Goes on from the checkpoint of this step instead of the newest. */
  readonly from?: number | undefined
  /** With `fresh`: throws away what is there; with `from`: the checkpoints after it. */
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

/** What happens in an open run, to its end; first, before any step, how it begins. */
const eventsOf = (run: TrainingRun): Stream.Stream<TrainEvent, ChatlmError> =>
  Stream.paginate(0, (steps: number) =>
    Effect.gen(function* () {
      const before = yield* Clock.currentTimeMillis
      const events = yield* run.advance(steps)
      const millis = (yield* Clock.currentTimeMillis) - before
      const next = Math.max(1, Math.min(100, Math.round((steps * targetMillis) / Math.max(1, millis))))
      const finished = events.some(({ type }) => type === "finished")
      return [events, finished ? Option.none() : Option.some(next)] as const
    })
  )

const open = ({ kind, config, fresh = false, from, force = false, device, worker }: TrainOptions) =>
  Effect.flatMap(Native, (native) =>
    native.trainingRun(kind, config, {
      fresh,
      force,
      ...(from === undefined ? {} : { from }),
      ...(device === undefined ? {} : { device }),
      ...(worker === undefined ? {} : { worker })
    })
  )

/** How many workers this process is to start; 1 where it is one itself, or one of mpirun's. */
const workersOf = ({ config, worker }: TrainOptions): number => {
  const { workers = 1 } = config as { readonly workers?: number }
  return worker === undefined && process.env["OMPI_COMM_WORLD_SIZE"] === undefined ? workers : 1
}

/**
 * Trains to the end. Interrupted, the running step ends, a checkpoint is saved (told as a `saved` event)
 * and the fiber ends interrupted.
 */
export const train = (options: TrainOptions): Effect.Effect<TrainReport, ChatlmError, Native> => {
  const { onEvent = () => Effect.void } = options
  const workers = workersOf(options)
  if (workers > 1) {
    // Only those who train with several pay for it.
    return Effect.flatMap(
      Effect.promise(() => import("./workers.ts")),
      ({ trainTogether }) => trainTogether(options, workers)
    )
  }
  return Effect.scoped(
    Effect.gen(function* () {
      const began = yield* Clock.currentTimeMillis
      const run = yield* open(options)
      const last = {
        step: 0,
        reason: "steps",
        loss: null as number | null,
        evalLoss: null as number | null,
        evalBleu4: null as number | null
      }
      const tell = (event: TrainEvent) =>
        Effect.tap(onEvent(event), () =>
          Effect.sync(() => {
            last.step = event.step
            last.loss = event.loss ?? last.loss
            last.evalLoss = event.evalLoss ?? last.evalLoss
            last.evalBleu4 = event.evalBleu4 ?? last.evalBleu4
            if (event.type === "finished") last.reason = event.reason ?? last.reason
          })
        )
      yield* Stream.runForEach(eventsOf(run), tell).pipe(
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
      return { ...last, seconds }
    })
  )
}

/**
 * A training as the stream of what happens in it. It trains as fast as it is read: a reader that waits makes the run
 * wait. Where the reader stops before the end, or is interrupted, the running step ends and a checkpoint is saved;
 * the next stream over the same configuration goes on there.
 */
export const trainEvents = (
  options: Omit<TrainOptions, "onEvent">
): Stream.Stream<TrainEvent, ChatlmError, Native> => {
  if (workersOf(options) > 1) {
    // Events of processes come as they come: nobody waits for a reader.
    const all = { bufferSize: Number.MAX_SAFE_INTEGER }
    return Stream.callback<TrainEvent, ChatlmError, Native>(
      (queue) =>
        train({ ...options, onEvent: (event) => Effect.asVoid(Queue.offer(queue, event)) }).pipe(
          Effect.andThen(Queue.end(queue))
        ),
      all
    )
  }
  return Stream.unwrap(
    Effect.gen(function* () {
      const run = yield* open(options)
      let over = false
      yield* Effect.addFinalizer(() => (over ? Effect.void : Effect.orDie(run.interrupt)))
      return eventsOf(run).pipe(
        Stream.tap(({ type }) =>
          Effect.sync(() => {
            over = type === "finished"
          })
        ),
        // A run that failed is not saved once more.
        Stream.tapError(() =>
          Effect.sync(() => {
            over = true
          })
        )
      )
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
