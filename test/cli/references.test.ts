/** Where the command line takes a path it takes a reference; what the core sees is a local path. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"

import { describe, expect, it } from "vitest"

import { memoryBorder } from "../../ts/native/index.ts"
import type { Border } from "../../ts/native/index.ts"
import { newFolder, useHub } from "../fetch/support.ts"
import { chatlm } from "./support.ts"

const hub = useHub()
const model = {
  kind: "model",
  name: "owner/name",
  files: { "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "w", "x.onnx": "x" }
} as const
const rows = {
  kind: "dataset",
  name: "owner/rows",
  files: { "data/a.jsonl": "{}\n", "data/b.jsonl": "{}\n", "README.md": "" }
} as const

const run = (args: ReadonlyArray<string>, border: Partial<Border> = {}) => {
  hub.repositories.push(model, rows)
  const folder = newFolder()
  const env = { HOME: folder, HF_ENDPOINT: hub.address }
  return chatlm(args, { border, env })
}
const memory = memoryBorder()

describe("references", () => {
  it("as a model: a folder with what is read of it", async () => {
    const seen: Array<string> = []
    const Generator: Border["Generator"] = {
      load: (options, ...rest) => {
        seen.push(options.model)
        return memory.Generator.load(options, ...rest)
      }
    }
    const ran = await run(["generate", "--model", "hf:owner/name", "--prompt", "一"], { Generator })
    expect(ran.status).toBe(0)
    const [folder = ""] = seen
    expect(readFileSync(join(folder, "model.safetensors"), "utf8")).toBe("w")
    expect(existsSync(join(folder, "x.onnx"))).toBe(false)
  })

  it("as inputs: the files of its rows, in order, beside local ones", async () => {
    let inputs: ReadonlyArray<string> = []
    const merge: Border["merge"] = (options, ...rest) => {
      inputs = options.inputs
      return memory.merge(options, ...rest)
    }
    const ran = await run(["merge", "--in", "one.jsonl", "hf:owner/rows", "--out", "x.jsonl"], { merge })
    expect(ran.status).toBe(0)
    expect(inputs.map((path) => path.replace(/^.*snapshots\/1+\//, ""))).toEqual([
      "one.jsonl",
      "data/a.jsonl",
      "data/b.jsonl"
    ])
  })

  it("as one file, where no more than one is taken", async () => {
    const args = ["eval", "bleu", "--predictions"]
    let predictions: string | undefined
    const evaluateBleu: Border["evaluateBleu"] = (options, ...rest) => {
      predictions = options.predictions
      return memory.evaluateBleu(options, ...rest)
    }
    const many = await run([...args, "hf:datasets/owner/rows"], { evaluateBleu })
    expect(many).toMatchObject({
      status: 1,
      error: expect.stringContaining("are 2 files, and one is wanted")
    })
    expect(await run([...args, "hf:datasets/owner/rows:data/b.jsonl"], { evaluateBleu })).toMatchObject({
      status: 0
    })
    expect(predictions).toMatch(/data\/b\.jsonl$/)
  })

  it("in a training configuration, which is printed as it was written", async () => {
    const sets = [
      "--set",
      "model=hf:owner/name",
      'train=["hf:datasets/owner/rows"]',
      "valid=hf:datasets/owner/rows:data/a.jsonl",
      "maxSteps=1"
    ]
    let config: Record<string, unknown> = {}
    const TrainingRun: Border["TrainingRun"] = {
      open: (kind, given, ...rest) => {
        config = given as Record<string, unknown>
        return memory.TrainingRun.open(kind, given, ...rest)
      }
    }
    const ran = await run(["sft", ...sets], { TrainingRun })
    expect(ran).toMatchObject({ status: 0 })
    expect(config["model"]).toMatch(/models--owner--name\/snapshots\/1+$/)
    expect(config["tokenizer"]).toBe(config["model"])
    expect(config["train"]).toEqual([
      {
        paths: [expect.stringMatching(/data\/a\.jsonl$/), expect.stringMatching(/data\/b\.jsonl$/)],
        weight: 1
      }
    ])
    expect(config["valid"]).toMatch(/data\/a\.jsonl$/)
    const printed = await run(["sft", ...sets, "--print-config", "--json"])
    expect(JSON.parse(printed.out)).toMatchObject({ model: "hf:owner/name" })
  })

  it("what is not there is told as a missing path is", async () => {
    const ran = await run(["inspect", "hf:owner/none", "--json"])
    expect(ran.status).toBe(2)
    expect(JSON.parse(ran.out).error).toMatchObject({ code: "INPUT_NOT_FOUND" })
  })
})
