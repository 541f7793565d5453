/**
 * The native core as an Effect service. Every long call reports its progress to `ProgressReporter`, is
 * cancelled when its fiber is interrupted (and waited for, so that nothing half-written is left), and
 * fails with the tagged errors of `errors.ts`. `Native.layer` is the addon, `Native.testLayer` its
 * in-memory twin: both are a `Border`, so tests run the same wrapping.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

import * as B from "./border.ts"
import type { ChatlmError } from "./errors.ts"
import { bug, fromBorder, isChatlmError } from "./errors.ts"
import { memoryBorder } from "./memory.ts"

/** Where progress goes; nowhere unless someone listens. */
export const ProgressReporter = Context.Reference<(progress: B.Progress) => void>(
  "chatlm/native/ProgressReporter",
  { defaultValue: () => () => {} }
)

/** The device of every call that computes and names none: `cpu`, `cuda:N`, `metal`; else the best there is. */
export const ChosenDevice = Context.Reference<string | undefined>("chatlm/native/ChosenDevice", {
  defaultValue: () => undefined
})

export interface Tokenizer {
  readonly vocabSize: number
  readonly encode: (text: string) => Effect.Effect<B.Encoded, ChatlmError>
  readonly decode: (ids: ReadonlyArray<number>) => Effect.Effect<string, ChatlmError>
}

export interface TrainingRun {
  /**
   * Runs up to `steps` optimizer steps and tells what happened. An interruption lets the running step end.
   */
  readonly advance: (steps: number) => Effect.Effect<ReadonlyArray<B.TrainEvent>, ChatlmError>
  /** Saves a checkpoint at the current step and answers its folder. */
  readonly interrupt: Effect.Effect<string | null, ChatlmError>
}

export interface Generator {
  readonly info: B.GeneratorInfo
  readonly generate: (
    prompts: ReadonlyArray<string>,
    settings: B.GenerationSettings,
    batch: number,
    /** How many prompts came before these (0 where left out). */
    first?: number
  ) => Effect.Effect<ReadonlyArray<B.Answer>, ChatlmError>
  readonly stream: (prompt: string, settings: B.GenerationSettings) => Stream.Stream<B.TextPiece, ChatlmError>
}

/** A request that was taken in. */
export interface Asked {
  readonly pieces: Stream.Stream<B.AnswerPiece, ChatlmError>
  /** Gives it up; for requests whose pieces nobody will read. */
  readonly close: Effect.Effect<void>
}

/** A loaded model that answers many requests at once. */
export interface Serving {
  readonly info: B.GeneratorInfo
  /**
   * Takes a request in; its news come as a stream, the last piece with its `end`. A consumer that stops gives the
   * request up within a step of the model. Fails with `QUEUE_FULL` where too many wait, with `USAGE` for settings
   * that make no sense.
   */
  readonly ask: (
    prompt: string,
    settings: B.GenerationSettings,
    options?: B.AskOptions
  ) => Effect.Effect<Asked, ChatlmError>
  readonly stats: Effect.Effect<B.ServingStats, ChatlmError>
}

/** A table that is being written; it is put in place by `finish` or, at the end of the scope, thrown away. */
export interface RowWriter {
  readonly write: (rows: ReadonlyArray<object>) => Effect.Effect<void, ChatlmError>
  /** Puts the table in place; the number of rows. */
  readonly finish: Effect.Effect<number, ChatlmError>
}

type Call<Options, Report> = (options: Options) => Effect.Effect<Report, ChatlmError>

