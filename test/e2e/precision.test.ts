/** Folders in every precision: exported, answered from, measured, refused where they do not serve. */
import { existsSync, readdirSync, statSync } from "node:fs"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, chatlmUnder, folder, ok, rows, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()
const model = dir.at("run/last")

beforeAll(async () => {
  writeJsonl(dir.at("rows.jsonl"), rows(60))
  const tokenizer = ["--model", "byte-bpe", "--vocab-size", "300", "--min-frequency", "2"]
  await ok("tokenizer", "train", "--in", dir.at("rows.jsonl"), "--out", dir.at("tokenizer"), ...tokenizer)
  const settings = { model: tinyModel, tokenizer: dir.at("tokenizer"), train: dir.at("rows.jsonl") }
  const run = { out: dir.at("run"), batchSize: 8, maxLength: 64, maxSteps: 150, learningRate: 0.01 }
  const set = Object.entries({ ...settings, ...run })
  await ok("pretrain", ...set.flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`]))
}, 120_000)

afterAll(() => dir.remove())

const size = (path: string) => statSync(`${path}/model.safetensors`).size
const answer = async (...args: ReadonlyArray<string>) =>
  (await ok("generate", "--prompt", rows(1)[0]?.prompt ?? "", "--max-new-tokens", "20", ...args)).tokens

describe("export", () => {
  it("writes a small folder that answers as the same weights rounded on the way in", async () => {
    const report = await ok("export", "--int8", "--model", model, "--out", dir.at("int8"))
    expect(report.dtype).toBe("int8")
    expect(size(dir.at("int8")) * 3).toBeLessThan(size(model))
    expect(existsSync(dir.at("int8/tokenizer.json"))).toBe(true)
    const small = await answer("--model", dir.at("int8"))
    expect(small).toEqual(await answer("--model", model, "--dtype", "int8"))
    expect(small).toEqual(await answer("--model", dir.at("int8"), "--dtype", "int8"))
  })

  it("writes bf16 and f16 for transformers, and answers in what the folder holds", async () => {
    for (const dtype of ["bf16", "f16"]) {
      await ok("export", "--dtype", dtype, "--model", model, "--out", dir.at(dtype))
      expect(size(dir.at(dtype)) * 1.9).toBeLessThan(size(model))
      const wide = await answer("--model", model, "--dtype", dtype)
      expect(await answer("--model", dir.at(dtype))).toEqual(wide)
    }
  })

  it("refuses an existing target, two precisions, none, and int8 as a source", async () => {
    const out = dir.at("int8")
    const before = readdirSync(out)
    const refused = async (status: number, ...args: ReadonlyArray<string>) => {
      const ran = await chatlm("export", ...args)
      expect(ran.status, ran.error).toBe(status)
      expect(ran.error).toContain("help: ")
    }
    await refused(1, "--int8", "--model", model, "--out", out)
    await refused(1, "--int8", "--dtype", "f32", "--model", model, "--out", dir.at("x"))
    await refused(1, "--model", model, "--out", dir.at("x"))
    await refused(2, "--int8", "--model", out, "--out", dir.at("x"))
    await refused(2, "--dtype", "f32", "--model", out, "--out", dir.at("x"))
    expect(readdirSync(out)).toEqual(before)
    expect(existsSync(dir.at("x"))).toBe(false)
  })
})

describe("an int8 folder", () => {
  it("is refused in another precision, and to train on", async () => {
    const other = await chatlm("generate", "--model", dir.at("int8"), "--prompt", "a", "--dtype", "f32")
    expect([other.status, other.error]).toEqual([2, expect.stringContaining("int8")])
    const set = {
      model: dir.at("int8"),
      tokenizer: dir.at("int8"),
      train: dir.at("rows.jsonl"),
      out: dir.at("no")
    }
    const flags = Object.entries(set).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
    const sft = await chatlm("sft", ...flags)
    expect([sft.status, sft.error]).toEqual([2, expect.stringContaining("int8")])
  })

  it("is measured against the folder it came from", async () => {
    const measure = (...args: ReadonlyArray<string>) =>
      ok("eval", "perplexity", "--in", dir.at("rows.jsonl"), "--max-length", "64", "--model", model, ...args)
    const [plain, f32, int8] = [
      await measure(),
      await measure("--dtype", "f32", "--compare", "f32"),
      await measure("--dtype", "int8", "--compare", "f32")
    ] as unknown as Array<{ perplexity: number; tokens: number; agreement: number }>
    expect(f32?.tokens).toBe(plain?.tokens)
    expect(Math.abs((f32?.perplexity ?? 0) / (plain?.perplexity ?? 1) - 1)).toBeLessThan(1e-4)
    expect(f32?.agreement).toBe(1)
    expect(Math.abs((int8?.perplexity ?? 0) / (plain?.perplexity ?? 1) - 1)).toBeLessThan(0.05)
    expect(int8?.agreement).toBeGreaterThan(0.9)
    expect(int8?.agreement).toBeLessThan(1.000_001)
  })
})

describe("bench generate", () => {
  it("tells rate, first token and memory on every path, for greedy search and beams", async () => {
    for (const [prefix, ...more] of [
      ["CHATLM_CPU=", "--batch", "3"],
      ["CHATLM_CPU=plain", "--dtype", "bf16"],
      ["CHATLM_CPU=twin", "--search", "beam", "--beams", "3"]
    ]) {
      const shape = ["--source", "9", "--tokens", "12", "--runs", "1", "--json"]
      const ran = await chatlmUnder(prefix ?? "", "bench", "generate", "--model", model, ...shape, ...more)
      expect(ran.status, ran.error).toBe(0)
      const report = JSON.parse(ran.out) as Record<string, number>
      expect(report.tokens_per_second).toBeGreaterThan(0)
      expect(report.first_token_seconds).toBeGreaterThan(0)
      expect(report.peak_rss_bytes).toBeGreaterThan(1e7)
    }
  })
})
