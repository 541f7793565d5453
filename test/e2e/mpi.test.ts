/** `mpirun -np 2 chatlm pretrain …`, where Open MPI is and the addon for it has been built (`npm run build:mpi`). */
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"

import { afterAll, describe, expect, it } from "vitest"

import { bin, folder, ok, root, rows, start, tinyModel, writeJsonl } from "./support.ts"

const addon = join(root, "npm", "chatlm-mpi-linux-x64", "chatlm.linux-x64-mpi.node")
const missing =
  spawnSync("mpirun", ["--version"]).status !== 0
    ? "Open MPI is not installed"
    : !existsSync(addon)
      ? "there is no addon for it: npm run build:mpi"
      : undefined
if (missing !== undefined) process.stderr.write(`skipped: workers under mpirun (${missing})\n`)

describe.skipIf(missing !== undefined)("mpirun", () => {
  const dir = folder()
  afterAll(dir.remove)

  it("trains with two as one with twice the batch does", async () => {
    writeJsonl(dir.at("train.jsonl"), rows(195))
    await ok(
      "tokenizer",
      "train",
      "--in",
      dir.at("train.jsonl"),
      "--out",
      dir.at("tokenizer"),
      "--model",
      "char-bpe",
      "--vocab-size",
      "300",
      "--min-frequency",
      "2"
    )
    const pretrain = (out: string, batchSize: number) => [
      "pretrain",
      ...Object.entries({
        tokenizer: dir.at("tokenizer"),
        train: dir.at("train.jsonl"),
        model: tinyModel,
        out: dir.at(out),
        batchSize,
        maxLength: 48,
        maxSteps: 20,
        logEvery: 1
      }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
    ]
    const ran = await start("mpirun", [
      "--allow-run-as-root",
      "--oversubscribe",
      "-np",
      "2",
      process.execPath,
      bin,
      ...pretrain("two", 8)
    ]).ran
    expect(ran.error + ran.out).toContain("20 steps")
    expect(ran.status).toBe(0)
    await ok(...pretrain("one", 16))
    const losses = (out: string) =>
      readFileSync(dir.at(out, "metrics.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { loss: number }).loss)
    const [two, one] = [losses("two"), losses("one")]
    expect(two).toHaveLength(20)
    for (const [step, loss] of two.entries()) expect(Math.abs(loss - (one[step] ?? 0))).toBeLessThan(1e-4)
  }, 180_000)
})