export interface NativeService {
  readonly clean: Call<B.CleanOptions, B.CleanReport>
  readonly dedup: Call<B.DedupOptions, B.DedupReport>
  readonly merge: Call<B.TableOptions, B.TableReport>
  readonly corpus: Call<B.TableOptions, B.TableReport>
  readonly split: Call<B.SplitOptions, B.SplitReport>
  readonly inspect: Call<B.InspectOptions, B.Inspection>
  /** The prompts of rows, `count` at a time, in bounded memory. */
  readonly prompts: (
    options: B.PromptOptions,
    count: number
  ) => Stream.Stream<ReadonlyArray<string>, ChatlmError>
  /** Batches of up to `count` rows, each as JSON text; closed when the consumer stops. */
  readonly rows: (options: B.RowsOptions, count: number) => Stream.Stream<string, ChatlmError>
  readonly rowWriter: (options: B.RowWriterOptions) => Effect.Effect<RowWriter, ChatlmError, Scope.Scope>
  /** Takes a lock on a file that other processes honour (`flock`), or answers null. */
  readonly tryLock: (path: string) => Effect.Effect<B.FileLock | null, ChatlmError>
  readonly trainTokenizer: Call<B.TokenizerTrainOptions, B.TokenizerTrainReport>
  readonly retrainTokenizer: Call<B.TokenizerRetrainOptions, B.TokenizerTrainReport>
  readonly tokenizerFromWords: Call<B.TokenizerFromWordsOptions, B.TokenizerFromWordsReport>
  readonly importTokenizer: Call<B.TokenizerImportOptions, B.TokenizerImportReport>
  readonly extendTokenizer: Call<B.TokenizerExtendOptions, B.TokenizerExtendReport>
  /** The report as JSON, which `makeReport` of ts/report knows. */
  readonly tokenizerReport: Call<B.TokenizerReportOptions, unknown>
  readonly tokenizer: (folder: string) => Effect.Effect<Tokenizer, ChatlmError>
  /** Opens a run; it is closed with the scope, without saving. */
  readonly trainingRun: (
    kind: B.RunKind,
    config: object,
    options: B.TrainingRunOptions
  ) => Effect.Effect<TrainingRun, ChatlmError, Scope.Scope>
  readonly verifyResume: (
    kind: B.RunKind,
    config: object,
    options: B.VerifyResumeOptions
  ) => Effect.Effect<B.VerifyResumeReport, ChatlmError>
  /** Loads a model; it is freed with the scope. */
  readonly generator: (options: B.GeneratorOptions) => Effect.Effect<Generator, ChatlmError, Scope.Scope>
  /** Loads a model to answer many requests at once; it is freed with the scope, and what runs is given up. */
  readonly serving: (
    options: B.GeneratorOptions,
    limits: B.ServingLimits
  ) => Effect.Effect<Serving, ChatlmError, Scope.Scope>
  readonly reject: Call<B.RejectOptions, B.RejectReport>
  readonly unmergeLora: Call<B.UnmergeLoraOptions, B.MergeLoraReport>
  readonly mergeLora: Call<B.MergeLoraOptions, B.MergeLoraReport>
  readonly exportModel: Call<B.ExportModelOptions, B.ExportModelReport>
  readonly evaluateBleu: Call<B.BleuOptions, B.BleuReport>
  readonly evaluatePerplexity: Call<B.PerplexityOptions, B.PerplexityReport>
  /** Runs to its end: an interruption waits for it. */
  readonly benchTrainStep: Call<B.BenchTrainStepOptions, B.BenchTrainStepReport>
  readonly benchGenerate: Call<B.BenchGenerateOptions, B.BenchGenerateReport>
  readonly benchLoad: Call<B.BenchLoadOptions, B.BenchLoadReport>
  readonly benchEncode: Call<B.BenchEncodeOptions, B.BenchEncodeReport>
  readonly doctor: Effect.Effect<B.Doctor, ChatlmError>
  /** Fails for what is no device, and for one that this build has not. */
  readonly checkDevice: (device: string) => Effect.Effect<void, ChatlmError>
  readonly setThreads: (threads: number) => Effect.Effect<void, ChatlmError>
}

/** A promise of the border; an interruption sets `token` and waits until the core has stopped. */
const awaiting = <A>(token: B.CancelToken | undefined, start: () => Promise<A>) =>
  Effect.callback<A, ChatlmError>((resume) => {
    let settled: Promise<void>
    try {
      settled = start().then(
        (value) => resume(Effect.succeed(value)),
        (error: unknown) => resume(Effect.fail(fromBorder(error)))
      )
    } catch (error) {
      resume(Effect.fail(fromBorder(error)))
      return
    }
    return Effect.promise(() => {
      token?.cancel()
      return settled
    })
  })

/** Options with the chosen device, unless they name one. */
const onDevice = <Options extends { device?: string | undefined }>(options: Options) =>
  Effect.map(ChosenDevice, (device) =>
    device === undefined || options.device !== undefined ? options : { ...options, device }
  )

