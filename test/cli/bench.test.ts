import { describe, expect, it } from "vitest"

import type { BenchGenerateOptions, BenchLoadOptions, BenchTrainStepOptions } from "../../ts/native/index.ts"
import { envelope, memoryBorder } from "../../ts/native/index.ts"
import { chatlm, lines } from "./support.ts"

const step = ["bench", "train-step"]

/** A border that keeps the options it was given. */
const listening = () => {
  const seen: Array<BenchTrainStepOptions> = []
  return {
    seen,
    border: {
      benchTrainStep: async (options: BenchTrainStepOptions) => {
        seen.push(options)
        return memoryBorder().benchTrainStep(options)
      }
    }
  }
}

describe("bench train-step", () => {
  it("defaults are the contract's: the 0.2 B model", async () => {
    const { seen, border } = listening()
    expect((await chatlm(step, { border })).status).toBe(0)
    expect(seen).toEqual([
      {
        dModel: 768,
        dFf: 3072,
        heads: 12,
        layers: 10,
        vocab: 29_298,
        batch: 4,
        source: 128,
        target: 128,
        optimizer: "adamw",
        precision: "f32",
        steps: 5,
        clip: 1,
        recompute: false,
        gated: false,
        seed: 23_333
      }
    ])
  })

  it("every flag reaches the core", async () => {
    const { seen, border } = listening()
    const sizes = {
      dModel: 64,
      dFf: 96,
      heads: 4,
      layers: 2,
      vocab: 100,
      batch: 3,
      source: 7,
      target: 9,
      steps: 2,
      clip: 0,
      seed: 5,
      threads: 1
    }
    const flags = Object.entries(sizes).flatMap(([name, value]) => [
      `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
      String(value)
    ])
    const words = ["--optimizer", "adafactor", "--precision", "bf16", "--feed-forward", "gated-gelu"]
    const ran = await chatlm([...step, ...flags, ...words, "--recompute"], { border })
    expect(ran.status).toBe(0)
    expect(seen).toEqual([
      { ...sizes, optimizer: "adafactor", precision: "bf16", gated: true, recompute: true }
    ])
  })

  it("--json has the contract's keys, one loss a step, on one line", async () => {
    const ran = await chatlm([...step, "--steps", "2", "--json"])
    expect(lines(ran.out)).toHaveLength(1)
    expect(ran.error).toBe("")
    expect(JSON.parse(ran.out)).toEqual({
      seconds_per_step: 0.5,
      forward: 0.125,
      backward: 0.25,
      update: 0.125,
      peak_rss_bytes: 1024 ** 2,
      tokens_per_second: 2048,
      cpu: "plain",
      loss: [1, 0.5]
    })
  })

  it("tells people a few lines", async () => {
    expect(lines((await chatlm(step)).out)).toEqual([
      "a step           0.5 s",
      "  forward        0.125 s",
      "  backward       0.25 s",
      "  update         0.125 s",
      "tokens a second  2,048",
      "peak memory      1 MB",
      "loss             1 → 0.2",
      "processor path   plain"
    ])
  })

  it("what the core refuses keeps its status", async () => {
    const border = {
      benchTrainStep: async () => {
        throw envelope("PRECISION_UNAVAILABLE", "bf16 is not there yet", "use f32")
      }
    }
    const ran = await chatlm([...step, "--precision", "bf16"], { border })
    expect(ran.status).toBe(3)
    expect(lines(ran.error)[0]).toBe("error[PRECISION_UNAVAILABLE]: bf16 is not there yet")
  })

  for (const args of [
    ["bench"],
    ["bench", "train-stop"],
    [...step, "--optimizer", "sgd"],
    [...step, "--precision", "int8"],
    [...step, "--feed-forward", "swiglu"],
    [...step, "--batch", "0"],
    [...step, "--d-model", "100", "--heads", "12"]
  ]) {
    it(`${args.join(" ")} is wrong usage`, async () => {
      const ran = await chatlm(args)
      expect(ran.status).toBe(1)
      expect(ran.out).toBe("")
      expect(lines(ran.error)[0]).toMatch(/^error\[USAGE\]: /)
    })
  }
})

describe("bench generate", () => {
  it("defaults are the contract's, and every flag reaches the core", async () => {
    const seen: Array<unknown> = []
    const border = {
      benchGenerate: async (options: BenchGenerateOptions) => {
        seen.push(options)
        return memoryBorder().benchGenerate(options)
      }
    }
    const bench = ["bench", "generate", "--model", "m"]
    expect((await chatlm(bench, { border })).status).toBe(0)
    const flags = "--batch 8 --source 32 --tokens 9 --search beam --beams 4 --dtype int8 --runs 2 --json"
    const ran = await chatlm([...bench, ...flags.split(" ")], { border })
    expect(seen).toEqual([
      { model: "m", batch: 1, source: 64, tokens: 96, search: "greedy", beams: 5, runs: 3, seed: 23_333 },
      {
        model: "m",
        batch: 8,
        source: 32,
        tokens: 9,
        search: "beam",
        beams: 4,
        runs: 2,
        seed: 23_333,
        dtype: "int8"
      }
    ])
    expect(JSON.parse(ran.out)).toEqual({
      tokens_per_second: 144,
      first_token_seconds: 0.125,
      load_seconds: 0.25,
      peak_rss_bytes: 1024 ** 2,
      cpu: "plain"
    })
  })
})

describe("bench load", () => {
  it("defaults are the contract's, and every flag reaches the core", async () => {
    const seen: Array<unknown> = []
    const border = {
      benchLoad: async (options: BenchLoadOptions) => {
        seen.push(options)
        return memoryBorder().benchLoad(options)
      }
    }
    const bench = ["bench", "load", "--in", "a", "b", "--tokenizer", "t"]
    expect((await chatlm(bench, { border })).status).toBe(0)
    const flags = "--batch 8 --batch-tokens 4096 --max-length 64 --batches 9 --mixed-lengths --row 7 --json"
    const ran = await chatlm([...bench, ...flags.split(" "), "--threads", "2"], { border })
    const given = { inputs: ["a", "b"], tokenizer: "t", seed: 23_333 }
    expect(seen).toEqual([
      { ...given, batch: 16, maxLength: 256, batches: 1000, groupByLength: true, row: 0 },
      {
        ...given,
        batch: 8,
        batchTokens: 4096,
        maxLength: 64,
        batches: 9,
        groupByLength: false,
        row: 7,
        threads: 2
      }
    ])
    expect(JSON.parse(ran.out)).toEqual({
      rows_per_second: 144,
      tokens_per_second: 14_400,
      padding_share: 0.0625,
      peak_rss_bytes: 1024 ** 2,
      open_seconds: 0.125,
      first_batch_seconds: 0.25,
      rows: 72,
      cpu: "plain"
    })
  })
})
