/** What a run leaves on the disk on its way, and ways of going on from it. */
import { existsSync, readFileSync, readdirSync, renameSync } from "node:fs"
import { setTimeout } from "node:timers/promises"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, folder, ok, rows, start, startChatlm, tinyModel, bin, writeJsonl } from "./support.ts"

const dir = folder()
afterAll(dir.remove)

type Settings = Record<string, unknown>

const pretrain = (out: string, more: Settings = {}) => [
  "pretrain",
  ...Object.entries({
    model: tinyModel,
    tokenizer: dir.at("tokenizer"),
    train: dir.at("train.jsonl"),
    out: dir.at(out),
    batchSize: 8,
    maxLength: 48,
    learningRate: 1e-3,
    schedule: "constant",
    maxSteps: 12,
    saveEvery: 2,
    keep: 10,
    logEvery: 1,
    samples: 0,
    bleuRows: 0,
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
]

const saved = (out: string) => readdirSync(dir.at(out, "checkpoints")).toSorted()

const bytes = (out: string, step: string, file: string) =>
  readFileSync(dir.at(out, "checkpoints", step, file)).toString("base64")

/** Weights and optimizer after the last step. */
const ends = (out: string) =>
  ["weights.safetensors", "optimizer.safetensors"].map((file) => bytes(out, saved(out).at(-1) ?? "", file))

beforeAll(async () => {
  writeJsonl(dir.at("train.jsonl"), rows(195))
  writeJsonl(dir.at("valid.jsonl"), rows(40))
  await ok(
    "tokenizer",
    "train",
    "--in",
    dir.at("train.jsonl"),
    "--out",
    dir.at("tokenizer"),
    "--vocab-size",
    "300"
  )
  await ok(...pretrain("whole"))
}, 120_000)

describe("checkpoints", () => {
  it("written beside training are those of training that waits", async () => {
    await ok(...pretrain("waits", { saveInBackground: false }))
    expect(saved("whole")).toEqual(["02", "04", "06", "08", "10", "12"].map((step) => `step-000000${step}`))
    expect(saved("waits")).toEqual(saved("whole"))
    for (const step of saved("whole")) {
      for (const file of ["weights.safetensors", "optimizer.safetensors"]) {
        expect(bytes("waits", step, file) === bytes("whole", step, file), `${step}/${file}`).toBe(true)
      }
    }
  })

  it("are told in order, each once", async () => {
    const { out } = await chatlm(...pretrain("told", { keep: 1 }), "--json")
    const events = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { type: string; step: number })
    const told = events.filter(({ type }) => type === "saved").map(({ step }) => step)
    expect(told).toEqual([2, 4, 6, 8, 10, 12])
    expect(saved("told")).toEqual(["step-00000012"])
  })

  it("of an earlier step are gone on from, those after it only thrown away when asked", async () => {
    await ok(...pretrain("from"))
    const refused = await chatlm(...pretrain("from"), "--from", "4")
    expect(refused.status).toBe(1)
    expect(refused.error).toContain("step-00000006")
    const unknown = await chatlm(...pretrain("from"), "--from", "5")
    expect(unknown.status).toBe(2)
    expect(unknown.error).toContain("2, 4, 6, 8, 10, 12")
    expect((await chatlm(...pretrain("from"), "--from", "4", "--fresh", "--force")).status).toBe(1)
    expect(saved("from")).toEqual(saved("whole"))

    const ran = await chatlm(...pretrain("from"), "--from", "4", "--force")
    expect(ran.status, ran.error).toBe(0)
    expect(ran.error).toContain("step 4 of 12")
    expect(saved("from")).toEqual(saved("whole"))
    expect(ends("from")).toEqual(ends("whole"))
    const lines = readFileSync(dir.at("from/metrics.jsonl"), "utf8").trim().split("\n")
    expect(lines.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual(
      Array.from({ length: 12 }, (_, index) => index + 1)
    )
  })

  it("of another processor path are gone on from, and it is said that the bits differ", async () => {
    await ok(...pretrain("path", { maxSteps: 4 }))
    const { ran } = start(process.execPath, [bin, ...pretrain("path", { maxSteps: 6 })], {
      env: { ...process.env, CHATLM_CPU: "plain" }
    })
    const { status, error } = await ran
    expect(status, error).toBe(0)
    expect(error).toMatch(/not to the bit .* another cpu \(\w+, now plain\)/)
    const same = await chatlm(...pretrain("whole", { maxSteps: 13 }))
    expect(same.error).not.toContain("not to the bit")
  })

  it("are written before a run stops by an error", async () => {
    const settings = {
      saveEvery: 1_000_000,
      evalEvery: 150,
      maxSteps: 200,
      valid: dir.at("valid.jsonl"),
      samples: 1
    }
    const { child, ran } = startChatlm(...pretrain("error", settings))
    child.stdin?.end()
    const metrics = dir.at("error/metrics.jsonl")
    while (!existsSync(metrics) || !readFileSync(metrics, "utf8").includes('"loss"')) {
      expect(child.exitCode).toBe(null)
      await setTimeout(5)
    }
    renameSync(dir.at("valid.jsonl"), dir.at("away.jsonl"))
    const { status, error } = await ran
    renameSync(dir.at("away.jsonl"), dir.at("valid.jsonl"))
    expect(status, error).toBe(2)
    expect(error).toContain("valid.jsonl")
    expect(saved("error")).toEqual(["step-00000150"])
    await ok(...pretrain("error", settings))
    await ok(...pretrain("undisturbed", settings))
    expect(ends("error")).toEqual(ends("undisturbed"))
    const told = (out: string) =>
      readFileSync(dir.at(out, "metrics.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as { step: number; loss?: number; eval_loss?: number })
        .map(({ step, loss, eval_loss }) => [step, loss, eval_loss])
    expect(told("error")).toEqual(told("undisturbed"))
  })
})