const immediate = <A>(call: () => A) => Effect.try({ try: call, catch: fromBorder })

const tokenizer = (raw: B.Tokenizer): Tokenizer => ({
  vocabSize: raw.vocabSize,
  encode: (text) => immediate(() => raw.encode(text)),
  decode: (ids) => immediate(() => raw.decode([...ids]))
})

const generator = (border: B.Border, raw: B.Generator): Generator => ({
  info: raw.info,
  generate: (prompts, settings, batch, first = 0) =>
    Effect.gen(function* () {
      const report = yield* ProgressReporter
      const token = new border.CancelToken()
      return yield* awaiting(token, () => raw.generate([...prompts], settings, batch, report, token, first))
    }),
  stream: (prompt, settings) =>
    Stream.unwrap(
      Effect.acquireRelease(
        immediate(() => raw.stream(prompt, settings)),
        (stream) => Effect.sync(() => stream.close())
      ).pipe(Effect.map((stream) => Stream.fromAsyncIterable(stream, fromBorder)))
    )
})

const serving = (raw: B.Serving): Serving => ({
  info: raw.info,
  ask: (prompt, settings, options = {}) =>
    immediate(() => raw.ask(prompt, settings, options)).pipe(
      Effect.map((stream) => {
        let open = true
        const close = Effect.sync(() => {
          if (open) stream.close()
          open = false
        })
        return { pieces: Stream.fromAsyncIterable(stream, fromBorder).pipe(Stream.ensuring(close)), close }
      })
    ),
  stats: immediate(() => raw.stats())
})

