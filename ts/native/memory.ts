/**
 * The border's in-memory twin for tests: no file is read or written, answers are made up from the
 * options alone, so that the same call always answers the same.
 */
import type * as B from "./border.ts"

/** An error as the addon throws it. */
export const envelope = (code: string, message: string, help: string, context: object = {}): Error =>
  new Error(JSON.stringify({ code, message, help, context }))

class Token implements B.CancelToken {
  cancelled = false
  cancel(): void {
    this.cancelled = true
  }
}

const cancelled = () =>
  envelope("CANCELLED", "interrupted", "what was done is saved: run the same command again to go on")

/** A call that reports once, answers later, and heeds its token. */
const later =
  <Options, Report>(stage: string, answer: (options: Options) => Report): B.LongCall<Options, Report> =>
  async (options, onProgress, token) => {
    onProgress?.({ stage, done: 0, total: 1, unit: "rows" })
    await new Promise((done) => setImmediate(done))
    if (token?.cancelled) throw cancelled()
    onProgress?.({ stage, done: 1, total: 1, unit: "rows" })
    return answer(options)
  }

class MemoryTokenizer implements B.Tokenizer {
  readonly vocabSize = 0x110000
  encode(text: string): B.Encoded {
    const tokens = [...text]
    return { tokens, ids: tokens.map((token) => token.codePointAt(0) ?? 0) }
  }
  decode(ids: Array<number>): string {
    return ids.map((id) => String.fromCodePoint(id)).join("")
  }
}

/** Answers every prompt by repeating it. */
class MemoryGenerator implements B.Generator {
  readonly info: B.GeneratorInfo
  constructor(options: B.GeneratorOptions) {
    this.info = { model: options.model, vocabSize: 0x110000, parameters: 0 }
  }
  async generate(
    prompts: Array<string>,
    settings: B.GenerationSettings,
    _batch: number,
    onProgress?: B.OnProgress,
    token?: B.CancelToken | null
  ): Promise<Array<B.Answer>> {
    await new Promise((done) => setImmediate(done))
    if (token?.cancelled) throw cancelled()
    onProgress?.({ stage: "generate", done: prompts.length, total: prompts.length, unit: "answers" })
    const beams = (settings.beams ?? 1) > 1
    return prompts.flatMap((prompt) =>
      Array.from({ length: settings.answers ?? 1 }, (_, place) => ({
        prompt,
        response: `你说：${prompt}`,
        tokens: [...new MemoryTokenizer().encode(`你说：${prompt}`).ids, 1],
        finishReason: "stop",
        ...(beams ? { score: -place - 0.5 } : {})
      }))
    )
  }
  stream(prompt: string): B.TokenStream {
    let open = true
    const pieces = [..."你说：", ...prompt]
    return {
      close: () => {
        open = false
      },
      async *[Symbol.asyncIterator]() {
        let tokens = 0
        for (const text of pieces) {
          await new Promise((done) => setImmediate(done))
          if (!open) break
          tokens += 1
          yield { text, tokens, done: false }
        }
        yield { text: "", tokens, done: true, finishReason: open ? "stop" : "cancelled" }
      }
    }
  }
  close(): void {}
}

