import { describe, expect, it } from "vitest"

import type { CleanOptions, DedupOptions } from "../../ts/native/index.ts"
import { memoryBorder } from "../../ts/native/index.ts"
import { chatlm, lines } from "./support.ts"

describe("output", () => {
  it("a report is for people, or one JSON object with --json", async () => {
    const args = ["clean", "--source", "alpaca", "--in", "a", "--out", "b"]
    const text = await chatlm(args)
    expect(text.status).toBe(0)
    expect(text.out).toMatch(/kept +2/)
    const json = await chatlm([...args, "--json"])
    expect(JSON.parse(json.out)).toEqual({
      read: 3,
      kept: 2,
      dropped: { short: 1 },
      broken: 0,
      undecodable: 0,
      seconds: 0.5
    })
    expect(lines(json.out)).toHaveLength(1)
    expect(json.error).toBe("")
  })

  it("JSON keys are those of the contract", async () => {
    const dedup = await chatlm(["dedup", "--in", "a", "--out", "b", "--json"])
    expect(Object.keys(JSON.parse(dedup.out))).toEqual([
      "rows",
      "kept",
      "duplicates",
      "contaminated",
      "clusters",
      "seconds",
      "peak_rss_bytes"
    ])
    const lora = await chatlm(["lora", "merge", "--base", "a", "--adapter", "b", "--out", "c", "--json"])
    expect(Object.keys(JSON.parse(lora.out))).toEqual(["max_logit_difference", "merged"])
    const bleu = await chatlm(["eval", "bleu", "--predictions", "p.jsonl", "--json"])
    expect(Object.keys(JSON.parse(bleu.out))).toEqual(["bleu4", "rows"])
    const perplexity = await chatlm(["eval", "perplexity", "--model", "m", "--in", "a", "--json"])
    expect(Object.keys(JSON.parse(perplexity.out))).toEqual(["perplexity", "loss", "tokens"])
  })

  it("--in takes several paths, up to the next flag", async () => {
    let seen: CleanOptions | undefined
    const border = {
      clean: async (options: CleanOptions) => {
        seen = options
        return memoryBorder().clean(options)
      }
    }
    await chatlm(
      ["clean", "--in", "a", "b", "-", "--source", "alpaca", "--in", "c", "--out", "d", "--force"],
      { border }
    )
    expect(seen).toMatchObject({
      inputs: ["a", "b", "-", "c"],
      output: "d",
      force: true,
      purpose: "pretrain",
      turns: "first",
      seed: 23_333
    })
    expect(seen).not.toHaveProperty("rejects")
    expect(seen).not.toHaveProperty("report")
    const more = ["--report", "r.json", "--turns", "each", "--seed", "7"]
    await chatlm(["clean", "--in", "a", "--source", "belle", "--out", "d", ...more], { border })
    expect(seen).toMatchObject({ report: "r.json", turns: "each", seed: 7 })
  })

  it("dedup's defaults are the contract's", async () => {
    let seen: DedupOptions | undefined
    await chatlm(["dedup", "--in", "a", "--out", "b"], {
      border: {
        dedup: async (options) => {
          seen = options
          return memoryBorder().dedup(options)
        }
      }
    })
    expect(seen).toMatchObject({ threshold: 0.85, ngram: 5, numPerm: 128, compat: false })
  })

  it("generate prints answers, or prompt, response and tokens a line", async () => {
    const args = ["generate", "--model", "m", "--prompt", "你好", "--prompt", "再见"]
    expect((await chatlm(args)).out).toBe("你说：你好\n你说：再见\n")
    const rows = lines((await chatlm([...args, "--json"])).out).map((line) => JSON.parse(line))
    expect(rows).toHaveLength(2)
    expect(Object.keys(rows[0])).toEqual(["prompt", "response", "tokens"])
  })

  it("tokenizer encode answers line by line", async () => {
    const ran = await chatlm(["tokenizer", "encode", "--tokenizer", "t", "--json"], { stdin: "ab\n中\n" })
    expect(lines(ran.out).map((line) => JSON.parse(line))).toEqual([
      { ids: [97, 98], tokens: ["a", "b"] },
      { ids: [0x4e2d], tokens: ["中"] }
    ])
  })

  it("training tells its events as JSON lines with --json, as notes without, nothing when quiet", async () => {
    const args = ["pretrain", "--set", "maxSteps=2"]
    const json = await chatlm([...args, "--json", "--quiet"])
    const events = lines(json.out).map((line) => JSON.parse(line))
    expect(events.map(({ type }) => type)).toEqual(["started", "step", "step", "finished"])
    expect(events[1]).toMatchObject({ learning_rate: 1e-4, grad_norm: 1, tokens_per_second: 1000 })
    expect(json.error).toBe("")
    const text = await chatlm(args)
    expect(text.error).toContain("start: 2 steps")
    expect(text.out).toMatch(/steps +2/)
  })

  it("--print-config is the whole configuration", async () => {
    const ran = await chatlm(["dpo", "--print-config", "--seed", "7", "--set", "lora.r=4", "beta=0.2"])
    expect(JSON.parse(ran.out)).toMatchObject({
      seed: 7,
      beta: 0.2,
      loss: "sigmoid",
      lora: { r: 4, alpha: 16, dropout: 0.1, targets: ["q", "v"], bias: "none" }
    })
  })

  it("verify-resume with a difference is status 2 and still prints its parts", async () => {
    const ran = await chatlm(["verify-resume", "--steps", "4", "--at", "2", "--json"], {
      border: { verifyResume: async () => ({ equal: false, parts: { weights: false, cursor: true } }) }
    })
    expect(ran.status).toBe(2)
    const [report, error] = lines(ran.out).map((line) => JSON.parse(line))
    expect(report).toEqual({ equal: false, parts: { weights: false, cursor: true } })
    expect(error.error).toMatchObject({ code: "RESUME_MISMATCH", context: { parts: ["weights"] } })
  })

  it("--version and --help are results", async () => {
    expect((await chatlm(["--version"])).out).toMatch(/^chatlm \d+\.\d+\.\d+\n$/)
    const help = await chatlm(["clean", "--help"])
    expect(help.status).toBe(0)
    expect(help.out).toContain("--rejects")
    expect(help.error).toBe("")
  })
})

describe("progress", () => {
  const slow = (now: { value: number }, reports: number, apart: number) => ({
    merge: async (
      _: unknown,
      onProgress?: ((progress: { stage: string; done: number; total: number; unit: string }) => void) | null
    ) => {
      for (let n = 0; n <= reports; n += 1) {
        onProgress?.({ stage: "read", done: n * 100, total: reports * 100, unit: "rows" })
        now.value += apart
      }
      return { rows: 1, broken: 0, seconds: 1 }
    }
  })
  const merge = ["merge", "--in", "a", "--out", "b"]

  it("without a terminal is a line every ten seconds", async () => {
    const now = { value: 0 }
    const ran = await chatlm(merge, { border: slow(now, 30, 1000), now: () => now.value })
    expect(lines(ran.error)).toEqual([
      "read: 1,000 of 3,000 rows, 100/s, 0:20 left",
      "read: 2,000 of 3,000 rows, 100/s, 0:10 left",
      "read: 3,000 of 3,000 rows, 100/s, 0:00 left"
    ])
  })

  it("is silent for what is short, and with --quiet", async () => {
    const now = { value: 0 }
    expect((await chatlm(merge, { border: slow(now, 10, 100), now: () => now.value })).error).toBe("")
    expect(
      (await chatlm([...merge, "--quiet"], { border: slow(now, 30, 1000), now: () => now.value })).error
    ).toBe("")
  })
})
