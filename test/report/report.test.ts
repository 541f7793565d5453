import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"

import { makeReport } from "../../ts/index.ts"
import type { CleanReportJson, DedupReportJson, ReportOptions } from "../../ts/index.ts"
import { count, percent } from "../../ts/report/charts.ts"
import { chatlm } from "../cli/support.ts"

const nasty = `</dd><script>alert("x")</script><img src=x onerror='x'>&amp;\u0000\ud800`

const length = {
  count: 2,
  min: 7,
  max: 12,
  mean: 9.5,
  quantiles: [{ q: 0.5, value: 7 }],
  histogram: [
    { from: 5, to: 10, count: 1 },
    { from: 10, to: 20, count: 1 }
  ]
}
const nothing = { count: 0, min: null, max: null, mean: null, quantiles: [], histogram: [] }

const cleaned = (more: Partial<CleanReportJson> = {}) => ({
  kind: "clean",
  version: 1,
  source: "belle",
  purpose: "pretrain",
  compat: false,
  inputs: ["belle.jsonl"],
  seed: 23_333,
  rows: { read: 4000, kept: 2000, dropped: 1990, broken: 10 },
  undecodable: 0,
  mended: 0,
  funnel: [
    { rule: "translation", action: "drop", reached: 3990, dropped: 1990, changed: 0 },
    { rule: "spaces", action: "rewrite", reached: 2000, dropped: 0, changed: 500 }
  ],
  lengths: { prompt: length, response: length },
  characters: {
    total: 80,
    classes: [
      { class: "han", count: 70, share: 0.875 },
      { class: "space", count: 10, share: 0.125 }
    ],
    frequent: [
      { character: "的", count: 6 },
      { character: " ", count: 2 },
      { character: "\u200b", count: 1 }
    ]
  },
  rejects: [
    {
      rule: "translation",
      file: "belle.jsonl",
      row: 2,
      fields: { instruction: "翻译这句话", output: "Hello" }
    }
  ],
  ...more
})

const deduplicated: DedupReportJson & { readonly later: string } = {
  kind: "dedup",
  later: "a key that nobody knows yet",
  rows: 100,
  kept: 90,
  duplicates: 8,
  contaminated: 2,
  clusters: 3,
  similarities: [
    { from: 0.85, rows: 3 },
    { from: 0.87, rows: 4 },
    { from: 1, rows: 1 }
  ],
  cluster_sizes: [
    { from: 2, to: 2, clusters: 2 },
    { from: 5, to: 8, clusters: 1 }
  ],
  largest: [
    {
      cluster: 7,
      size: 5,
      rows: [
        { row: 7, text: "一" },
        { row: 9, text: nasty }
      ]
    }
  ],
  settings: {
    threshold: 0.85,
    ngram: 5,
    num_perm: 128,
    chance_at_threshold: 0.994,
    compat: false,
    against: ["eval.parquet"]
  },
  seconds: { all: 12.5 },
  peak_rss_bytes: 1.5e9
}

const folderOf = (reports: Readonly<Record<string, unknown>>) => {
  const folder = mkdtempSync(join(tmpdir(), "chatlm-report-"))
  for (const [name, report] of Object.entries(reports)) {
    mkdirSync(join(folder, name, ".."), { recursive: true })
    writeFileSync(join(folder, name), typeof report === "string" ? report : JSON.stringify(report))
  }
  return folder
}
const make = (options: ReportOptions) => Effect.runPromise(makeReport(options))
const pageOf = async (report: unknown) => {
  const folder = folderOf({ "a.json": report })
  await make({ inputs: [join(folder, "a.json")], output: join(folder, "page.html") })
  return readFileSync(join(folder, "page.html"), "utf8")
}

