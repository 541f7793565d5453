import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import { afterAll, describe, expect, it } from "vitest"

import type { BenchEncodeOptions, TokenizerReportOptions } from "../../ts/native/index.ts"
import { memoryBorder } from "../../ts/native/index.ts"
import { chatlm } from "./support.ts"

const folder = mkdtempSync(join(tmpdir(), "chatlm-tokenizer-report-"))
const page = join(folder, "report.html")
afterAll(() => rmSync(folder, { recursive: true }))

const verb = ["tokenizer", "report", "--tokenizer", "mine", "--in", "a.jsonl", "b.parquet"]

describe("tokenizer report", () => {
  it("every flag reaches the core, and JSON is the report as it is", async () => {
    const seen: Array<unknown> = []
    const border = {
      tokenizerReport: async (options: TokenizerReportOptions) => {
        seen.push(options)
        return memoryBorder().tokenizerReport(options)
      }
    }
    const more = "--against one two --encoding gb18030 --keep-going --json".split(" ")
    const ran = await chatlm([...verb, ...more], { border })
    expect(ran.status, ran.error).toBe(0)
    const options = {
      inputs: ["a.jsonl", "b.parquet"],
      tokenizers: ["mine", "one", "two"],
      encoding: "gb18030",
      keepGoing: true
    }
    expect(seen).toMatchObject([options])
    expect(JSON.parse(ran.out)).toEqual(await memoryBorder().tokenizerReport(options))
  })

  it("a table has a column for each tokenizer, and the texts that do not come back", async () => {
    const { out } = await chatlm([...verb, "--against", "theirs"])
    expect(out).toMatch(/│ +│ mine +│ theirs +│/)
    expect(out).toMatch(/characters a token +│ 1.500 +│ 1.500/)
    expect(out).toMatch(/unknown tokens +│ 2.5 % +│/)
    expect(out).toContain("mine: a, row 2 (unknown)\n  龘\n  [UNK]")
  })

  it("writes a page, not over another, and says so before it counts", async () => {
    expect((await chatlm([...verb, "--against", "theirs", "--out", page])).status).toBe(0)
    const text = readFileSync(page, "utf8")
    expect(text).toContain("Tokenizers mine, theirs")
    expect(text).toContain("人工智能")
    expect(text).not.toMatch(/<script|https?:|src=/)
    let counted = false
    const border = {
      tokenizerReport: async () => {
        counted = true
        return {}
      }
    }
    const again = await chatlm([...verb, "--out", page], { border })
    expect([again.status, counted]).toEqual([1, false])
    expect(again.error).toContain("TARGET_EXISTS")
    expect((await chatlm([...verb, "--out", page, "--force"])).status).toBe(0)
  })

  it("chatlm report makes a page of what --json printed", async () => {
    const json = join(folder, "report.json")
    writeFileSync(json, (await chatlm([...verb, "--json"])).out)
    const out = join(folder, "again.html")
    const ran = await chatlm(["report", json, "--out", out, "--json"])
    expect(JSON.parse(ran.out)).toMatchObject({ reports: 1, kinds: { tokenizer: 1 } })
    expect(existsSync(out)).toBe(true)
  })

  it("what tokens and texts hold is text on the page", async () => {
    const nasty = `</td><script>alert("x")</script><img src=x onerror='x'>&\u0000\u202e`
    const border = {
      tokenizerReport: async (options: TokenizerReportOptions) => {
        const report = (await memoryBorder().tokenizerReport(options)) as { tokenizers: Array<object> }
        const tokenizers = report.tokenizers.map((one) => ({
          ...one,
          folder: nasty,
          longest: [{ id: 1, text: nasty, characters: 9, uses: 1 }],
          unused: { tokens: 1, of: 2, share: 0.5, first: [nasty] },
          round_trip: {
            texts: 1,
            exact: 0,
            normalized: 0,
            failed: 1,
            failed_share: 1,
            reasons: { [nasty]: 1 },
            examples: [{ file: nasty, row: 0, reason: nasty, text: nasty, back: nasty }]
          }
        }))
        return { ...report, inputs: [nasty], tokenizers }
      }
    }
    const ran = await chatlm([...verb, "--out", page, "--force"], { border })
    expect(ran.status, ran.error).toBe(0)
    const text = readFileSync(page, "utf8")
    expect(text).toContain("&lt;script&gt;")
    expect(text).not.toMatch(/<script|<img/)
    expect(text).not.toContain("\u0000")
  })
})

describe("bench encode", () => {
  it("defaults are told in help, and every flag reaches the core", async () => {
    const seen: Array<unknown> = []
    const border = {
      benchEncode: async (options: BenchEncodeOptions) => {
        seen.push(options)
        return memoryBorder().benchEncode(options)
      }
    }
    const bench = ["bench", "encode", "--in", "a.txt", "--tokenizer", "t"]
    expect((await chatlm(bench, { border })).out).toMatch(/tokens a second +2,000/)
    const more = "--batch 8 --bytes 1000 --rounds 5 --threads 2 --json".split(" ")
    const ran = await chatlm([...bench, ...more], { border })
    const given = { inputs: ["a.txt"], tokenizer: "t" }
    expect(seen).toEqual([
      { ...given, batch: 4096, bytes: 100_000_000, rounds: 3 },
      { ...given, batch: 8, bytes: 1000, rounds: 5, threads: 2 }
    ])
    expect(JSON.parse(ran.out)).toEqual({
      tokens_per_second: 2000,
      characters_per_second: 3000,
      bytes_per_second: 9000,
      texts: 3,
      tokens: 200,
      peak_rss_bytes: 1024 ** 2,
      cpu: "plain"
    })
  })
})
