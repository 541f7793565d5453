// What plan concludes from its probes, and that what it says of memory and time is what a run then takes.
import { existsSync, readFileSync, writeFileSync } from "node:fs"

import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"

import type { ProbeOptions, ProbeReport } from "../../ts/native/index.ts"
import { plan, reach } from "../../ts/train/plan.ts"
import { Prober } from "../../ts/train/prober.ts"
import type { Probe } from "../../ts/train/prober.ts"
import { chatlm } from "../cli/support.ts"
import { folder, ok, rows, startChatlm, tinyModel, writeJsonl } from "../e2e/support.ts"

const mib = 2 ** 20
const base: ProbeReport = {
  device: "cpu",
  parameters: 10,
  trainable: 10,
  rows: 100_000,
  totalSteps: 1000,
  doneSteps: 100,
  tokensPerRow: 50,
  longest: [30, 40],
  weightBytes: 40 * mib,
  gradientBytes: 40 * mib,
  optimizerBytes: 80 * mib,
  checkpointBytes: 120 * mib,
  exportBytes: 40 * mib,
  availableBytes: 1000 * mib,
  openedBytes: 200 * mib,
  steps: [],
  stepsPeakBytes: 0,
  batches: []
}

/** A machine on which a row takes 5 MiB; a probe beyond `most` dies. */
const machine = (most: number, device = "cpu", bend = 0) => {
  const asked: Array<ProbeOptions> = []
  const peak = (batch: number) => (250 + 5 * batch + bend * batch * batch) * mib
  const probe = (_kind: unknown, _config: unknown, options: ProbeOptions) => {
    asked.push(options)
    const { batches = [], steps = 0 } = options
    if (batches.some((batch) => peak(batch) > most * mib)) return Effect.succeed(undefined)
    return Effect.succeed({
      ...base,
      device,
      steps: Array.from({ length: steps }, () => ({ seconds: 2, forwardSeconds: 0.5, tokens: 1000 })),
      stepsPeakBytes: steps > 0 ? 280 * mib : 0,
      batches: batches.map((batch) => ({ batch, seconds: batch / 100, peakBytes: peak(batch) }))
    })
  }
  return { asked, probe }
}

const config = { batchSize: 16, gradientAccumulation: 2, keep: 3, out: "/nowhere/out", valid: null }
const planOn = ({ probe }: { readonly probe: Probe }, more: { readonly maxMemory?: number } = {}) =>
  plan({ kind: "pretrain", config, ...more }).pipe(Effect.provideService(Prober, probe))
const run = (...args: Parameters<typeof planOn>) => Effect.runPromise(planOn(...args))

describe("what follows from probes", () => {
  it("a line through two batches reaches the limit where it should", () => {
    expect(reach({ batch: 1, bytes: 105 }, { batch: 5, bytes: 125 }, 205)).toBe(21)
    expect(reach({ batch: 1, bytes: 105 }, { batch: 5, bytes: 125 }, 109)).toBe(1)
    expect(reach({ batch: 1, bytes: 105 }, { batch: 5, bytes: 125 }, 10)).toBe(0)
  })

  it("time, memory and disk; the largest batch is tried before it is told", async () => {
    const there = machine(1000)
    const report = await run(there)
    expect(report).toMatchObject({
      tokensPerStep: 1600,
      tokensPerSecond: 500,
      secondsPerStep: 3.2,
      secondsLeft: 2880,
      memoryBytes: 280 * mib,
      longestMemoryBytes: 330 * mib,
      activationBytes: 90 * mib,
      diskBytes: 560 * mib,
      fits: true,
      largestBatch: 140,
      verifiedBatch: 140
    })
    expect(there.asked).toEqual([{ batches: [1, 4] }, { steps: 3, batches: [16] }, { batches: [140] }])
  })

  it("a batch that would not fit is never tried, and the largest is still found", async () => {
    const there = machine(300)
    const report = await run(there, { maxMemory: 300 * mib })
    expect(report).toMatchObject({ fits: false, memoryBytes: null, secondsLeft: null, largestBatch: 7 })
    expect(there.asked.flatMap(({ batches = [] }) => batches).every((batch) => batch < 16)).toBe(true)
    expect(await run(machine(300), { maxMemory: 200 * mib })).toMatchObject({ fits: false, largestBatch: 0 })
  })

  it("where memory bends away from the line, or somebody takes it, a smaller one is told that held", async () => {
    const bent = await run(machine(900, "cpu", 0.01))
    expect(bent.fits).toBe(true)
    expect(bent.verifiedBatch).toBe(bent.largestBatch)
    const peak = 250 + 5 * bent.largestBatch + 0.01 * bent.largestBatch ** 2
    expect(peak).toBeLessThanOrEqual(900)
    expect(peak).toBeGreaterThan(600)
  })

  it("a card is asked by trying", async () => {
    const report = await run(machine(900, "cuda:0"))
    // 130 rows fit.
    expect(report.largestBatch).toBeGreaterThan(110)
    expect(report.largestBatch).toBeLessThanOrEqual(130)
    expect(report.verifiedBatch).toBe(report.largestBatch)
    expect(report).toMatchObject({ fits: true, memoryBytes: null, activationBytes: null })
  })

  it("where not even four rows fit it says what to do", async () => {
    expect(await Effect.runPromise(Effect.flip(planOn(machine(100))))).toMatchObject({
      code: "CONFIG_INVALID"
    })
  })
})

