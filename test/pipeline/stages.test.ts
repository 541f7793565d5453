/** The stages of this program, wired into a whole chain over a core that only writes down what it is asked. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"

import { describe, expect, it } from "vitest"

import { memoryBorder } from "../../ts/native/index.ts"
import type { Border } from "../../ts/native/index.ts"
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
} from "../../ts/pipeline/index.ts"
import { newRoot, run, states } from "./support.ts"

/** Each call's name and options; a test looks only at the keys that it knows of. */
// oxlint-disable-next-line typescript/no-explicit-any -- options of different calls in one list
type Calls = Array<readonly [string, Record<string, any>]>

interface TableCall {
  readonly inputs: ReadonlyArray<string>
  readonly output: string
  readonly rejects?: string
  readonly clusters?: string
  readonly report?: string
}

/** Writes the options of each call where its result would be. */
const writing = (calls: Calls = []): Partial<Border> => {
  const memory = memoryBorder()
  const write = (path: string, text: string) => {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text)
  }
  const table = <Name extends "clean" | "dedup" | "reject">(name: Name): Border[Name] =>
    (async (options: TableCall, ...rest: []) => {
      calls.push([name, options])
      write(options.output, `${name} of ${options.inputs.map((path) => readFileSync(path, "utf8")).join()}`)
      for (const path of [options.rejects, options.clusters, options.report])
        if (path !== undefined) write(path, name)
      return (memory[name] as unknown as (options: TableCall) => Promise<unknown>)(options, ...rest)
    }) as unknown as Border[Name]
  const folder = (path: string, file: string, text: string) => write(join(path, file), text)
  return {
    clean: table("clean"),
    dedup: table("dedup"),
    reject: table("reject"),
    split: async (options, ...rest) => {
      calls.push(["split", options])
      for (const part of ["train", "valid", "test"])
        folder(
          options.output,
          `${part}.parquet`,
          `${part} of ${readFileSync(options.inputs[0] ?? "", "utf8")}`
        )
      return memory.split(options, ...rest)
    },
    trainTokenizer: async (options, ...rest) => {
      calls.push(["tokenizer", options])
      folder(
        options.output,
        "tokenizer.json",
        options.inputs.map((path) => readFileSync(path, "utf8")).join()
      )
      return memory.trainTokenizer(options, ...rest)
    },
    TrainingRun: {
      open: async (kind, given, options, onProgress, cancel) => {
        const config = given as { readonly out: string; readonly lora?: object }
        calls.push([kind, config])
        const inner = await memory.TrainingRun.open(kind, config, options, onProgress, cancel)
        return {
          advance: async (steps) => {
            const events = await inner.advance(steps)
            if (events.some(({ type }) => type === "finished")) {
              for (const name of ["best", "last"])
                folder(
                  join(config.out, name),
                  "model.safetensors",
                  `${kind} ${JSON.stringify(config.lora ?? null)}`
                )
              folder(config.out, "metrics.jsonl", `{"step":1,"loss":${Math.random()}}\n`)
            }
            return events
          },
          interrupt: () => inner.interrupt(),
          close: () => inner.close()
        }
      }
    },
    mergeLora: async (options, ...rest) => {
      calls.push(["merge", options])
      folder(options.output, "model.safetensors", "merged")
      return memory.mergeLora(options, ...rest)
    }
  }
}

const chain = (target: string, raw?: string) => {
  const { rows } =
    raw === undefined
      ? source({
          version: 1,
          kind: "rows",
          files: { rows: "rows.jsonl" },
          make: async ({ paths }) => writeFileSync(paths.rows, "{}\n")
        })
      : { rows: given("rows", raw) }
  const { train, valid, test } = split({ from: dedup({ from: clean({ from: rows, source: "pairs" }) }) })
  const words = tokenizer({ from: train, vocabSize: 100 })
  const begin = untrained({ tokenizer: words, train, config: { model: { d_model: 8 } } })
  const base = pretrain({
    tokenizer: words,
    train,
    valid,
    config: { model: { d_model: 8 }, maxSteps: 30, threads: 1 }
  })
  const tuned = sft({ model: base, train, valid })
  const adapter = dpo({ model: tuned, train: reject({ model: tuned, from: test }), config: { lora: {} } })
  const merged = merge({ model: tuned, adapter })
  return pipeline("chain", {
    before: evaluate({ name: "evaluate-before", model: begin, rows: valid }),
    report: evaluate({ model: merged, rows: valid, bleu: true, limit: 3 }),
    saved: exportModel({ model: merged, to: target })
  })
}

