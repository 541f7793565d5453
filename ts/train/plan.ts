/**
 * What a training would take, before the hours: memory, disk and time from a few real steps, and the largest
 * batch that fits, found by probes in processes of their own. The run folder is not touched.
 *
 * Rows lie end to end and attention is computed in blocks, so memory is a constant and so much a row of a given
 * length. Two batches of rows as long as the longest give the line, a last one near the limit proves it.
 */
import * as fs from "node:fs/promises"
import { dirname, resolve } from "node:path"

import * as Effect from "effect/Effect"

import { ChosenDevice, makeError } from "../native/index.ts"
import type { ChatlmError, ProbeOptions, ProbeReport, RunKind } from "../native/index.ts"
import { Prober } from "./prober.ts"

export interface PlanOptions {
  readonly kind: RunKind
  /** As resolved by `ts/config`. */
  readonly config: object
  /** Bytes that the run may take; where left out what the machine can give. */
  readonly maxMemory?: number
  /** Only the largest batch: no steps for the speed. */
  readonly batchOnly?: boolean
  readonly device?: string
}

/** Sizes in bytes, times in seconds. What was not measured is null: on a device all memory but what is counted. */
export interface PlanReport {
  readonly device: string
  readonly parameters: number
  readonly trainable: number
  /** Rows an epoch. */
  readonly rows: number
  /** All steps, those that `out` has a checkpoint of, and the tokens of a step. */
  readonly steps: number
  readonly stepsDone: number
  readonly tokensPerStep: number
  readonly tokensLeft: number
  readonly tokensPerSecond: number | null
  readonly secondsPerStep: number | null
  /** Steps alone: evaluations and saves come on top. */
  readonly secondsLeft: number | null
  readonly weightBytes: number
  /** 0 where each weight is updated as soon as its gradient is there. */
  readonly gradientBytes: number
  readonly optimizerBytes: number
  /** Of a batch whose rows are all as long as the longest. */
  readonly activationBytes: number | null
  /** Node, this program, the tokenizer, the rows. */
  readonly baseBytes: number
  /** The most that the process holds, in batches as they come, and where all rows of one are the longest. */
  readonly memoryBytes: number | null
  readonly longestMemoryBytes: number | null
  readonly limitBytes: number
  /** The copy that is written while training goes on; where there is no room for it training waits instead. */
  readonly saveBytes: number
  readonly checkpointBytes: number
  /** `keep` checkpoints, one that is being written, `best/` and `last/`. */
  readonly diskBytes: number
  readonly diskFreeBytes: number | null
  readonly batchSize: number
  readonly fits: boolean
  /** 0 where not even one row fits. */
  readonly largestBatch: number
  /** The largest batch that a step was really made of. */
  readonly verifiedBatch: number
  /** The longest text of each column, in tokens, of the rows that were looked at. */
  readonly longest: ReadonlyArray<number>
}

interface Config {
  readonly batchSize: number
  readonly gradientAccumulation: number
  readonly keep: number
  readonly saveInBackground: boolean
  readonly out: string
  readonly valid: string | null
  readonly loss?: string
}

const countedSteps = 3
/** Of the limit, so much is left to whatever else there is. */
const spare = 0.05
/** A proving step that would take longer is made of fewer rows. */
const longestProof = 60
const tries = 4

/** A batch and the most memory that a step of it took. */
interface Measured {
  readonly batch: number
  readonly bytes: number
}

/** The batch at which the line through two measurements reaches the limit. */
export const reach = (few: Measured, many: Measured, limit: number): number => {
  const perRow = Math.max(1, (many.bytes - few.bytes) / Math.max(1, many.batch - few.batch))
  return Math.max(0, many.batch + Math.floor((limit - many.bytes) / perRow))
}

const freeBytes = (folder: string): Effect.Effect<number | null> =>
  Effect.promise(async () => {
    for (let path = resolve(folder); ; path = dirname(path)) {
      const found = await fs.statfs(path).catch(() => undefined)
      if (found !== undefined) return found.bavail * found.bsize
      if (dirname(path) === path) return null
    }
  })

