/** docs/export.md says what test/golden/export/howto.py runs; where Python and its peers are at hand, that it works. */
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"

import { describe, expect, it } from "vitest"

import { folder, ok, root, rows, tinyModel, writeJsonl } from "../e2e/support.ts"

const golden = join(root, "test/golden/export")
const guide = readFileSync(join(root, "docs/export.md"), "utf8")
const script = readFileSync(join(golden, "howto.py"), "utf8")

/** The fenced blocks of a language, without their fences. */
const blocks = (language: string) =>
  [...guide.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)]
    .filter(([, name]) => name === language)
    .map(([, , text = ""]) => text)

describe("docs/export.md", () => {
  it("names the commands of howto.py, in its order", () => {
    const commands = /^COMMANDS = \{\n([\s\S]*?)^\}$/m.exec(script)?.[1] ?? ""
    const run = [...commands.matchAll(/"""\n([\s\S]*?)"""/g)].map(([, lines]) => lines)
    expect(run.join("")).toContain("ct2-transformers-converter")
    expect(blocks("sh").join("")).toBe(run.join(""))
  })

  it("shows the programs that howto.py runs", () => {
    const programs = [...guide.matchAll(/^python (answer_\w+\.py)/gm)].map(([, name = ""]) => name)
    const texts = [...new Set(programs)].map((name) => readFileSync(join(golden, name), "utf8"))
    expect(texts).toHaveLength(3)
    expect(blocks("python")).toEqual(texts)
  })
})

const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "chatlm-dev")
const python = join(cache, "venv", "bin", "python")
const missing =
  process.env.CHATLM_PEERS !== "1"
    ? "CHATLM_PEERS=1 is not set"
    : [python, join(cache, "venv-onnx", "bin", "python")]
        .filter((path) => !existsSync(path))
        .map((path) => `there is no ${path}`)[0]
if (missing !== undefined) process.stderr.write(`skipped: docs/export.md is not run, ${missing}\n`)

describe("a model trained here", () => {
  it("answers alike in transformers, CTranslate2 and onnxruntime", { timeout: 900_000 }, async ({ skip }) => {
    skip(missing !== undefined, missing)
    const dir = folder()
    try {
      const data = rows(200)
      writeJsonl(dir.at("rows.jsonl"), data)
      const words = ["--model", "char-bpe", "--vocab-size", "300", "--min-frequency", "2"]
      await ok("tokenizer", "train", "--in", dir.at("rows.jsonl"), "--out", dir.at("tokenizer"), ...words)
      const settings = {
        model: tinyModel,
        tokenizer: dir.at("tokenizer"),
        train: dir.at("rows.jsonl"),
        out: dir.at("run"),
        batchSize: 16,
        maxLength: 48,
        maxSteps: 150,
        learningRate: 5e-3,
        warmupSteps: 5,
        dropout: 0
      }
      const set = Object.entries(settings).map(([key, value]) => `${key}=${JSON.stringify(value)}`)
      await ok("pretrain", "--set", ...set)
      const prompts = [...data.slice(0, 8), ...data.slice(100, 104)].map(({ prompt }) => prompt)
      const model = dir.at("run", "last")
      const asked = prompts.flatMap((prompt) => ["--prompt", prompt])
      const text = execFileSync(python, [join(golden, "howto.py"), model, ...asked], { encoding: "utf8" })
      const { answers }: { answers: ReadonlyArray<string> } = JSON.parse(text)
      expect(answers).toHaveLength(prompts.length)
      const length = ["--max-new-tokens", "64"]
      const own = await Promise.all(
        prompts.map((prompt) => ok("generate", "--model", model, "--prompt", prompt, ...length))
      )
      expect(own.map(({ response }) => response)).toEqual(answers)
    } finally {
      dir.remove()
    }
  })
})
