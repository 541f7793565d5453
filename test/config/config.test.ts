import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"

import { applySetting, guessKind, loadConfig, nearest, resolveConfig } from "../../ts/config/index.ts"
import { presets } from "../../ts/config/presets.ts"
import type { RunKind } from "../../ts/native/index.ts"

const resolve = (kind: RunKind, input: unknown) => Effect.runPromise(resolveConfig(kind, input))
const refuse = (kind: RunKind, input: unknown) => Effect.runPromise(Effect.flip(resolveConfig(kind, input)))

describe("configuration", () => {
  it("every key has a default, and the printed order is the schema's", async () => {
    const config = await resolve("pretrain", {})
    expect(Object.keys(config).slice(0, 5)).toEqual(["model", "tokenizer", "train", "valid", "out"])
    expect(config).toMatchObject({ model: null, epochs: 1, batchSize: 16, learningRate: 1e-4, seed: 23_333 })
    expect(config).not.toHaveProperty("freeze")
    expect(Object.values(config)).not.toContain(undefined)
  })

  it("what is resolved resolves to itself", async () => {
    for (const kind of ["pretrain", "sft", "dpo"] as const) {
      const config = await resolve(kind, { lora: undefined, train: ["a", { path: "b", weight: 0.5 }] })
      expect(await resolve(kind, config)).toEqual(config)
    }
  })

  it("train is a path, a list or weighted sets", async () => {
    expect((await resolve("sft", { train: "a" })).train).toEqual([{ paths: ["a"], weight: 1 }])
    expect((await resolve("sft", { train: ["a", "b"] })).train).toEqual([{ paths: ["a", "b"], weight: 1 }])
    expect(
      (await resolve("sft", { train: ["a", { path: "b", weight: 2 }, { paths: ["c", "d"] }] })).train
    ).toEqual([
      { paths: ["a"], weight: 1 },
      { paths: ["b"], weight: 2 },
      { paths: ["c", "d"], weight: 1 }
    ])
  })

  it("sft freezes embedding and encoder, but nothing beside lora", async () => {
    expect(await resolve("sft", {})).toMatchObject({ freeze: ["embedding", "encoder"], lora: null })
    expect(await resolve("sft", { lora: {} })).toMatchObject({
      freeze: [],
      lora: { r: 16, targets: ["q", "v"] }
    })
    expect(await resolve("sft", { lora: {}, freeze: ["decoder"] })).toMatchObject({ freeze: ["decoder"] })
  })

  it("lora takes PEFT's ways to name layers, and keeps only the keys that were given", async () => {
    const lora = {
      targets: "decoder.*q",
      excludeModules: ["EncDecAttention.q"],
      rankPattern: { q: 4 },
      useDora: true,
      initLoraWeights: "gaussian"
    }
    expect(await resolve("sft", { lora })).toHaveProperty("lora", {
      r: 16,
      alpha: 16,
      dropout: 0.1,
      bias: "none",
      ...lora
    })
  })

  it("the tokenizer is the model's where none is named", async () => {
    expect(await resolve("sft", { model: "m" })).toMatchObject({ model: "m", tokenizer: "m" })
    expect(await resolve("sft", { model: "m", tokenizer: "t" })).toMatchObject({ tokenizer: "t" })
  })

  it("an unknown key is named with the nearest known one", async () => {
    for (const [input, key, near] of [
      [{ learning_rate: 1 }, "learning_rate", "learningRate"],
      [{ bachSize: 1 }, "bachSize", "batchSize"],
      [{ lora: { rank: 8, alpa: 1 } }, "lora.rank", "lora."],
      [{ train: [{ path: "a", wieght: 1 }] }, "train[0].wieght", "train[0].weight"],
      [{ model: { d_modle: 1 } }, "model.d_modle", "model.d_model"]
    ] as const) {
      const error = await refuse("sft", input)
      expect(error.code).toBe("CONFIG_INVALID")
      expect(error.message).toContain(`"${key}"`)
      expect(error.help).toContain(near)
    }
    expect((await refuse("pretrain", { beta: 0.1 })).message).toContain('"beta"')
  })

  it("a preset stands under what is written and over the defaults", async () => {
    const config = await resolve("pretrain", { preset: "chatlm-trainer", batchSize: 4 })
    expect(config).toMatchObject({ optimizer: "adafactor", relativeStep: true, epochs: 8, batchSize: 4 })
    expect(config).not.toHaveProperty("preset")
    for (const name of Object.keys(presets.pretrain)) await resolve("pretrain", { preset: name })
    const error = await refuse("pretrain", { preset: "chatlm-trainre" })
    expect(error.message).toContain("chatlm-trainer")
    expect(error.context).toMatchObject({ key: "preset" })
    expect((await refuse("dpo", { preset: "chatlm-hf" })).message).toContain("dpo has none")
  })

  it("a wrong value names its key", async () => {
    for (const [input, key] of [
      [{ learningRate: "fast" }, "learningRate"],
      [{ learningRate: 0 }, "learningRate"],
      [{ batchSize: 1.5 }, "batchSize"],
      [{ schedule: "sometimes" }, "schedule"],
      [{ dropout: 1 }, "dropout"],
      [{ train: [] }, "train"],
      [{ lora: { r: 0 } }, "lora.r"],
      [{ lora: { initLoraWeights: "pissa" } }, "lora.initLoraWeights"],
      [{ lora: { rankPattern: { q: 0 } } }, "lora.rankPattern"]
    ] as const) {
      const error = await refuse("sft", input)
      expect(error.code).toBe("CONFIG_INVALID")
      expect(error.message).toContain(key)
    }
    expect((await refuse("sft", [])).code).toBe("CONFIG_INVALID")
  })

  it("--set reaches inside, reads JSON, and takes the rest as text", async () => {
    const set = (target: unknown, setting: string) => Effect.runPromise(applySetting(target, setting))
    expect(await set({}, "a.b=3")).toEqual({ a: { b: 3 } })
    expect(await set({ a: { c: 1 } }, "a.b=[1]")).toEqual({ a: { c: 1, b: [1] } })
    expect(await set({ train: [{ path: "a" }] }, "train.0.weight=2")).toEqual({
      train: [{ path: "a", weight: 2 }]
    })
    expect(await set({}, "out=runs/x=1")).toEqual({ out: "runs/x=1" })
    expect((await Effect.runPromise(Effect.flip(applySetting({}, "a")))).code).toBe("USAGE")
  })

  it("the kind is told by the keys that only it has", () => {
    expect([guessKind({}), guessKind({ lora: {} }), guessKind({ beta: 1, lora: {} })]).toEqual([
      "pretrain",
      "sft",
      "dpo"
    ])
  })

  it("nearest sets case and separators aside", () => {
    expect(nearest("BATCH-SIZE", ["batchSize", "maxSteps"])).toBe("batchSize")
  })
})

