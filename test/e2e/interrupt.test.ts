/** Ctrl+C and its kin while the real program is at something else than a step: what was done is saved, the status 130. */
import { existsSync, readFileSync, readdirSync } from "node:fs"
import { setTimeout } from "node:timers/promises"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { bin, folder, ok, rows, start, startChatlm, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()
afterAll(dir.remove)

const pretrain = (out: string, more: Record<string, unknown> = {}) => [
  "pretrain",
  ...Object.entries({
    model: tinyModel,
    tokenizer: dir.at("tokenizer"),
    train: dir.at("train.jsonl"),
    out: dir.at(out),
    batchSize: 8,
    maxLength: 48,
    maxSteps: 4,
    saveEvery: 1_000_000,
    logEvery: 1,
    samples: 0,
    bleuRows: 0,
    contamination: "off",
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
]

const saved = (out: string) =>
  existsSync(dir.at(out, "checkpoints")) ? readdirSync(dir.at(out, "checkpoints")).toSorted() : []

interface Line {
  readonly step: number
  readonly loss?: number
  readonly eval_loss?: number
}
const metrics = (out: string): ReadonlyArray<Line> =>
  existsSync(dir.at(out, "metrics.jsonl"))
    ? readFileSync(dir.at(out, "metrics.jsonl"), "utf8")
        .split("\n")
        .slice(0, -1)
        .map((line) => JSON.parse(line) as Line)
    : []

type Running = ReturnType<typeof startChatlm>

/** Waits until `what` holds; fails where the program ends before. */
const until = async ({ child, ran }: Running, what: () => boolean) => {
  while (!what()) {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error((await ran).error)
    await setTimeout(2)
  }
}

const weights = (out: string) => readFileSync(dir.at(out, "last", "model.safetensors")).toString("base64")

beforeAll(async () => {
  writeJsonl(dir.at("train.jsonl"), rows(195))
  writeJsonl(dir.at("valid.jsonl"), rows(800))
  const tokenizer = ["--out", dir.at("tokenizer"), "--vocab-size", "300"]
  await ok("tokenizer", "train", "--in", dir.at("train.jsonl"), ...tokenizer)
}, 120_000)

describe("interrupted", () => {
  it("in an evaluation: it is given up, the step before it saved, and made again", async () => {
    // Answers for every row: seconds, where a step takes milliseconds.
    const slow = { valid: dir.at("valid.jsonl"), evalEvery: 3, bleuRows: 800, evalRows: 8 }
    const running = startChatlm(...pretrain("evaluation", slow))
    await until(running, () =>
      metrics("evaluation").some(({ step, loss }) => step === 3 && loss !== undefined)
    )
    running.child.kill("SIGTERM")
    const { status, error } = await running.ran
    expect(status, error).toBe(130)
    expect(error).toContain("saved")
    expect(saved("evaluation")).toEqual(["step-00000003"])
    const evaluated = (out: string) =>
      metrics(out)
        .filter((line) => line.eval_loss !== undefined)
        .map(({ step }) => step)
    expect(evaluated("evaluation")).toEqual([0])

    await ok(...pretrain("evaluation", slow))
    await ok(...pretrain("undisturbed", slow))
    expect(evaluated("evaluation")).toEqual(evaluated("undisturbed"))
    expect(weights("evaluation") === weights("undisturbed")).toBe(true)
  }, 120_000)

  it("while rows are made ready: it ends, nothing half-made is left, and the next start finds its way", async () => {
    // Above 64 MiB text goes into a store before the first step.
    writeJsonl(dir.at("many.jsonl"), rows(500_000))
    const cache = dir.at("cache")
    const options = { env: { ...process.env, CHATLM_CACHE: cache } }
    const args = pretrain("preparation", { train: dir.at("many.jsonl"), maxSteps: 1 })
    const files = () =>
      existsSync(cache) ? readdirSync(cache, { recursive: true, encoding: "utf8" }).toSorted() : []
    const running = start(process.execPath, [bin, ...args], options)
    await until(running, () => files().some((file) => file.includes(".partial")))
    running.child.kill("SIGHUP")
    const { status, error } = await running.ran
    expect(status, error).toBe(130)
    expect(files().filter((file) => file.includes(".partial"))).toEqual([])
    expect(saved("preparation")).toEqual([])
    const again = await start(process.execPath, [bin, ...args], options).ran
    expect(again.status, again.error).toBe(0)
  }, 120_000)

  it("twice: the second ends it at once, in the middle of a step", async () => {
    // One step over all rows, which are read at once and computed for many seconds.
    writeJsonl(dir.at("long.jsonl"), rows(3000))
    const model = { ...tinyModel, d_model: 512, d_ff: 2048, d_kv: 64, num_heads: 8, num_layers: 4 }
    const long = { model, train: dir.at("long.jsonl"), gradientAccumulation: 100_000, maxSteps: 2 }
    const running = startChatlm(...pretrain("twice", long))
    let said = ""
    running.child.stderr?.on("data", (chunk) => (said += chunk))
    await until(running, () => said.includes("parameters"))
    await setTimeout(1500)
    running.child.kill("SIGINT")
    await setTimeout(500)
    expect(running.child.exitCode).toBe(null)
    running.child.kill("SIGINT")
    const { status } = await running.ran
    expect(status).toBe(130)
    // The step would have had to end for a checkpoint.
    expect(metrics("twice")).toEqual([])
    expect(saved("twice")).toEqual([])
  }, 120_000)
})
