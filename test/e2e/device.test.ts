/**
 * `--device`, and training on a device without kernels of ours. Where there is no graphics card,
 * `CHATLM_CPU=twin` takes the processor for such a device: the whole program runs as it would on a card.
 */
import { readFileSync } from "node:fs"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, chatlmUnder, folder, ok, rows, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()
const twin = "CHATLM_CPU=twin"

const config = (out: string, more: Record<string, unknown> = {}) =>
  Object.entries({
    model: tinyModel,
    tokenizer: dir.at("tokenizer"),
    train: dir.at("rows.jsonl"),
    out: dir.at(out),
    batchSize: 4,
    maxLength: 64,
    maxSteps: 6,
    logEvery: 1,
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])

interface Line {
  readonly step: number
  readonly loss: number
  readonly loss_scale?: number
  readonly skipped_steps?: number
}

const metrics = (out: string): ReadonlyArray<Line> =>
  readFileSync(dir.at(out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))

const near = (found: ReadonlyArray<Line>, expected: ReadonlyArray<Line>, tolerance: number) => {
  expect(found.map(({ step }) => step)).toEqual(expected.map(({ step }) => step))
  for (const [place, { loss }] of found.entries()) {
    expect(Math.abs(loss / (expected[place]?.loss ?? 0) - 1)).toBeLessThan(tolerance)
  }
}

beforeAll(async () => {
  writeJsonl(dir.at("rows.jsonl"), rows(60))
  const tokenizer = ["--model", "byte-bpe", "--vocab-size", "300", "--min-frequency", "2"]
  await ok("tokenizer", "train", "--in", dir.at("rows.jsonl"), "--out", dir.at("tokenizer"), ...tokenizer)
  await ok("pretrain", "--device", "cpu", ...config("kernels"))
}, 120_000)

afterAll(() => dir.remove())

describe("a device", () => {
  it("that this build has not is refused before any work, with the build that has it", async () => {
    const { devices } = JSON.parse((await chatlm("doctor", "--json")).out) as { devices: Array<string> }
    expect(devices[0]).toBe("cpu")
    if (devices.some((name) => name.startsWith("cuda"))) return
    const ran = await chatlm("pretrain", "--device", "cuda:0", ...config("none"))
    expect(ran.status).toBe(3)
    expect(ran.error).toContain("DEVICE_UNAVAILABLE")
    expect(ran.error).toContain("npm run build:cuda")
  })

  it("without kernels trains, goes on and answers as the processor's kernels do", async () => {
    const ran = await chatlmUnder(twin, "pretrain", "--device", "cpu", ...config("twin", { maxSteps: 3 }))
    expect(ran.status).toBe(0)
    near(metrics("twin"), metrics("kernels").slice(0, 3), 1e-3)
    // The rest by the kernels, from the other's checkpoint. The schedule ends elsewhere, so only roughly.
    await ok("pretrain", "--device", "cpu", ...config("twin"))
    expect(metrics("twin")).toHaveLength(6)
    const answer = ["generate", "--device", "cpu", "--model", dir.at("kernels/last"), "--prompt", "一只猫"]
    const more = ["--max-new-tokens", "12", "--json"]
    const answers = await Promise.all([chatlm(...answer, ...more), chatlmUnder(twin, ...answer, ...more)])
    expect(answers[1].out).toBe(answers[0].out)
  }, 60_000)

  it("without kernels trains in f16, and says what its loss is scaled by", async () => {
    const refused = await chatlm("pretrain", "--device", "cpu", ...config("half", { precision: "f16" }))
    expect(refused.status).toBe(3)
    expect(refused.error).toContain("PRECISION_UNAVAILABLE")
    const half = config("half", { precision: "f16" })
    expect((await chatlmUnder(twin, "pretrain", "--device", "cpu", ...half)).status).toBe(0)
    const lines = metrics("half")
    near(lines, metrics("kernels"), 1e-2)
    expect(lines.every((line) => line.loss_scale === 65_536 && line.skipped_steps === 0)).toBe(true)
    expect(metrics("kernels").some((line) => "loss_scale" in line)).toBe(false)
  }, 60_000)

  it("without kernels resumes to the bit, in f16 too", async () => {
    for (const precision of ["f32", "f16"]) {
      const given = ["--device", "cpu", "--steps", "4", "--at", "2", "--json", ...config("v", { precision })]
      const ran = await chatlmUnder(twin, "verify-resume", ...given)
      expect(JSON.parse(ran.out)).toMatchObject({ equal: true })
    }
  }, 60_000)

  it("without kernels trains with two workers as with one, and goes on with one and on others", async () => {
    for (const [precision, tolerance] of [
      ["f32", 1e-4],
      ["f16", 2e-3]
    ] as const) {
      const run = async (out: string, more: Record<string, unknown>) => {
        const all = config(out, { precision, schedule: "constant", ...more })
        expect((await chatlmUnder(twin, "pretrain", "--device", "cpu", ...all)).status).toBe(0)
      }
      await run(`one-${precision}`, { gradientAccumulation: 2, maxSteps: 8 })
      for (const maxSteps of [4, 8]) await run(`two-${precision}`, { workers: 2, maxSteps })
      near(metrics(`two-${precision}`), metrics(`one-${precision}`), tolerance)
    }
    // The same folder by one worker's kernels.
    const more = config("two-f32", { gradientAccumulation: 2, maxSteps: 10 })
    expect((await chatlm("pretrain", "--device", "cpu", ...more)).status).toBe(0)
    expect(metrics("two-f32")).toHaveLength(10)
  }, 240_000)

  it("for each worker: what is no list of them is refused before any work", async () => {
    const run = (device: string, workers: number) =>
      chatlm("pretrain", "--device", device, ...config("refused", { workers }))
    expect((await run("cpu,toaster", 2)).error).toContain("toaster is no device")
    expect((await run("cpu,cpu", 1)).error).toContain("--workers")
    const mixed = await run("cpu,cpu", 2)
    expect(mixed.error).toContain("CONFIG_INVALID")
    expect(mixed.status).toBe(2)
  }, 60_000)
})