describe("configuration files", () => {
  const folder = mkdtempSync(join(tmpdir(), "chatlm-config-"))
  const file = (name: string, text: string) => {
    const path = join(folder, name)
    writeFileSync(path, text)
    return path
  }
  const load = (path: string) => loadConfig("sft", { file: path }).pipe(Effect.provide(NodeFileSystem.layer))

  it("JSON, JSONC, YAML and TypeScript say the same", async () => {
    const expected = await resolve("sft", { epochs: 2, out: "o" })
    for (const path of [
      file("a.json", '{"epochs":2,"out":"o"}'),
      file("a.jsonc", '{\n  // twice\n  "epochs": 2,\n  "out": "o",\n}'),
      file("a.yaml", "epochs: 2\nout: o\n"),
      file("a.ts", 'const out: string = "o"\nexport default { epochs: 2, out }\n')
    ]) {
      expect(await Effect.runPromise(load(path))).toEqual(expected)
    }
  })

  it("a broken file says where", async () => {
    const json = await Effect.runPromise(Effect.flip(load(file("b.json", '{\n  "epochs" 2\n}'))))
    expect(json).toMatchObject({ code: "CONFIG_INVALID", context: { line: 2 } })
    expect((await Effect.runPromise(Effect.flip(load(file("b.yaml", "a: [1\n"))))).code).toBe(
      "CONFIG_INVALID"
    )
    expect((await Effect.runPromise(Effect.flip(load(file("b.ts", "export default nothing"))))).code).toBe(
      "CONFIG_INVALID"
    )
    expect((await Effect.runPromise(Effect.flip(load(join(folder, "none.json"))))).code).toBe(
      "INPUT_NOT_FOUND"
    )
  })
})