/** What the test reads of the answer. */
interface Told {
  readonly steps: number
  readonly largest_batch: number
  readonly verified_batch: number
  readonly memory_bytes: number
  readonly tokens_per_second: number
  readonly tokens_per_step: number
}

describe("chatlm plan", () => {
  const here = folder()
  afterAll(here.remove)

  it("says of a real run what it then takes, and leaves its folder alone", { timeout: 300_000 }, async () => {
    const all = rows(800)
    const pick = (n: number) => Array.from({ length: 8 }, (_, k) => all[(n * 37 + k * 101) % 800])
    const text = (n: number, key: "prompt" | "response") =>
      pick(n)
        .map((row) => row?.[key] ?? "")
        .join("")
    const long = Array.from({ length: 480 }, (_, n) => ({
      prompt: text(n, "prompt"),
      response: text(n, "response")
    }))
    writeJsonl(here.at("train.jsonl"), long)
    const tokenizer = here.at("tok")
    await ok(
      "tokenizer",
      "train",
      "--in",
      here.at("train.jsonl"),
      "--out",
      tokenizer,
      "--model",
      "char-bpe",
      "--vocab-size",
      "80",
      "--min-frequency",
      "1"
    )
    const config = here.at("config.json")
    const settings = {
      model: { ...tinyModel, d_model: 128, d_ff: 512, num_layers: 4, num_decoder_layers: 4 },
      tokenizer,
      train: here.at("train.jsonl"),
      out: here.at("out"),
      batchSize: 24,
      maxLength: 160,
      logEvery: 1
    }
    writeFileSync(config, JSON.stringify(settings))
    const told = (await ok("plan", "--config", config, "--max-memory", "600MiB")) as unknown as Told
    expect(existsSync(here.at("out"))).toBe(false)
    expect(told.steps).toBe(20)
    expect(told.largest_batch).toBeGreaterThan(24)
    expect(told.verified_batch).toBe(told.largest_batch)

    const { child, ran } = startChatlm("pretrain", "--config", config, "--json")
    let peak = 0
    const look = setInterval(() => {
      try {
        const status = readFileSync(`/proc/${child.pid}/status`, "utf8")
        peak = Math.max(peak, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) * 1024)
      } catch {
        // It has ended.
      }
    }, 20)
    const { status } = await ran
    clearInterval(look)
    expect(status).toBe(0)
    expect(told.memory_bytes / peak).toBeGreaterThan(0.85)
    expect(told.memory_bytes / peak).toBeLessThan(1.15)
    const lines = readFileSync(here.at("out", "metrics.jsonl"), "utf8").trim().split("\n")
    const steps = lines.map((line) => JSON.parse(line) as Record<string, number>)
    const rate = steps.map((line) => line.tokens_per_second ?? 0).toSorted((a, b) => a - b)[10] ?? 0
    // Other programs on the machine change the speed between the two; not by so much.
    expect(told.tokens_per_second / rate).toBeGreaterThan(0.4)
    expect(told.tokens_per_second / rate).toBeLessThan(2.5)
    expect(told.tokens_per_step * 20).toBeCloseTo(steps.at(-1)?.tokens ?? 0, -3)
  })

  it("tells what is wrong with a configuration as training does", async () => {
    const ran = await chatlm(["plan", "--set", "batchSize=0"])
    expect(ran.status).toBe(2)
    expect(ran.error).toContain("batchSize")
  })
})