/** Answers every prompt by repeating it, a character a piece. */
class MemoryServing implements B.Serving {
  readonly info: B.GeneratorInfo
  private readonly generator: MemoryGenerator
  private readonly limits: B.ServingLimits
  private readonly numbers = { running: 0, answered: 0, cancelled: 0, refused: 0, tokens: 0 }
  constructor(options: B.GeneratorOptions, limits: B.ServingLimits) {
    this.generator = new MemoryGenerator(options)
    this.info = this.generator.info
    this.limits = limits
  }
  ask(prompt: string, settings: B.GenerationSettings): B.AnswerStream {
    const { generator, numbers } = this
    if (numbers.running >= (this.limits.waiting ?? 256)) {
      numbers.refused += 1
      throw envelope("QUEUE_FULL", "too many requests are waiting", "ask again a little later")
    }
    numbers.running += 1
    let open = true
    return {
      close: () => {
        open = false
      },
      async *[Symbol.asyncIterator]() {
        const answers = await generator.generate([prompt], settings, 1)
        let said = 0
        for await (const { text, tokens, done } of generator.stream(prompt)) {
          if (!open || done) break
          said = tokens
          yield { answer: 0, text, tokens }
        }
        numbers.running -= 1
        numbers.tokens += said
        numbers[open ? "answered" : "cancelled"] += 1
        const rest = answers.map(({ response }, place) => (place === 0 ? "" : response))
        const first = { ...answers[0], finishReason: open ? "stop" : "cancelled" } as B.Answer
        const end = {
          answers: [first, ...answers.slice(1)],
          rest,
          promptTokens: [...prompt].length + 1,
          cut: false,
          waited: 0,
          firstToken: 0.001,
          seconds: 0.002
        }
        yield { answer: 0, text: "", tokens: 0, end }
      }
    }
  }
  stats(): B.ServingStats {
    const { running, answered, cancelled, refused, tokens } = this.numbers
    const none = { waiting: 0, cacheBytes: 0, failed: 0, promptTokens: 0 }
    return {
      ...none,
      running,
      rows: running,
      answered,
      cancelled,
      refused,
      tokens,
      steps: tokens,
      rowsStepped: tokens
    }
  }
  close(): void {}
}

class MemoryRun implements B.TrainingRun {
  private step = 0
  private started = false
  private readonly total: number
  private readonly out: string
  private readonly token: B.CancelToken | null | undefined
  constructor(config: object, token: B.CancelToken | null | undefined) {
    const { maxSteps, out } = config as { maxSteps?: number | null; out?: string }
    this.total = maxSteps ?? 3
    this.out = out ?? "run"
    this.token = token
  }
  async advance(steps: number): Promise<Array<B.TrainEvent>> {
    const events: Array<B.TrainEvent> = []
    if (!this.started) {
      this.started = true
      events.push({
        type: "started",
        step: 0,
        totalSteps: this.total,
        parameters: 1000,
        trainable: 1000,
        skipped: []
      })
    }
    for (let n = 0; n < steps && this.step < this.total; n += 1) {
      await new Promise((done) => setImmediate(done))
      this.step += 1
      events.push({
        type: "step",
        step: this.step,
        epoch: this.step / this.total,
        loss: 1 / this.step,
        learningRate: 1e-4,
        gradNorm: 1,
        tokensPerSecond: 1000
      })
      if (this.token?.cancelled) return events
    }
    if (this.step >= this.total) events.push({ type: "finished", step: this.step, reason: "steps" })
    return events
  }
  async interrupt(): Promise<string | null> {
    return `${this.out}/checkpoints/step-${String(this.step).padStart(8, "0")}`
  }
  async close(): Promise<void> {}
}

/** Three rows a file; a writer forgets them. */
class MemoryRows implements B.RowReader {
  private readonly rows: Array<object>
  private open = true
  constructor({ inputs }: B.RowsOptions) {
    this.rows = inputs.flatMap((file) =>
      [0, 1, 2].map((row) => ({ file, row, fields: { prompt: `问${row}`, response: `答${row}` } }))
    )
  }
  async next(count: number): Promise<string> {
    await new Promise((done) => setImmediate(done))
    if (!this.open) throw cancelled()
    return JSON.stringify(this.rows.splice(0, count))
  }
  close(): void {
    this.open = false
  }
}

class MemoryTable implements B.RowWriter {
  private rows = 0
  async write(batch: string): Promise<void> {
    this.rows += (JSON.parse(batch) as ReadonlyArray<unknown>).length
  }
  async finish(): Promise<number> {
    return this.rows
  }
  async close(): Promise<void> {}
}

/** Holds between the calls of this process alone. */
const locked = new Set<string>()
const tryLock = (path: string): B.FileLock | null => {
  if (locked.has(path)) return null
  locked.add(path)
  return { release: () => locked.delete(path) }
}