/** What a training would take. */
export const plan = (options: PlanOptions): Effect.Effect<PlanReport, ChatlmError> =>
  Effect.gen(function* () {
    const { kind, maxMemory, batchOnly = false } = options
    const config = options.config as Config
    const chosen = options.device ?? (yield* ChosenDevice)
    const prober = yield* Prober
    const probe = (more: ProbeOptions) =>
      prober(kind, config, { ...more, ...(chosen === undefined ? {} : { device: chosen }) })

    const first = yield* probe({ batches: [1, Math.max(2, Math.min(4, config.batchSize))] })
    const [one, few] = first?.batches ?? []
    if (first === undefined || one === undefined || few === undefined) {
      return yield* Effect.fail(
        makeError(
          "CONFIG_INVALID",
          "not even a step of four rows fits into this machine's memory",
          "choose a smaller model, a shorter maxLength, recompute: true or adafactor",
          { field: "batchSize" }
        )
      )
    }
    const limit = maxMemory ?? first.availableBytes
    const bound = limit * (1 - spare)
    const onProcessor = first.device === "cpu"
    const small: Measured = { batch: one.batch, bytes: one.peakBytes }
    let known: Measured = { batch: few.batch, bytes: few.peakBytes }
    let verified = few.batch
    let perRow = few.seconds / few.batch

    // The configured batch: real steps, then one of the longest rows, unless that would go beyond the limit.
    const wouldFit = !onProcessor || reach(small, known, bound) >= config.batchSize
    let real: ProbeReport | undefined
    if (wouldFit) {
      const batches = [config.batchSize]
      real = yield* probe(batchOnly ? { batches } : { steps: countedSteps, batches })
      const longest = real?.batches[0]
      if (longest !== undefined) {
        if (longest.batch > known.batch) known = { batch: longest.batch, bytes: longest.peakBytes }
        verified = Math.max(verified, longest.batch)
        perRow = longest.seconds / longest.batch
      }
    }
    const fits = real !== undefined && (!onProcessor || known.bytes <= limit)
    const measured = real?.batches[0]

    let largest = yield* onProcessor
      ? Effect.gen(function* () {
          let wanted = Math.min(first.rows, reach(small, known, bound))
          for (let n = 0; n < tries && wanted > verified; n += 1) {
            const proof = Math.min(wanted, Math.max(verified, Math.floor(longestProof / perRow)))
            if (proof <= verified) break
            const found = (yield* probe({ batches: [proof] }))?.batches[0]
            if (found === undefined) {
              // Somebody else took the memory meanwhile, or the line bends.
              wanted = Math.floor(proof * 0.85)
              continue
            }
            known = { batch: proof, bytes: found.peakBytes }
            if (found.peakBytes <= limit) verified = proof
            const next = Math.min(first.rows, reach(small, known, bound))
            if (proof < wanted || found.peakBytes <= limit) {
              // Longer than proven by a line that is now a better one; never more than the first that held.
              return proof < wanted ? next : proof
            }
            wanted = next
          }
          return wanted
        })
      : Effect.gen(function* () {
          // What a device has left only a try can tell: double, then halve the gap.
          let [good, bad] = [verified, first.rows + 1]
          while (bad - good > Math.max(1, good / 8)) {
            const wanted = bad > first.rows ? Math.min(good * 2, first.rows) : Math.floor((good + bad) / 2)
            if (wanted <= good) break
            const found = (yield* probe({ batches: [wanted] }))?.batches[0]
            if (found === undefined) bad = wanted
            else good = wanted
          }
          verified = good
          return good
        })
    if (onProcessor && small.bytes > limit) largest = 0

    const source = real ?? first
    const tokensPerStep = Math.min(
      source.tokensPerRow * config.batchSize * config.gradientAccumulation,
      source.tokensPerRow * source.rows
    )
    const steps = real?.steps ?? []
    const seconds = steps.reduce((sum, step) => sum + step.seconds, 0)
    const tokens = steps.reduce((sum, step) => sum + step.tokens, 0)
    const rate = tokens > 0 && seconds > 0 ? tokens / seconds : null
    const left = Math.max(0, source.totalSteps - source.doneSteps)
    // The scores of the reference are one forward pass over all rows before the first step.
    const forward = steps.reduce((sum, step) => sum + step.forwardSeconds, 0)
    const isCompared = kind === "dpo" && (config.loss ?? "sigmoid") !== "simpo" && config.loss !== "orpo"
    const before =
      isCompared && source.doneSteps === 0 && tokens > 0
        ? (forward / tokens) * source.tokensPerRow * source.rows
        : 0
    // An evaluation writes its answers from a copy of the weights, where a step had its activations.
    const evaluation = onProcessor && config.valid !== null ? source.weightBytes : 0
    const fixed = source.openedBytes + source.gradientBytes
    const most = (bytes: number) => Math.max(bytes, fixed + evaluation)
    return {
      device: source.device,
      parameters: source.parameters,
      trainable: source.trainable,
      rows: source.rows,
      steps: source.totalSteps,
      stepsDone: source.doneSteps,
      tokensPerStep: Math.round(tokensPerStep),
      tokensLeft: Math.round(tokensPerStep * left),
      tokensPerSecond: rate,
      secondsPerStep: rate === null ? null : tokensPerStep / rate,
      secondsLeft: rate === null ? null : (tokensPerStep * left) / rate + before,
      weightBytes: source.weightBytes,
      gradientBytes: source.gradientBytes,
      optimizerBytes: source.optimizerBytes,
      activationBytes:
        measured === undefined || !onProcessor ? null : Math.max(0, measured.peakBytes - fixed),
      baseBytes: Math.max(0, source.openedBytes - source.weightBytes - source.optimizerBytes),
      memoryBytes:
        real === undefined || steps.length === 0 || !onProcessor ? null : most(real.stepsPeakBytes),
      longestMemoryBytes: measured === undefined || !onProcessor ? null : most(measured.peakBytes),
      limitBytes: limit,
      saveBytes: config.saveInBackground ? source.checkpointBytes : 0,
      checkpointBytes: source.checkpointBytes,
      diskBytes: source.checkpointBytes * (config.keep + 1) + source.exportBytes * 2,
      diskFreeBytes: yield* freeBytes(config.out),
      batchSize: config.batchSize,
      fits,
      largestBatch: largest,
      verifiedBatch: Math.min(verified, largest),
      longest: source.longest
    }
  })
