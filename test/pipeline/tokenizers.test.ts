/** Each way to a tokenizer as a stage: what it asks of the core, and that it is kept by what decides it. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import { describe, expect, it } from "vitest"

import { memoryBorder } from "../../ts/native/index.ts"
import type { Border } from "../../ts/native/index.ts"
import {
  extend,
  fromWords,
  given,
  importTokenizer,
  pipeline,
  retrain,
  tokenizer
} from "../../ts/pipeline/index.ts"
import type { Tokenizer } from "../../ts/pipeline/index.ts"
import { newRoot, run, states } from "./support.ts"

type Way =
  | "trainTokenizer"
  | "tokenizerFromWords"
  | "retrainTokenizer"
  | "importTokenizer"
  | "extendTokenizer"

/** Writes down each call, and a folder that holds its options. */
const writing = (calls: Array<readonly [Way, object]>): Partial<Border> => {
  const memory = memoryBorder()
  const wrapped = <Name extends Way>(name: Name): Border[Name] =>
    (async (options: { readonly output: string }, ...rest: []) => {
      calls.push([name, options])
      mkdirSync(options.output, { recursive: true })
      writeFileSync(join(options.output, "tokenizer.json"), JSON.stringify([name, Object.keys(options)]))
      return (memory[name] as unknown as (options: object) => Promise<unknown>)(options, ...rest)
    }) as unknown as Border[Name]
  return {
    trainTokenizer: wrapped("trainTokenizer"),
    tokenizerFromWords: wrapped("tokenizerFromWords"),
    retrainTokenizer: wrapped("retrainTokenizer"),
    importTokenizer: wrapped("importTokenizer"),
    extendTokenizer: wrapped("extendTokenizer")
  }
}

const rows = () => given("rows", import.meta.filename)

const ways: Record<string, { make: () => Tokenizer; call: Way; asks: object; figures: object }> = {
  "words of a dictionary": {
    make: () => fromWords({ from: rows(), minCount: 9 }),
    call: "tokenizerFromWords",
    asks: { inputs: [import.meta.filename], minCount: 9, force: true },
    figures: { words: 80, kept: 50 }
  },
  "an old pipeline": {
    make: () => retrain({ tokenizer: given("tokenizer", import.meta.dirname), from: rows(), vocabSize: 50 }),
    call: "retrainTokenizer",
    asks: { from: import.meta.dirname, vocabSize: 50, minFrequency: 0 },
    figures: { vocabSize: 50 }
  },
  "pieces with bytes": {
    make: () => tokenizer({ from: rows(), model: "sentencepiece-bpe", vocabSize: 400 }),
    call: "trainTokenizer",
    asks: { model: "sentencepiece-bpe", vocabSize: 400, minFrequency: 100 },
    figures: { vocabSize: 400 }
  },
  "a SentencePiece file": {
    make: () => importTokenizer({ file: given("tokenizer", import.meta.filename) }),
    call: "importTokenizer",
    asks: { file: import.meta.filename },
    figures: { vocabSize: 100 }
  },
  "more tokens": {
    make: () => extend({ to: given("tokenizer", import.meta.dirname), tokens: ["量子", "力学"] }),
    call: "extendTokenizer",
    asks: { tokenizer: import.meta.dirname, tokens: ["量子", "力学"] },
    figures: { added: 2, rows: 0 }
  }
}

describe("ways to a tokenizer", () => {
  for (const [name, { make, call, asks, figures }] of Object.entries(ways))
    it(name, async () => {
      const root = newRoot()
      const calls: Array<readonly [Way, object]> = []
      const done = await run(root, pipeline("p", { words: make() }), {}, writing(calls))
      expect(calls).toEqual([[call, expect.objectContaining(asks)]])
      expect(done.stages.at(-1)?.manifest?.figures).toMatchObject(figures)
      const again = await run(root, pipeline("p", { words: make() }), {}, writing(calls))
      expect(Object.values(states(again))).toEqual(["kept"])
      expect(calls).toHaveLength(1)
    })

  it("a model is extended with its tokenizer, and other tokens are other work", async () => {
    const root = newRoot()
    const calls: Array<readonly [Way, object]> = []
    const make = (tokens: ReadonlyArray<string>) =>
      pipeline("p", { larger: extend({ to: given("model", import.meta.dirname), tokens }) })
    const done = await run(root, make(["量子"]), {}, writing(calls))
    expect(calls[0]?.[1]).toMatchObject({ model: import.meta.dirname, tokens: ["量子"] })
    expect(done.stages.at(-1)?.manifest?.figures).toMatchObject({ rows: 101 })
    expect(states(await run(root, make(["力学"]), {}, writing(calls)))).toEqual({ extend: "done" })
  })
})
