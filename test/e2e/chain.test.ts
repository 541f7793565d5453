/** The whole chain by the command line on a tiny model, and what happens when it is killed. */
import { existsSync, readFileSync, readdirSync } from "node:fs"
import { createHash } from "node:crypto"
import { setTimeout } from "node:timers/promises"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, folder, ok, rows, startChatlm, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()
const question = rows(1)
  .map(({ prompt }) => prompt)
  .join("")
const sha = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex")

/** Configuration of a short run, as `--set` flags. */
const settings = (out: string, more: Record<string, unknown> = {}) =>
  Object.entries({
    tokenizer: dir.at("tokenizer"),
    train: dir.at("split/train.parquet"),
    out,
    batchSize: 16,
    maxLength: 48,
    learningRate: 5e-3,
    saveEvery: 5,
    logEvery: 5,
    warmupSteps: 5,
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])

const pretrain = (out: string, more: Record<string, unknown> = {}) => [
  "pretrain",
  ...settings(out, {
    model: tinyModel,
    valid: dir.at("split/valid.parquet"),
    maxSteps: 40,
    dropout: 0.1,
    ...more
  })
]

beforeAll(async () => {
  writeJsonl(dir.at("raw.jsonl"), [...rows(600), ...rows(30), { prompt: "", response: "没有问题的回答" }])
  const cleaned = await ok(
    "clean",
    "--source",
    "pairs",
    "--in",
    dir.at("raw.jsonl"),
    "--prompt-column",
    "prompt",
    "--response-column",
    "response",
    "--out",
    dir.at("clean.parquet"),
    "--rejects",
    dir.at("rejects.jsonl")
  )
  expect(cleaned.read).toBe(631)
  expect(cleaned.kept).toBe(630)
  expect(Object.values(cleaned.dropped).reduce((sum, rows) => sum + rows, 0)).toBe(1)
  expect(readFileSync(dir.at("rejects.jsonl"), "utf8")).toContain("没有问题的回答")
  const unique = await ok(
    "dedup",
    "--in",
    dir.at("clean.parquet"),
    "--out",
    dir.at("unique.parquet"),
    "--threshold",
    "1",
    "--clusters",
    dir.at("clusters.parquet")
  )
  expect(unique.duplicates).toBe(30)
  await ok(
    "split",
    "--in",
    dir.at("unique.parquet"),
    "--out",
    dir.at("split"),
    "--train",
    "0.9",
    "--valid",
    "0.1",
    "--test",
    "0"
  )
  const tokenizer = await ok(
    "tokenizer",
    "train",
    "--in",
    dir.at("split/train.parquet"),
    "--out",
    dir.at("tokenizer"),
    "--model",
    "char-bpe",
    "--vocab-size",
    "300",
    "--min-frequency",
    "2"
  )
  expect(tokenizer.vocab_size).toBeGreaterThan(40)
}, 120_000)

afterAll(() => dir.remove())

