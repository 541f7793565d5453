/**
 * The whole story: from raw text to a model that recites Tang and Song poems. Read it from top to bottom;
 * every line is a stage whose result is kept until something before it changes.
 *
 *     npx chatlm run examples/quickstart/pipeline.ts
 */
import {
  clean,
  dedup,
  dpo,
  evaluate,
  exportModel,
  given,
  merge,
  pipeline,
  pretrain,
  reject,
  sft,
  source,
  split,
  tokenizer,
  untrained
} from "chatlm/pipeline"

import { answers } from "./answers.ts"
import { fetchPoetry, makeRows, pinned, writeRows } from "./poetry.ts"

export interface QuickstartOptions {
  /** The user's own rows with `prompt` and `response` instead of the poems. */
  readonly data?: string | undefined
  readonly seed?: number
  readonly exportTo?: string
}

/** A T5 of 5 million parameters, most of them in the matrices, not in the vocabulary. */
const model = {
  d_model: 256,
  d_kv: 64,
  d_ff: 1024,
  num_heads: 4,
  num_layers: 3,
  num_decoder_layers: 3,
  feed_forward_proj: "relu",
  tie_word_embeddings: true
}

const sizes = { poems: 2400, famous: 320 }

/** Raw rows: from poems, or from the user's file for both trainings. */
const rawRows = (data: string | undefined) => {
  if (data !== undefined) {
    const rows = given("rows", data)
    return { reading: rows, famous: rows, columns: { promptColumn: "prompt", responseColumn: "response" } }
  }
  const poems = source({
    name: "poems",
    version: 3,
    settings: { ...pinned, ...sizes },
    kind: "rows",
    files: { reading: "reading.jsonl", famous: "famous.jsonl" },
    make: async ({ paths, signal }) => {
      const rows = await makeRows(await fetchPoetry(signal), sizes, signal)
      await writeRows(paths.reading, rows.reading)
      await writeRows(paths.famous, rows.famous)
      return { rows: { reading: rows.reading.length, famous: rows.famous.length } }
    }
  })
  return { ...poems, columns: { promptColumn: "question", responseColumn: "answer" } }
}

export const quickstart = ({ data, seed = 23_333, exportTo = "model_save" }: QuickstartOptions = {}) => {
  const raw = rawRows(data)

  // Data: what the model reads, and what it is to know by heart.
  const readable = clean({ from: raw.reading, source: "pairs", ...raw.columns })
  const famous = clean({
    name: "clean-famous",
    from: raw.famous,
    source: "pairs",
    purpose: "sft",
    ...raw.columns
  })
  const { train, valid, test } = split({
    from: dedup({ from: readable }),
    train: 0.94,
    valid: 0.03,
    test: 0.03,
    seed
  })
  const words = tokenizer({ from: [train, famous], model: "char-bpe", vocabSize: 4096, minFrequency: 12 })

  // Pre-training: the language of poems, from random weights.
  const begin = untrained({ tokenizer: words, train, config: { model, seed } })
  const base = pretrain({
    tokenizer: words,
    train,
    valid,
    config: {
      model,
      seed,
      maxSteps: 400,
      batchSize: 32,
      learningRate: 2e-3,
      schedule: "cosine",
      warmupSteps: 20,
      maxLength: 96,
      dropout: 0,
      evalEvery: 100,
      samples: 2,
      bleuRows: 0,
      saveEvery: 100,
      keep: 2
    }
  })
  const before = evaluate({ name: "evaluate-untrained", model: begin, rows: valid, maxLength: 96, batch: 32 })
  const middle = evaluate({ name: "evaluate-pretrained", model: base, rows: valid, maxLength: 96, batch: 32 })

  // Fine-tuning: the best-known poems, word for word.
  const tuned = sft({
    model: base,
    train: famous,
    config: {
      seed,
      freeze: [],
      maxSteps: 380,
      batchSize: 32,
      learningRate: 2e-3,
      schedule: "cosine",
      warmupSteps: 20,
      maxLength: 96,
      dropout: 0,
      saveEvery: 100,
      keep: 2
    }
  })

  // Alignment: the true text is to be preferred to what the model makes up.
  const preferences = reject({ model: tuned, from: test, maxNewTokens: 96, batch: 32 })
  const adapter = dpo({
    model: tuned,
    train: preferences,
    config: {
      seed,
      epochs: 2,
      batchSize: 8,
      gradientAccumulation: 1,
      learningRate: 2e-4,
      schedule: "linear",
      warmupSteps: 2,
      beta: 0.1,
      maxLength: 96,
      dropout: 0,
      saveEvery: 20,
      keep: 2,
      lora: { r: 8, alpha: 16, dropout: 0, targets: ["q", "v"] }
    }
  })
  const merged = merge({ model: tuned, adapter })

  // How good it became, ten answers, and a folder to chat with.
  const recited = evaluate({
    name: "evaluate-famous",
    model: base,
    rows: famous,
    perplexity: true,
    bleu: true,
    limit: 64,
    maxLength: 96,
    maxNewTokens: 96,
    batch: 32
  })
  const final = evaluate({
    name: "evaluate",
    model: merged,
    rows: famous,
    perplexity: true,
    bleu: true,
    maxLength: 96,
    maxNewTokens: 96,
    batch: 32
  })
  const shown = answers({ model: tuned, adapter, merged, rows: famous, seed, count: 10 })
  const saved = exportModel({ model: merged, to: exportTo })

  return pipeline("quickstart", {
    words,
    before,
    base,
    middle,
    recited,
    tuned,
    adapter,
    merged,
    final,
    shown,
    saved
  })
}

export default quickstart()
