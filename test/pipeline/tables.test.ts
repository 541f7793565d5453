/** Stages over tables and hubs, run with the real core. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"

import { FetchSettings } from "../../ts/fetch/fetch.ts"
import { Native } from "../../ts/native/index.ts"
import {
  clean,
  corpus,
  fromPromise,
  fetch,
  given,
  inspect,
  Ledger,
  mergeRows,
  pipeline,
  reportPage,
  runPipeline,
  stage,
  through
} from "../../ts/pipeline/index.ts"
import type { Pipeline, RunOptions } from "../../ts/pipeline/index.ts"
import { newFolder, settingsFor, useHub } from "../fetch/support.ts"

const hub = useHub()

const run = async (what: Pipeline, options: RunOptions = {}) => {
  const root = newFolder()
  const result = await Effect.runPromise(
    runPipeline(what, options).pipe(
      Effect.provide(Ledger.layer(root)),
      Effect.provideService(FetchSettings, settingsFor(hub, root)),
      Effect.provide(Native.layer)
    )
  )
  return result.results
}

describe("stages over tables", () => {
  it("a data set from the hub, a step of one's own, joined, looked into, as text", async () => {
    hub.repositories.push({
      kind: "dataset",
      name: "owner/rows",
      files: {
        "data/a.jsonl": '{"prompt":" 一 ","response":"甲"}\n{"prompt":"","response":"乙"}\n',
        "data/b.jsonl": '{"prompt":"三","response":"丙"}\n',
        "README.md": "card"
      }
    })
    const rows = fetch({ kind: "pairs", from: "hf:datasets/owner/rows" })
    const trimmed = through({
      name: "trim",
      version: 1,
      kind: "pairs",
      from: rows,
      step: (stream) =>
        stream.pipe(
          Stream.map(({ fields }) => ({ ...fields, prompt: String(fields.prompt).trim() })),
          Stream.filter(({ prompt }) => prompt !== "")
        )
    })
    const all = mergeRows({ from: [trimmed, rows] })
    const what = pipeline("tables", { report: inspect({ from: all }), text: corpus({ from: trimmed }), all })
    const results = await run(what)
    const report = JSON.parse(readFileSync(results.report ?? "", "utf8"))
    expect(report).toMatchObject({
      rows: 5,
      samples: [{ prompt: "一", response: "甲" }, { prompt: "三" }, { prompt: " 一 " }, {}, {}]
    })
    expect(readFileSync(results.text ?? "", "utf8")).toBe("一[SEP]甲[SEP]\n三[SEP]丙[SEP]\n")
    expect(existsSync(results.all ?? "")).toBe(true)
    expect((await run(what, { sample: true })).report).toBeDefined()
  })

  it("a model from the hub keeps its folder's shape", async () => {
    hub.repositories.push({
      kind: "model",
      name: "owner/name",
      files: { "config.json": "{}", "model.safetensors": "x", "notes.md": "no" }
    })
    const { model = "" } = await run(
      pipeline("model", { model: fetch({ kind: "model", from: "hf:owner/name" }) })
    )
    expect(readFileSync(join(model, "config.json"), "utf8")).toBe("{}")
    expect(existsSync(join(model, "notes.md"))).toBe(false)
  })

  it("reports as a page", async () => {
    const folder = newFolder()
    const report = {
      kind: "dedup",
      rows: 1,
      kept: 1,
      duplicates: 0,
      contaminated: 0,
      clusters: 0,
      similarities: [],
      cluster_sizes: [],
      largest: [],
      settings: { threshold: 0.85, ngram: 5, num_perm: 128, compat: true, against: [] },
      seconds: { all: 1 },
      peak_rss_bytes: 1
    }
    writeFileSync(join(folder, "a.json"), JSON.stringify(report))
    const from = given("report", join(folder, "a.json"))
    // A stage that writes a report beside its rows, as clean does.
    const made = stage({
      name: "made",
      version: 1,
      inputs: {},
      outputs: { rows: { kind: "pairs", path: "rows.jsonl" }, report: { kind: "report", path: "b.json" } },
      work: ({ outputs }) =>
        fromPromise(async () => {
          writeFileSync(outputs.rows, "")
          writeFileSync(outputs.report, JSON.stringify(report))
          return {}
        })
    })
    const { page = "" } = await run(pipeline("page", { page: reportPage({ from: [from, made.rows] }) }))
    const text = readFileSync(page, "utf8")
    for (const name of ["Duplicates (a.json)", "Duplicates (b.json)"]) expect(text).toContain(name)
    expect(() => reportPage({ from: given("pairs", "rows.jsonl") })).toThrow("rows.jsonl has no report")
  })

  it("what clean has reported as a page", async () => {
    const folder = newFolder()
    writeFileSync(
      join(folder, "a.jsonl"),
      '{"prompt":"一加一等于几？","response":"等于二，因为是这样数的。"}\n'
    )
    const from = given("rows", join(folder, "a.jsonl"))
    const rows = clean({ from, source: "pairs", promptColumn: "prompt", responseColumn: "response" })
    const { page = "" } = await run(pipeline("cleaned", { page: reportPage({ from: rows }) }))
    expect(readFileSync(page, "utf8")).toContain("pairs, for pretrain")
  })

  it("an error of one's own step is the stage's", async () => {
    const folder = newFolder()
    writeFileSync(join(folder, "a.jsonl"), '{"prompt":"一"}\n')
    const step = through({
      name: "bad",
      version: 1,
      kind: "rows",
      from: given("rows", join(folder, "a.jsonl")),
      step: (stream) =>
        stream.pipe(
          Stream.map(() => {
            throw new Error("my own mistake")
          })
        )
    })
    await expect(run(pipeline("bad", { step }))).rejects.toThrow("my own mistake")
  })
})