/** The service over any border. */
export const fromBorderModule = (load: () => Promise<B.Border>): NativeService => {
  let loaded: Promise<B.Border> | undefined
  const border = Effect.tryPromise({
    try: () => (loaded ??= load()),
    catch: (error) => (isChatlmError(error) ? error : bug(error))
  })
  /** One long call: load, listen, run, map the error. */
  const long = <A>(
    start: (border: B.Border, report: (progress: B.Progress) => void, token: B.CancelToken) => Promise<A>
  ) =>
    Effect.gen(function* () {
      const module = yield* border
      const report = yield* ProgressReporter
      const token = new module.CancelToken()
      return yield* awaiting(token, () => start(module, report, token))
    })
  type LongCalls = {
    [Name in keyof B.Border]: B.Border[Name] extends B.LongCall<infer _O, infer _R> ? Name : never
  }[keyof B.Border]
  const call =
    <Name extends LongCalls>(name: Name) =>
    (
      options: Parameters<B.Border[Name]>[0]
    ): Effect.Effect<Awaited<ReturnType<B.Border[Name]>>, ChatlmError> =>
      // All of them have the same shape; the compiler cannot tell that of a name it does not know.
      long((module, report, token) => (module[name] as any)(options, report, token))

  type DeviceCalls = {
    [Name in LongCalls]: Parameters<B.Border[Name]>[0] extends { device?: string } ? Name : never
  }[LongCalls]
  /** One that computes with a model. */
  const computing =
    <Name extends DeviceCalls>(name: Name) =>
    (options: Parameters<B.Border[Name]>[0]) =>
      Effect.flatMap(onDevice(options), call(name))

  return {
    clean: call("clean"),
    dedup: call("dedup"),
    merge: call("merge"),
    corpus: call("corpus"),
    split: call("split"),
    inspect: call("inspect"),
    prompts: (options, count) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const module = yield* border
          const reader = yield* immediate(() => module.PromptReader.open(options))
          // Not waited for when interrupted: a read leaves nothing half-done, and standard input may never come.
          const next = Effect.tryPromise({ try: () => reader.next(count), catch: fromBorder })
          return Stream.fromEffectRepeat(next).pipe(Stream.takeWhile((prompts) => prompts.length > 0))
        })
      ),
    rows: (options, count) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const module = yield* border
          const reader = yield* Effect.acquireRelease(
            immediate(() => module.RowReader.open(options)),
            (reader) => Effect.sync(() => reader.close())
          )
          // Not waited for when interrupted: closing ends a read, and standard input may never come.
          const next = Effect.tryPromise({ try: () => reader.next(count), catch: fromBorder })
          return Stream.fromEffectRepeat(next).pipe(Stream.takeWhile((batch) => batch !== "[]"))
        })
      ),
    rowWriter: (options) =>
      Effect.gen(function* () {
        const module = yield* border
        const writer = yield* Effect.acquireRelease(
          immediate(() => module.RowWriter.create(options)),
          // Waits for a write that is under way, so that no temporary file outlives the scope.
          (writer) => Effect.promise(() => writer.close())
        )
        return {
          write: (rows) => awaiting(undefined, () => writer.write(JSON.stringify(rows))),
          finish: awaiting(undefined, () => writer.finish())
        }
      }),
    tryLock: (path) => Effect.flatMap(border, (module) => immediate(() => module.FileLock.tryAcquire(path))),
    trainTokenizer: call("trainTokenizer"),
    retrainTokenizer: call("retrainTokenizer"),
    tokenizerFromWords: call("tokenizerFromWords"),
    importTokenizer: call("importTokenizer"),
    extendTokenizer: call("extendTokenizer"),
    tokenizerReport: call("tokenizerReport"),
    tokenizer: (folder) =>
      Effect.flatMap(border, (module) => immediate(() => tokenizer(module.Tokenizer.load(folder)))),
    trainingRun: (kind, config, options) =>
      Effect.gen(function* () {
        const module = yield* border
        const report = yield* ProgressReporter
        const chosen = yield* onDevice(options)
        // One token for the whole run: once set, every later step comes back early.
        const token = new module.CancelToken()
        const run = yield* Effect.acquireRelease(
          awaiting(token, () => module.TrainingRun.open(kind, config, chosen, report, token)),
          (run) => Effect.promise(() => run.close()),
          { interruptible: true }
        )
        return {
          advance: (steps) => awaiting(token, () => run.advance(steps)),
          interrupt: awaiting(undefined, () => run.interrupt())
        }
      }),
    verifyResume: (kind, config, options) =>
      Effect.flatMap(onDevice(options), (chosen) =>
        long((module, report, token) => module.verifyResume(kind, config, chosen, report, token))
      ),
    generator: (options) =>
      Effect.gen(function* () {
        const module = yield* border
        const chosen = yield* onDevice(options)
        const raw = yield* Effect.acquireRelease(
          long((_, report, token) => module.Generator.load(chosen, report, token)),
          (raw) => Effect.sync(() => raw.close()),
          { interruptible: true }
        )
        return generator(module, raw)
      }),
    serving: (options, limits) =>
      Effect.gen(function* () {
        const module = yield* border
        const chosen = yield* onDevice(options)
        const raw = yield* Effect.acquireRelease(
          long((_, report, token) => module.Serving.load(chosen, limits, report, token)),
          (raw) => Effect.sync(() => raw.close()),
          { interruptible: true }
        )
        return serving(raw)
      }),
    reject: computing("reject"),
    unmergeLora: call("unmergeLora"),
    mergeLora: call("mergeLora"),
    exportModel: call("exportModel"),
    evaluateBleu: computing("evaluateBleu"),
    evaluatePerplexity: computing("evaluatePerplexity"),
    benchTrainStep: computing("benchTrainStep"),
    benchGenerate: computing("benchGenerate"),
    benchLoad: call("benchLoad"),
    benchEncode: call("benchEncode"),
    doctor: Effect.flatMap(border, (module) => immediate(() => module.doctor())),
    checkDevice: (device) => Effect.flatMap(border, (module) => immediate(() => module.checkDevice(device))),
    setThreads: (threads) => Effect.flatMap(border, (module) => immediate(() => module.setThreads(threads)))
  }
}

export class Native extends Context.Service<Native, NativeService>()("chatlm/native/Native") {
  /** The addon; loaded at the first call. */
  static readonly layer: Layer.Layer<Native> = Layer.sync(Native, () => fromBorderModule(B.loadBorder))

  /** The in-memory twin; what is given replaces its functions. */
  static readonly testLayer = (overrides: Partial<B.Border> = {}): Layer.Layer<Native> =>
    Layer.sync(Native, () => fromBorderModule(async () => ({ ...memoryBorder(), ...overrides })))
}

/** Whether an exit is an interruption rather than an answer or an error. */
export const wasInterrupted = (exit: Exit.Exit<unknown, unknown>): boolean => Exit.hasInterrupts(exit)
