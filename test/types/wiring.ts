/**
 * What must not compile. Each expected error is one; a line that compiles after all fails the type check.
 * Nothing here runs.
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
  stage,
  tokenizer
} from "../../ts/pipeline/index.ts"
import type {
  Adapter,
  Model,
  Pairs,
  PreferencePairs,
  Report,
  Rows,
  Tokenizer
} from "../../ts/pipeline/index.ts"

export const wired = () => {
  const { raw } = source({ version: 1, kind: "rows", files: { raw: "raw.jsonl" }, make: async () => {} })
  const isRows: Rows = raw
  const rows: Pairs = clean({ from: isRows, source: "pairs" })
  const preferences: PreferencePairs = clean({ name: "c2", from: raw, source: "alpaca", purpose: "dpo" })
  const { train, valid } = split({ from: dedup({ from: rows }) })
  const words: Tokenizer = tokenizer({ from: [train, raw] })
  const base: Model = pretrain({ tokenizer: words, train, valid, config: { maxSteps: 3 } })
  const tuned: Model = sft({ model: base, train: [train, { rows: valid, weight: 2 }] })
  const tunedAdapter: Adapter = sft({ name: "s2", model: base, train, config: { lora: { r: 4 } } })
  const pairs: PreferencePairs = reject({ model: tuned, adapter: tunedAdapter, from: train })
  const adapter: Adapter = dpo({ model: tuned, train: pairs, config: { lora: {} } })
  const whole: Model = dpo({ name: "d2", model: tuned, train: pairs })
  const merged: Model = merge({ model: tuned, adapter })
  const report: Report = evaluate({ model: merged, rows: valid })
  const exported = exportModel({ model: merged, to: "model_save" })

  // @ts-expect-error a tokenizer is no data set
  dedup({ from: words })
  // @ts-expect-error raw rows have no prompt and response yet
  split({ from: raw })
  // @ts-expect-error a data set is no tokenizer
  pretrain({ tokenizer: train, train })
  // @ts-expect-error a model is no tokenizer
  pretrain({ tokenizer: base, train })
  // @ts-expect-error preference pairs are for dpo
  sft({ model: base, train: preferences })
  // @ts-expect-error dpo wants preference pairs
  dpo({ model: base, train })
  // @ts-expect-error also with a weight
  dpo({ model: base, train: [{ rows: train, weight: 1 }] })
  // @ts-expect-error an adapter is no model
  sft({ model: adapter, train })
  // @ts-expect-error a model is no adapter
  merge({ model: tuned, adapter: whole })
  // @ts-expect-error an adapter is not exported as a model
  exportModel({ model: adapter, to: "model_save" })
  // @ts-expect-error a report is no model
  evaluate({ model: report, rows: valid })
  // @ts-expect-error the stage wires the tokenizer, not the configuration
  pretrain({ tokenizer: words, train, config: { tokenizer: "somewhere" } })
  // @ts-expect-error no such key
  sft({ model: base, train, config: { learningrate: 1 } })
  // @ts-expect-error without lora dpo makes a model
  const notAnAdapter: Adapter = dpo({ name: "d3", model: tuned, train: pairs, config: { beta: 1 } })
  // @ts-expect-error an artifact is made by a stage, not by hand
  const forged: Model = { kind: "model", origin: { type: "given", path: "x" } }
  // @ts-expect-error no such kind
  given("models", "x")
  // @ts-expect-error a pipeline is made of artifacts
  pipeline("p", { exported: "model_save" })

  const own = stage({
    name: "own",
    version: 1,
    inputs: { model: merged },
    outputs: { answers: { kind: "report", path: "answers.jsonl" } },
    work: ({ inputs, outputs }) => {
      const paths: ReadonlyArray<string> = inputs.model
      // @ts-expect-error no such input
      void inputs.adapter
      // @ts-expect-error no such output
      void outputs.model
      throw new Error(`${paths[0]} ${outputs.answers}`)
    }
  })
  const answers: Report = own.answers
  // @ts-expect-error the stage has one output
  void own.model
  return [exported, answers, given("pairs", "mine.jsonl") satisfies Pairs, notAnAdapter, forged]
}