/** A tokenizer of 40 tokens, one of them unknown, a text of six that does not come back. */
const memoryFigures = (folder: string) => ({
  folder,
  vocab_size: 100,
  tokens: 40,
  characters_per_token: 1.5,
  bytes_per_token: 4.5,
  unknown: {
    tokens: 1,
    share: 0.025,
    characters: 1,
    occurrences: 1,
    character_share: 1 / 60,
    frequent: [{ character: "龘", count: 1 }]
  },
  round_trip: {
    texts: 6,
    exact: 4,
    normalized: 1,
    failed: 1,
    failed_share: 1 / 6,
    reasons: { unknown: 1 },
    examples: [{ file: "a", row: 2, reason: "unknown", text: "龘", back: "[UNK]" }]
  },
  unused: { tokens: 50, of: 93, share: 50 / 93, first: ["▁"] },
  longest: [{ id: 99, text: "人工智能", characters: 4, uses: 2 }],
  scripts: [{ script: "Han", entries: 93, uses: 40, share: 1 }],
  tokens_per_row: {
    count: 3,
    min: 10,
    max: 20,
    mean: 40 / 3,
    quantiles: [{ q: 0.5, value: 10 }],
    histogram: [
      { from: 8, to: 16, count: 2 },
      { from: 16, to: 32, count: 1 }
    ]
  }
})