describe("the page", () => {
  it("shows a source: funnel, lengths, characters, rows that fell", async () => {
    const page = await pageOf(cleaned())
    for (const text of [
      "belle, for pretrain",
      "translation",
      "1,990",
      "50 %",
      "could not be read",
      "5–9",
      "88 %",
      "的",
      "space",
      "U+200B",
      "翻译这句话",
      "belle.jsonl, row 2",
      "translation: 1 of 1,990"
    ]) {
      expect(page).toContain(text)
    }
  })

  it("shows a deduplication: what fell, how alike, the largest clusters", async () => {
    const page = await pageOf(deduplicated)
    for (const text of [
      "<h2>Duplicates</h2>",
      "5 rows like row 7",
      "resemble the other set",
      "0.85–0.86",
      "0.86–0.87",
      "5–8",
      "99.4 %",
      "eval.parquet",
      "1,500 MB"
    ]) {
      expect(page).toContain(text)
    }
  })

  it("shows data as text, whatever it holds", async () => {
    const page = await pageOf(
      cleaned({
        source: nasty,
        inputs: [nasty],
        funnel: [{ rule: nasty, action: nasty, reached: 1, dropped: 1, changed: 0 }],
        lengths: { [nasty]: length },
        characters: {
          total: 1,
          classes: [{ class: nasty, count: 1, share: 1 }],
          frequent: [{ character: "<", count: 1 }]
        },
        rejects: [{ rule: nasty, file: nasty, row: 0, fields: { [nasty]: nasty } }]
      })
    )
    expect(page).not.toMatch(/<script|<img|onerror='/)
    expect([page.includes("\u0000"), page.isWellFormed()]).toEqual([false, true])
    expect(await pageOf(deduplicated)).not.toMatch(/<script|<img/)
    expect(page).toContain("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;")
    expect(page).toContain("&amp;amp;")
  })

  it("asks for nothing and runs nothing", async () => {
    const page = await pageOf(cleaned())
    expect(page).not.toMatch(/https?:|<script|<link|url\(|@import|\bsrc=|\bon\w+=/)
    expect(page).toContain("default-src 'none'")
  })

  it("closes what it opens, and each picture has its table", async () => {
    for (const report of [cleaned(), cleaned({ lengths: { prompt: nothing } }), deduplicated]) {
      const page = await pageOf(report)
      const open: Array<string> = []
      for (const [, end, name = "", rest = ""] of page
        .replace(/<style>.*?<\/style>/s, "")
        .matchAll(/<(\/?)([a-z]\w*)([^>]*)>/g)) {
        if (/^(meta|br)$/.test(name) || rest.endsWith("/")) continue
        if (end === "") open.push(name)
        else expect(open.pop()).toBe(name)
      }
      expect(open).toEqual([])
      expect(page.match(/<svg/g)?.length ?? 0).toBe(page.match(/As a table/g)?.length ?? 0)
    }
  })

  it("compares several sources, in their order", async () => {
    const folder = folderOf({
      "a.json": cleaned(),
      "b/c.json": cleaned({ source: "zhihu-kol" }),
      "d.json": deduplicated,
      "other.json": { kind: "dog" },
      "broken.json": "{"
    })
    const output = join(folder, "out", "page.html")
    expect(await make({ inputs: [folder], output })).toMatchObject({
      reports: 3,
      kinds: { clean: 2, dedup: 1 }
    })
    const page = readFileSync(output, "utf8")
    expect(page.indexOf("zhihu-kol, for pretrain")).toBeGreaterThan(page.indexOf("belle, for pretrain"))
    expect(page).toContain("8,000")
    expect(readdirSync(join(folder, "out"))).toEqual(["page.html"])
  })
})

it("reports of one source are told apart by their files", async () => {
  const folder = folderOf({ "a.json": cleaned(), "b.json": cleaned() })
  await make({ inputs: [folder], output: join(folder, "page.html") })
  const page = readFileSync(join(folder, "page.html"), "utf8")
  for (const name of ["a.json", "b.json"]) expect(page).toContain(`<h2>belle, for pretrain (${name})</h2>`)
})

describe("what is no report", () => {
  const error = (options: ReportOptions) => Effect.runPromise(Effect.flip(makeReport(options)))

  it("is named, with the field where it breaks", async () => {
    const folder = folderOf({ "a.json": { ...cleaned(), rows: { read: 1 } }, "b.json": "[]", "c/d.txt": "" })
    const output = join(folder, "page.html")
    expect(await error({ inputs: [join(folder, "a.json")], output })).toMatchObject({
      code: "INPUT_FORMAT",
      message: expect.stringMatching(/a\.json.*rows/)
    })
    expect(await error({ inputs: [join(folder, "b.json")], output })).toMatchObject({ code: "INPUT_FORMAT" })
    expect(await error({ inputs: [join(folder, "c")], output })).toMatchObject({
      code: "INPUT_FORMAT",
      message: expect.stringContaining("no reports")
    })
    expect(await error({ inputs: [join(folder, "none")], output })).toMatchObject({ code: "INPUT_NOT_FOUND" })
    expect(readdirSync(folder)).not.toContain("page.html")
  })

  it("an existing page is replaced only by force", async () => {
    const folder = folderOf({ "a.json": cleaned(), "page.html": "mine" })
    const options = { inputs: [join(folder, "a.json")], output: join(folder, "page.html") }
    expect(await error(options)).toMatchObject({ code: "TARGET_EXISTS" })
    expect(readFileSync(options.output, "utf8")).toBe("mine")
    await make({ ...options, force: true })
    expect(readFileSync(options.output, "utf8")).toContain("<!doctype html>")
    expect(readdirSync(folder).toSorted()).toEqual(["a.json", "page.html"])
  })
})

describe("figures", () => {
  it("do not round something to nothing, nor almost all to all", () => {
    expect([0, 1e-9, 0.0004, 0.05, 0.5, 0.95, 0.9999, 1 - 1e-9, 1].map(percent)).toEqual([
      "0 %",
      "< 0.01 %",
      "0.04 %",
      "5.0 %",
      "50 %",
      "95.0 %",
      "99.99 %",
      "> 99.99 %",
      "100 %"
    ])
    expect(count(1_234_567.89)).toBe("1,234,567.9")
  })
})

it("chatlm report takes reports and folders", async () => {
  const folder = folderOf({ "a.json": cleaned(), "b/c.json": deduplicated })
  const out = join(folder, "page.html")
  const ran = await chatlm(["report", join(folder, "a.json"), join(folder, "b"), "--out", out, "--json"])
  expect(ran.status).toBe(0)
  expect(JSON.parse(ran.out)).toMatchObject({ reports: 2, kinds: { clean: 1, dedup: 1 }, output: out })
  expect((await chatlm(["report", join(folder, "b"), "--out", out])).status).toBe(1)
})