describe("the chain", () => {
  it("learns, answers, prefers, merges and measures", async () => {
    await ok(...pretrain(dir.at("pre"), { maxSteps: 150, saveEvery: 50, dropout: 0 }))
    const metrics = readFileSync(dir.at("pre/metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    const losses = metrics.filter((line) => "eval_loss" in line).map((line) => line.eval_loss)
    expect(losses.at(-1)).toBeLessThan(losses[0] / 2)
    await ok(
      "sft",
      ...settings(dir.at("sft"), {
        model: dir.at("pre/last"),
        maxSteps: 30,
        freeze: ["embedding"],
        learningRate: 2e-3
      })
    )
    const rejected = await ok(
      "reject",
      "--model",
      dir.at("sft/last"),
      "--in",
      dir.at("split/valid.parquet"),
      "--out",
      dir.at("pairs.parquet"),
      "--max-new-tokens",
      "8"
    )
    expect(rejected.kept).toBeGreaterThan(0)
    await ok(
      "dpo",
      ...settings(dir.at("dpo"), {
        model: dir.at("sft/last"),
        train: dir.at("pairs.parquet"),
        maxSteps: 10,
        learningRate: 1e-3,
        lora: { r: 4, alpha: 8, dropout: 0, targets: ["q", "v"], bias: "none" }
      })
    )
    const dpo = readFileSync(dir.at("dpo/metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    expect(dpo.at(-1)).toHaveProperty("rewards/margins")
    const merged = await ok(
      "lora",
      "merge",
      "--base",
      dir.at("sft/last"),
      "--adapter",
      dir.at("dpo/last"),
      "--out",
      dir.at("merged")
    )
    expect(merged.merged).toBeGreaterThan(0)
    expect(merged.max_logit_difference).toBeLessThan(1e-3)
    const answer = await ok(
      "generate",
      "--model",
      dir.at("merged"),
      "--prompt",
      question,
      "--max-new-tokens",
      "40"
    )
    expect(answer.response).not.toBe("")
    expect(answer.tokens.length).toBeGreaterThan(1)
    const bleu = await ok("eval", "bleu", "--model", dir.at("merged"), "--in", dir.at("split/valid.parquet"))
    expect(bleu.bleu4).toBeGreaterThan(0)
    const perplexity = await ok(
      "eval",
      "perplexity",
      "--model",
      dir.at("merged"),
      "--in",
      dir.at("split/valid.parquet")
    )
    expect(Math.exp(perplexity.loss)).toBeCloseTo(perplexity.perplexity, 6)
    // Every search over rows from standard input; all answers of a prompt follow each other.
    for (const search of ["greedy", "beam", "beam-sample", "sample", "contrastive"]) {
      const several = search === "greedy" || search === "contrastive" ? 1 : 3
      const line = `--in - --json --batch 1 --search ${search} --max-new-tokens 24 --n-best ${several} --stop 又`
      const { child, ran } = startChatlm("generate", "--model", dir.at("merged"), ...line.split(" "))
      child.stdin?.end(
        rows(20)
          .map(({ prompt }) => `${JSON.stringify({ prompt })}\n`)
          .join("")
      )
      const { status, out } = await ran
      expect(status).toBe(0)
      const answers = out
        .trim()
        .split("\n")
        .map((line): { prompt: string; response: string; score?: number } => JSON.parse(line))
      expect(answers.map(({ prompt }) => prompt)).toEqual(
        rows(20).flatMap(({ prompt }) => Array.from({ length: several }, () => prompt))
      )
      expect(answers.every(({ response }) => !response.includes("又"))).toBe(true)
      expect(answers.every(({ score }) => (score !== undefined) === search.startsWith("beam"))).toBe(true)
      for (let at = 0; search.startsWith("beam") && at < answers.length; at += several) {
        const scores = answers.slice(at, at + several).map(({ score }) => score ?? 0)
        expect(scores).toEqual(scores.toSorted((a, b) => b - a))
      }
    }
    const { child, ran } = startChatlm("chat", "--model", dir.at("merged"))
    child.stdin?.end(`${question}\nexit\n`)
    const chat = await ran
    expect(chat.status).toBe(0)
    expect(chat.out.trim()).not.toBe("")
  }, 300_000)

  it("ends with the same weights after kill -9 at any moment", async () => {
    const [whole, broken] = [dir.at("whole"), dir.at("broken")]
    await ok(...pretrain(whole, { maxSteps: 120 }))
    const written = () =>
      existsSync(`${broken}/metrics.jsonl`)
        ? readFileSync(`${broken}/metrics.jsonl`, "utf8").split("\n").length
        : 0
    let resumed = 0
    for (const lines of [2, 5, 8, 11, 14]) {
      const { child, ran } = startChatlm(...pretrain(broken, { maxSteps: 120 }))
      while (written() < lines && child.exitCode === null) await setTimeout(5)
      child.kill("SIGKILL")
      const { status, error } = await ran
      expect(status, "killed before its end").toBe(-1)
      resumed += error.includes("go on from") ? 1 : 0
    }
    expect(resumed).toBeGreaterThanOrEqual(3)
    await ok(...pretrain(broken, { maxSteps: 120 }))
    expect(sha(`${broken}/last/model.safetensors`)).toBe(sha(`${whole}/last/model.safetensors`))
    const steps = readFileSync(`${broken}/metrics.jsonl`, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    const trained = steps.filter((line) => "loss" in line).map((line) => line.step)
    expect(trained).toEqual(Array.from({ length: 24 }, (_, n) => 5 * (n + 1)))
  }, 300_000)

  it("saves on Ctrl+C and goes on from there", async () => {
    const out = dir.at("interrupted")
    const { child, ran } = startChatlm(...pretrain(out, { maxSteps: 4000, saveEvery: 100_000 }))
    while (!existsSync(`${out}/metrics.jsonl`) || readFileSync(`${out}/metrics.jsonl`, "utf8").length < 200)
      await setTimeout(50)
    child.kill("SIGINT")
    const { status } = await ran
    expect(status).toBe(130)
    expect(readdirSync(`${out}/checkpoints`).filter((name) => name.startsWith("step-"))).toHaveLength(1)
    const again = startChatlm(...pretrain(out, { maxSteps: 4000, saveEvery: 100_000 }))
    const resumed = new Promise<string>((done) =>
      again.child.stderr?.on("data", (text) => String(text).includes("go on from") && done(String(text)))
    )
    expect(await resumed).toContain("checkpoints/step-")
    again.child.kill("SIGTERM")
    expect((await again.ran).status).toBe(130)
  }, 120_000)

  it("verify-resume proves it on a configuration of one's own", async () => {
    const proof = await ok(
      "verify-resume",
      ...pretrain(dir.at("proof"), { gradientAccumulation: 3 }).slice(1),
      "--steps",
      "6",
      "--at",
      "2"
    )
    expect(proof.equal).toBe(true)
    expect(Object.keys(proof.parts)).toEqual(expect.arrayContaining(["weights", "optimizer", "cursor"]))
  }, 120_000)

  it("refuses a run folder of another configuration", async () => {
    const ran = await chatlm(...pretrain(dir.at("whole"), { batchSize: 8 }))
    expect(ran.status).toBe(2)
    expect(ran.error).toContain("error[CHECKPOINT_INVALID]")
    expect(ran.error).toContain("batchSize")
  }, 60_000)
})