export const memoryBorder = (): B.Border => ({
  CancelToken: Token,
  clean: later("read", () => ({
    read: 3,
    kept: 2,
    dropped: { short: 1 },
    broken: 0,
    undecodable: 0,
    seconds: 0.5
  })),
  dedup: later("verify", () => ({
    rows: 3,
    kept: 2,
    duplicates: 1,
    contaminated: 0,
    clusters: 1,
    seconds: 0.5,
    peakRssBytes: 1024
  })),
  merge: later("read", () => ({ rows: 3, broken: 0, seconds: 0.5 })),
  corpus: later("read", () => ({ rows: 3, broken: 0, seconds: 0.5 })),
  split: later("read", (options) => ({
    rows: 100,
    train: Math.round(options.train * 100),
    valid: Math.round(options.valid * 100),
    test: Math.round(options.test * 100),
    broken: 0,
    seconds: 0.5
  })),
  inspect: later("read", (options) => ({
    rows: 3,
    columns: [
      { name: "prompt", kind: "text" },
      { name: "response", kind: "text" }
    ],
    lengths: [{ column: "prompt", min: 1, max: 3, mean: 2, buckets: [{ upTo: 4, rows: 3 }] }],
    samples: Array.from({ length: Math.min(3, options.rows) }, (_, row) => ({
      prompt: `问${row}`,
      response: `答${row}`
    }))
  })),
  PromptReader: {
    open: ({ inputs }) => {
      const prompts = inputs.flatMap((path) => [`${path} 问0`, `${path} 问1`, `${path} 问2`])
      return { next: async (count) => prompts.splice(0, count) }
    }
  },
  RowReader: { open: (options) => new MemoryRows(options) },
  RowWriter: { create: () => new MemoryTable() },
  FileLock: { tryAcquire: tryLock },
  trainTokenizer: later("merge", (options) => ({
    vocabSize: options.vocabSize,
    merges: options.vocabSize - 7,
    texts: 3,
    seconds: 0.5,
    peakRssBytes: 1024
  })),
  tokenizerReport: later("report", ({ inputs, tokenizers }) => ({
    kind: "tokenizer",
    version: 1,
    inputs,
    rows: 3,
    texts: 6,
    characters: 60,
    bytes: 180,
    scripts: [{ script: "Han", characters: 60, share: 1 }],
    tokenizers: tokenizers.map(memoryFigures),
    seconds: 0.5
  })),
  retrainTokenizer: later("merge", ({ vocabSize = 29_298 }) => ({
    vocabSize,
    merges: vocabSize - 7,
    texts: 3,
    seconds: 0.5,
    peakRssBytes: 1024
  })),
  tokenizerFromWords: later("merge", () => ({
    vocabSize: 100,
    merges: 60,
    texts: 3,
    words: 80,
    kept: 50,
    seconds: 0.5,
    peakRssBytes: 1024
  })),
  importTokenizer: later("import", () => ({ model: "bpe", vocabSize: 100, merges: 60, added: ["<pad>"] })),
  extendTokenizer: later("extend", ({ tokens, model }) => ({
    vocabSize: 100 + tokens.length,
    added: tokens.length,
    rows: model === undefined ? 0 : 100 + tokens.length
  })),
  Tokenizer: { load: () => new MemoryTokenizer() },
  TrainingRun: {
    open: async (_kind, config, _options, _onProgress, token) => new MemoryRun(config, token)
  },
  verifyResume: async () => ({ equal: true, parts: { weights: true, optimizer: true, cursor: true } }),
  planProbe: async (_kind, config, { steps = 0, batches = [] }) => ({
    device: "cpu",
    parameters: 1000,
    trainable: 1000,
    rows: 160,
    totalSteps: (config as { maxSteps?: number | null }).maxSteps ?? 10,
    doneSteps: 0,
    tokensPerRow: 20,
    longest: [30, 40],
    weightBytes: 4000,
    gradientBytes: 4000,
    optimizerBytes: 8000,
    checkpointBytes: 12_000,
    exportBytes: 4000,
    availableBytes: 2 ** 30,
    openedBytes: 2 ** 20,
    steps: Array.from({ length: steps }, () => ({ seconds: 0.5, forwardSeconds: 0.2, tokens: 320 })),
    batches: batches.map((batch) => ({ batch, seconds: batch / 10, peakBytes: 2 ** 20 * (2 + batch) })),
    stepsPeakBytes: steps > 0 ? 2 ** 20 * 3 : 0
  }),
  Generator: { load: async (options) => new MemoryGenerator(options) },
  Serving: { load: async (options, limits) => new MemoryServing(options, limits) },
  reject: later("generate", () => ({
    rows: 3,
    kept: 2,
    same: 1,
    empty: 0,
    similar: 0,
    broken: 0,
    resumed: 0,
    seconds: 0.5
  })),
  unmergeLora: later("merge", () => ({ maxLogitDifference: 1e-6, merged: 4 })),
  mergeLora: later("merge", () => ({ maxLogitDifference: 1e-6, merged: 4 })),
  exportModel: later("export", ({ dtype }) => ({ dtype, bytes: 1000, seconds: 0.1 })),
  evaluateBleu: later("generate", () => ({ bleu4: 0.5, rows: 3 })),
  evaluatePerplexity: later("evaluate", () => ({ perplexity: Math.E, loss: 1, tokens: 10 })),
  benchTrainStep: later("bench", ({ batch, source, target, steps }) => ({
    secondsPerStep: 0.5,
    forward: 0.125,
    backward: 0.25,
    update: 0.125,
    peakRssBytes: 1024 ** 2,
    tokensPerSecond: (batch * (source + target)) / 0.5,
    cpu: "plain",
    loss: Array.from({ length: steps }, (_, step) => 1 / (step + 1))
  })),
  benchGenerate: later("bench", ({ batch, tokens }) => ({
    tokensPerSecond: (batch * tokens) / 0.5,
    firstTokenSeconds: 0.125,
    loadSeconds: 0.25,
    peakRssBytes: 1024 ** 2,
    cpu: "plain"
  })),
  benchEncode: later("bench", ({ rounds }) => ({
    tokensPerSecond: 2000,
    charactersPerSecond: 3000,
    bytesPerSecond: 9000,
    texts: 3,
    tokens: 40 * rounds,
    peakRssBytes: 1024 ** 2,
    cpu: "plain"
  })),
  benchLoad: later("bench", ({ batch, batches }) => ({
    rowsPerSecond: (batch * batches) / 0.5,
    tokensPerSecond: (batch * batches * 100) / 0.5,
    paddingShare: 0.0625,
    peakRssBytes: 1024 ** 2,
    openSeconds: 0.125,
    firstBatchSeconds: 0.25,
    rows: batch * batches,
    cpu: "plain"
  })),
  doctor: () => ({
    version: "0.1.0",
    cpu: "plain",
    features: [],
    threads: 2,
    devices: ["cpu"],
    memoryBytes: 1024,
    peakRssBytes: 512
  }),
  checkDevice: (device) => {
    const names = device.split(",")
    if (names.every((name) => name === "cpu")) return
    if (!names.every((name) => /^(cpu|cuda(:\d+)?|metal)$/.test(name))) {
      throw envelope("USAGE", `--device ${device} is no device`, "use cpu, cuda:N or metal", { device })
    }
    throw envelope("DEVICE_UNAVAILABLE", `this build has no device ${device}`, "use --device cpu", { device })
  },
  setThreads: () => {}
})
