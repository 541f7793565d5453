// TensorBoard itself reads what a run leaves: all scalars and answers, none twice, after a kill and a resume too.
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync, readdirSync, truncateSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"

import { afterAll, describe, expect, it } from "vitest"

import { folder, ok, rows, startChatlm, tinyModel, writeJsonl } from "../e2e/support.ts"

const python =
  process.env.CHATLM_PYTHON ?? join(homedir(), ".cache", "chatlm-dev", "look-venv", "bin", "python")
const program = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
scalars = {tag: [[e.step, e.value, e.wall_time] for e in events.Scalars(tag)] for tag in tags["scalars"]}
texts = {tag: [[e.step, e.tensor_proto.string_val[0].decode()] for e in events.Tensors(tag)] for tag in tags["tensors"]}
print(json.dumps({"scalars": scalars, "texts": texts}))
`
const isThere = (() => {
  try {
    execFileSync(python, ["-c", "import tensorboard"], { stdio: "ignore" })
    return true
  } catch {
    process.stderr.write(`skipped: no Python with tensorboard at ${python} (set CHATLM_PYTHON)\n`)
    return false
  }
})()

interface Read {
  readonly scalars: Record<string, ReadonlyArray<readonly [step: number, value: number, time: number]>>
  readonly texts: Record<string, ReadonlyArray<readonly [step: number, text: string]>>
}

const read = (run: string): Read =>
  JSON.parse(
    execFileSync(python, ["-c", program, run], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })
  ) as Read

describe.skipIf(!isThere)("TensorBoard", () => {
  const here = folder()
  afterAll(here.remove)

  it(
    "reads scalars and answers, each step once, after a kill -9 and a record that breaks off",
    { timeout: 300_000 },
    async () => {
      const train = here.at("train.jsonl")
      writeJsonl(train, rows(100))
      const tokenizer = here.at("tok")
      await ok(
        "tokenizer",
        "train",
        "--in",
        train,
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
      const out = here.at("out")
      writeFileSync(
        config,
        JSON.stringify({
          model: tinyModel,
          tokenizer,
          train,
          valid: train,
          out,
          evalRows: 8,
          samples: 1,
          maxSteps: 400,
          batchSize: 4,
          saveEvery: 7,
          evalEvery: 50,
          logEvery: 1,
          epochs: 100
        })
      )
      const { child, ran } = startChatlm("pretrain", "--config", config, "--quiet")
      const metrics = join(out, "metrics.jsonl")
      while (!existsSync(metrics) || readFileSync(metrics, "utf8").split("\n").length < 60) {
        await new Promise((done) => setTimeout(done, 5))
      }
      child.kill("SIGKILL")
      await ran
      const eventFiles = () => readdirSync(out).filter((name) => name.startsWith("events.out.tfevents."))
      expect(eventFiles()).toHaveLength(1)
      const killed = join(out, eventFiles()[0] ?? "")
      truncateSync(killed, readFileSync(killed).length - 5)
      const steps = (run: Read) => (run.scalars["train/loss"] ?? []).map(([step]) => step)
      const before = steps(read(out))
      expect(before).toEqual(Array.from({ length: before.length }, (_, n) => n + 1))
      expect(before.length).toBeGreaterThan(40)

      await ok("pretrain", "--config", config)
      expect(eventFiles()).toHaveLength(1)
      const after = read(out)
      const lines = readFileSync(metrics, "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Record<string, number>)
      const told = lines.filter((line) => line.loss !== undefined)
      expect(steps(after)).toEqual(told.map(({ step }) => step))
      expect(steps(after)).toEqual(Array.from({ length: 400 }, (_, n) => n + 1))
      for (const [n, [, value, time]] of (after.scalars["train/loss"] ?? []).entries()) {
        expect(value).toBeCloseTo(told[n]?.loss ?? 0, 5)
        expect(time).toBeCloseTo(told[n]?.time ?? 0, 2)
      }
      expect(after.scalars["eval/loss"]?.map(([step]) => step)).toEqual([
        0, 50, 100, 150, 200, 250, 300, 350, 400
      ])
      const [text] = Object.values(after.texts)
      expect(text?.map(([step]) => step)).toEqual([0, 50, 100, 150, 200, 250, 300, 350, 400])
      expect(text?.[0]?.[1]).toContain(rows(1)[0]?.prompt ?? "")
    }
  )
})