describe("the stages of this program", () => {
  it("run as a chain, keep their results, and write the model where it is wanted", async () => {
    const root = newRoot()
    const target = join(root, "model_save")
    mkdirSync(target)
    writeFileSync(join(target, "README.md"), "stays")
    const calls: Calls = []
    const result = await run(root, chain(target), {}, writing(calls))
    expect(Object.values(states(result))).toEqual(Array.from({ length: 14 }, () => "done"))
    expect(calls.map(([name]) => name)).toEqual([
      "clean",
      "dedup",
      "split",
      "tokenizer",
      "pretrain",
      "pretrain",
      "sft",
      "reject",
      "dpo",
      "merge"
    ])
    const of = (name: string) => calls.findLast(([called]) => called === name)?.[1] ?? {}
    expect(of("pretrain")).toMatchObject({
      maxSteps: 30,
      threads: 1,
      learningRate: 1e-4,
      model: { d_model: 8 }
    })
    expect(of("pretrain").train[0].paths[0]).toBe(join(result.stages[3]?.folder ?? "", "train.parquet"))
    // A model's folder holds its tokenizer, and fine-tuning freezes half of it unless told otherwise.
    expect(of("sft")).toMatchObject({ tokenizer: of("sft").model, freeze: ["embedding", "encoder"] })
    expect(of("dpo").lora).toMatchObject({ r: 16 })
    expect(result.stages.find(({ stage }) => stage === "evaluate")?.manifest?.figures).toMatchObject({
      loss: 1,
      bleu4: 0.5
    })
    expect(readFileSync(join(target, "model.safetensors"), "utf8")).toBe("merged")
    expect(readFileSync(join(target, "README.md"), "utf8")).toBe("stays")
    // Metrics with their times are kept, but decide nothing.
    const dpoFolder = result.stages.find(({ stage }) => stage === "dpo")?.folder ?? ""
    expect(existsSync(join(dpoFolder, "records/metrics.jsonl"))).toBe(true)
    expect(existsSync(join(dpoFolder, "adapter/model.safetensors"))).toBe(true)
    expect(new Set(Object.values(states(await run(root, chain(target), {}, writing()))))).toEqual(
      new Set(["kept"])
    )
    // The exported folder is part of what is done.
    rmSync(join(target, "model.safetensors"))
    const again = await run(root, chain(target), {}, writing())
    expect(again.stages.filter(({ state }) => state === "done").map(({ stage }) => stage)).toEqual(["export"])
  })

  it("training settings that change no result do not train again; others do, with all that follows", async () => {
    const root = newRoot()
    const make = (config: object) => {
      const rows = given("pairs", import.meta.filename)
      const words = tokenizer({ from: rows })
      return pipeline("p", {
        tuned: sft({ model: pretrain({ tokenizer: words, train: rows, config }), train: rows })
      })
    }
    await run(root, make({ maxSteps: 5 }), {}, writing())
    expect(
      states(await run(root, make({ maxSteps: 5, threads: 2, saveEvery: 7 }), {}, writing()))
    ).toMatchObject({ pretrain: "kept" })
    const changed = await run(root, make({ maxSteps: 6 }), {}, writing())
    // The twin's weights do not depend on the steps, so the chain stops there.
    expect(states(changed)).toEqual({ tokenizer: "kept", pretrain: "done", sft: "kept" })
  })

  it("a wrong key is found before anything runs", async () => {
    const rows = given("pairs", import.meta.filename)
    const config = { lerningRate: 1 } as object
    const calls: Calls = []
    const what = pipeline("p", {
      base: pretrain({ tokenizer: tokenizer({ from: rows }), train: rows, config })
    })
    await expect(run(newRoot(), what, {}, writing(calls))).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      help: expect.stringContaining("learningRate")
    })
    expect(calls).toEqual([])
  })

  it("does not replace a model that no pipeline wrote", async () => {
    const root = newRoot()
    const target = join(root, "mine")
    mkdirSync(target)
    writeFileSync(join(target, "model.safetensors"), "weeks of work")
    const calls: Calls = []
    await expect(run(root, chain(target), {}, writing(calls))).rejects.toMatchObject({
      code: "TARGET_EXISTS"
    })
    expect(calls).toEqual([])
    expect(readFileSync(join(target, "model.safetensors"), "utf8")).toBe("weeks of work")
  })

  it("--sample cuts what comes in and the steps, and leaves whole results alone", async () => {
    const root = newRoot()
    const target = join(root, "model_save")
    const calls: Calls = []
    const sampled = await run(root, chain(target, import.meta.filename), { sample: true }, writing(calls))
    expect(sampled.stages[0]?.stage).toBe("sample-1")
    expect(calls.find(([name]) => name === "sft")?.[1]).toMatchObject({ maxSteps: 20 })
    const whole = await run(root, chain(target, import.meta.filename), { until: "clean" }, writing())
    expect(states(whole)).toEqual({ clean: "done" })
  })

  it("two stages of one name are refused", () => {
    const rows = given("pairs", import.meta.filename)
    expect(() =>
      pipeline("p", { a: dedup({ from: rows }), b: dedup({ from: rows, threshold: 0.5 }) })
    ).toThrow(/two stages/)
  })
})
