/** Several processes that train one model: as one would, and what happens when one of them is gone. */
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync, readdirSync } from "node:fs"
import { setTimeout } from "node:timers/promises"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, folder, ok, rows, startChatlm, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()
const begun: Array<ReturnType<typeof startChatlm>["child"]> = []
afterAll(() => {
  // Workers end with the process that started them.
  for (const child of begun) child.kill("SIGKILL")
  dir.remove()
})

type Settings = Record<string, unknown>

const flags = (out: string, more: Settings) =>
  Object.entries({
    tokenizer: dir.at("tokenizer"),
    train: dir.at("train.jsonl"),
    out: dir.at(out),
    batchSize: 8,
    maxLength: 48,
    learningRate: 1e-3,
    saveEvery: 1_000_000,
    logEvery: 1,
    warmupSteps: 5,
    samples: 0,
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])

const pretrain = (out: string, more: Settings = {}) => [
  "pretrain",
  ...flags(out, { model: tinyModel, maxSteps: 50, schedule: "constant", dropout: 0.1, ...more })
]

const losses = (out: string): ReadonlyArray<number> =>
  readFileSync(dir.at(out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as { loss?: number })
    .flatMap(({ loss }) => (loss === undefined ? [] : [loss]))

const apart = (a: string, b: string) => {
  const [left, right] = [losses(a), losses(b)]
  expect(left.length).toBe(right.length)
  return Math.max(...left.map((loss, step) => Math.abs(loss - (right[step] ?? Number.NaN))))
}

/** The worker processes of a command. */
const workersOf = (pid: number): ReadonlyArray<number> =>
  execFileSync("ps", ["-o", "pid=", "--ppid", String(pid)], { encoding: "utf8" })
    .trim()
    .split("\n")
    .map(Number)

const saved = (out: string) =>
  readdirSync(dir.at(out, "checkpoints")).filter((name) => name.startsWith("step-"))

/** Steps that a run has told of. */
const steps = (out: string) => (existsSync(dir.at(out, "metrics.jsonl")) ? losses(out).length : 0)

beforeAll(async () => {
  // Not a multiple of a step's rows: at an epoch's end one worker has fewer.
  writeJsonl(dir.at("train.jsonl"), rows(195))
  writeJsonl(dir.at("valid.jsonl"), rows(40))
  writeJsonl(
    dir.at("pairs.jsonl"),
    rows(100).map(({ prompt, response }) => ({ prompt, chosen: response, rejected: `不${response}` }))
  )
  await ok(
    "tokenizer",
    "train",
    "--in",
    dir.at("train.jsonl"),
    "--model",
    "char-bpe",
    "--vocab-size",
    "300",
    "--min-frequency",
    "2",
    "--out",
    dir.at("tokenizer")
  )
}, 120_000)

describe("workers", () => {
  it("two are one with twice the batch, within 1e-4 over 50 steps", async () => {
    for (const optimizer of ["adamw", "adafactor"]) {
      await ok(...pretrain(`two-${optimizer}`, { optimizer }), "--workers", "2")
      await ok(...pretrain(`one-${optimizer}`, { optimizer, gradientAccumulation: 2 }))
      expect(apart(`two-${optimizer}`, `one-${optimizer}`)).toBeLessThan(1e-4)
    }
    await ok(...pretrain("wide", { batchSize: 16 }))
    expect(apart("two-adamw", "wide")).toBeLessThan(1e-4)
  }, 240_000)

  it("two in bf16 are one with twice the batch, as near as bf16 is", async () => {
    const bf16 = { precision: "bf16" }
    await ok(...pretrain("two-bf16", bf16), "--workers", "2")
    await ok(...pretrain("one-bf16", { ...bf16, gradientAccumulation: 2 }))
    expect(apart("two-bf16", "one-bf16")).toBeLessThan(2e-3)
    // And it is bf16 that was trained in.
    expect(apart("two-bf16", "two-adamw")).toBeGreaterThan(0)
  }, 240_000)

  it("fine-tune an adapter and prefer as one does, evaluations included", async () => {
    const lora = { r: 4, alpha: 8, dropout: 0.1, targets: ["q", "v"] }
    const common = { model: dir.at("two-adamw/last"), lora, maxSteps: 10, dropout: 0 }
    for (const [verb, more] of [
      ["sft", { valid: dir.at("valid.jsonl"), evalEvery: 5 }],
      ["dpo", { train: dir.at("pairs.jsonl") }]
    ] as const) {
      const run = (out: string, own: Settings) => [verb, ...flags(out, { ...common, ...more, ...own })]
      await ok(...run(`${verb}-two`, { gradientAccumulation: 1 }), "--workers", "2")
      await ok(...run(`${verb}-one`, { gradientAccumulation: 2 }))
      expect(apart(`${verb}-two`, `${verb}-one`)).toBeLessThan(1e-4)
    }
  }, 240_000)

  it("a run goes on with another number of them, row by row", async () => {
    const run = (steps: number, workers: number) =>
      ok(...pretrain("more", { maxSteps: steps, gradientAccumulation: 2 / workers, workers }))
    await run(20, 2)
    await run(35, 1)
    await run(50, 2)
    await ok(...pretrain("less", { gradientAccumulation: 2 }))
    expect(apart("more", "less")).toBeLessThan(1e-4)
  }, 240_000)

  it("one killed: the others end, say which, and the run goes on", async () => {
    const long = pretrain("killed", { maxSteps: 100_000, saveEvery: 10, keep: 2, workers: 2 })
    const { child, ran } = startChatlm(...long)
    begun.push(child)
    while (steps("killed") < 15) await setTimeout(100)
    const [, second = 0] = workersOf(child.pid ?? 0)
    process.kill(second, "SIGKILL")
    const { status, error } = await ran
    expect(status).toBe(3)
    expect(error).toContain("error[WORKER_LOST]: worker 1 ")
    expect(error).toContain("SIGKILL")
    const last = Number(saved("killed").at(-1)?.slice(5))
    const again = await chatlm(
      ...pretrain("killed", { maxSteps: last + 5, saveEvery: 10, keep: 2, workers: 2 })
    )
    expect(again.error).toContain("go on from")
    expect(again.status).toBe(0)
  }, 120_000)

  it("Ctrl+C reaches all of them: one checkpoint, status 130", async () => {
    const long = pretrain("stopped", { maxSteps: 100_000, workers: 2 })
    const { child, ran } = startChatlm(...long)
    begun.push(child)
    while (steps("stopped") < 3) await setTimeout(100)
    child.kill("SIGINT")
    expect((await ran).status).toBe(130)
    expect(saved("stopped")).toHaveLength(1)
    expect(Number(saved("stopped")[0]?.slice(5))).toBe(losses("stopped").length)
  }, 120_000)
})
