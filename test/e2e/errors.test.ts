/** What users get wrong and what machines run out of: the contract's status and two lines, nothing half-written. */
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  truncateSync,
  writeFileSync
} from "node:fs"
import { createServer } from "node:net"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import type { Ran } from "./support.ts"
import { bin, chatlm, chatlmUnder, folder, ok, rows, start, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()

beforeAll(async () => {
  writeJsonl(dir.at("rows.jsonl"), rows(300))
  await ok(
    "clean",
    "--source",
    "pairs",
    "--in",
    dir.at("rows.jsonl"),
    "--prompt-column",
    "prompt",
    "--response-column",
    "response",
    "--out",
    dir.at("rows.parquet")
  )
  await ok(
    "tokenizer",
    "train",
    "--in",
    dir.at("rows.parquet"),
    "--out",
    dir.at("tokenizer"),
    "--model",
    "byte-bpe",
    "--vocab-size",
    "400",
    "--min-frequency",
    "2"
  )
  await ok("pretrain", ...config(dir.at("run")))
}, 120_000)

afterAll(() => dir.remove())

const config = (out: string, more: Record<string, unknown> = {}) =>
  Object.entries({
    model: tinyModel,
    tokenizer: dir.at("tokenizer"),
    train: dir.at("rows.parquet"),
    out,
    batchSize: 4,
    maxLength: 64,
    maxSteps: 3,
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])

const clean = (input: string, out: string) => [
  "clean",
  "--source",
  "pairs",
  "--in",
  input,
  "--prompt-column",
  "prompt",
  "--response-column",
  "response",
  "--out",
  out
]

const expectError = (ran: Ran, status: number, code: string, ...mentions: ReadonlyArray<string>) => {
  const said = ran.error.trim().split("\n").slice(-2)
  expect(said[0], ran.error).toMatch(new RegExp(`^error\\[${code}\\]: .`))
  expect(said[1]).toMatch(/^help: ./)
  for (const mention of mentions) expect(ran.error).toContain(mention)
  expect(ran.status).toBe(status)
}

describe("input", () => {
  it("missing file", async () => {
    expectError(
      await chatlm(...clean(dir.at("nowhere.jsonl"), dir.at("a.parquet"))),
      2,
      "INPUT_NOT_FOUND",
      "nowhere.jsonl"
    )
    expect(existsSync(dir.at("a.parquet"))).toBe(false)
  })

  it("broken parquet", async () => {
    copyFileSync(dir.at("rows.parquet"), dir.at("cut.parquet"))
    truncateSync(dir.at("cut.parquet"), 2000)
    expectError(
      await chatlm("dedup", "--in", dir.at("cut.parquet"), "--out", dir.at("b.parquet")),
      2,
      "INPUT_FORMAT",
      "cut.parquet"
    )
    expect(existsSync(dir.at("b.parquet"))).toBe(false)
  })

  it("a row without a prompt", async () => {
    writeJsonl(dir.at("gap.jsonl"), [...rows(20), { response: "只有回答，没有问题的一行。" }, ...rows(20)])
    expectError(
      await chatlm("pretrain", ...config(dir.at("gap"), { train: dir.at("gap.jsonl") })),
      2,
      "INPUT_ROW",
      "gap.jsonl",
      "20",
      "prompt"
    )
  })

  it("broken JSON names its row", async () => {
    copyFileSync(dir.at("rows.jsonl"), dir.at("broken.jsonl"))
    appendFileSync(dir.at("broken.jsonl"), '{"prompt": \n')
    expectError(
      await chatlm(...clean(dir.at("broken.jsonl"), dir.at("c.parquet"))),
      2,
      "INPUT_[A-Z]+",
      "broken.jsonl",
      "300"
    )
    const going = await ok(...clean(dir.at("broken.jsonl"), dir.at("d.parquet")), "--keep-going")
    expect(going).toMatchObject({ read: 301, kept: 300, broken: 1 })
  })

  it("NaN in weights", async () => {
    cpSync(dir.at("run/last"), dir.at("nan"), { recursive: true })
    const file = dir.at("nan/model.safetensors")
    const bytes = readFileSync(file)
    const header = 8 + Number(bytes.readBigUInt64LE(0))
    bytes.writeFloatLE(Number.NaN, header + 400)
    writeFileSync(file, bytes)
    expectError(
      await chatlm("generate", "--model", dir.at("nan"), "--prompt", "你好"),
      2,
      "NOT_FINITE",
      "nan"
    )
  })

  it("a loss that is not finite stops with its rows kept, or leaves the step out", async () => {
    const far = { learningRate: 1e30, warmupSteps: 0, maxSteps: 4 }
    expectError(await chatlm("pretrain", ...config(dir.at("far"), far)), 2, "NOT_FINITE", "not finite")
    const kept = readdirSync(dir.at("far")).filter((name) => name.startsWith("not-finite-"))
    expect(kept).toHaveLength(1)
    const [row] = readFileSync(dir.at("far", kept[0] ?? ""), "utf8").split("\n")
    expect(JSON.parse(row ?? "")).toMatchObject({
      row: expect.any(Number),
      prompt: expect.any(String),
      response_ids: expect.any(Array)
    })
    const going = await chatlm("pretrain", ...config(dir.at("skip"), { ...far, onNaN: "skip" }))
    expect(going.status).toBe(0)
    expect(going.error).toContain("not-finite-")
  })

  it("a damaged checkpoint is passed over, and told", async () => {
    cpSync(dir.at("run"), dir.at("damaged"), { recursive: true })
    await ok("pretrain", ...config(dir.at("damaged"), { maxSteps: 6 }))
    const checkpoints = readdirSync(dir.at("damaged/checkpoints")).toSorted()
    expect(checkpoints.length).toBeGreaterThan(1)
    truncateSync(dir.at("damaged/checkpoints", checkpoints.at(-1) ?? "", "weights.safetensors"), 100)
    const ran = await chatlm("pretrain", ...config(dir.at("damaged"), { maxSteps: 6 }))
    expect(ran.status).toBe(0)
    expect(ran.error).toContain(checkpoints.at(-1))
    expect(ran.error).toContain(checkpoints.at(-2))
  })

  it("unknown key of a configuration", async () => {
    expectError(
      await chatlm("pretrain", ...config(dir.at("x"), { batchsize: 3 })),
      2,
      "CONFIG_INVALID",
      "batchSize"
    )
  })

  it("an existing target, an unknown flag", async () => {
    expectError(
      await chatlm(...clean(dir.at("rows.jsonl"), dir.at("rows.parquet"))),
      1,
      "TARGET_EXISTS",
      "--force"
    )
    expectError(await chatlm("clean", "--sorce", "pairs"), 1, "USAGE")
  })

  it("under --json the envelope is the last line of stdout", async () => {
    const ran = await chatlm(...clean(dir.at("nowhere.jsonl"), dir.at("a.parquet")), "--json")
    const { error } = JSON.parse(ran.out.trim().split("\n").at(-1) ?? "")
    expect(error).toMatchObject({ code: "INPUT_NOT_FOUND" })
    expect(Object.keys(error).toSorted()).toEqual(["code", "context", "help", "message"])
  })
})

describe("environment", () => {
  // A file-size limit gives the same error path as a full disk, and needs no right to mount.
  const full = "ulimit -f 8;"

  it("full disk while writing a table", async () => {
    writeJsonl(
      dir.at("large.jsonl"),
      Array.from({ length: 3000 }, (_, n) => ({
        prompt: `第${n}个问题是什么？`,
        response: `${n}号`.repeat(5) + Math.sin(n)
      }))
    )
    expectError(
      await chatlmUnder(full, ...clean(dir.at("large.jsonl"), dir.at("full.parquet"))),
      3,
      "DISK_FULL"
    )
    expect(readdirSync(dir.path).filter((name) => name.includes("full.parquet"))).toEqual([])
  })

  it("full disk while saving a checkpoint, and going on once there is room", async () => {
    const out = dir.at("fullrun")
    expectError(await chatlmUnder(full, "pretrain", ...config(out)), 3, "DISK_FULL")
    const left = existsSync(`${out}/checkpoints`)
      ? readdirSync(`${out}/checkpoints`).filter((name) => name.startsWith("step-"))
      : []
    expect(left).toEqual([])
    await ok("pretrain", ...config(out))
    expect(readFileSync(`${out}/last/model.safetensors`)).toEqual(
      readFileSync(dir.at("run/last/model.safetensors"))
    )
  })

  it("read-only folder", async () => {
    mkdirSync(dir.at("locked"), { mode: 0o555 })
    // Root passes permissions by its capabilities, so they are taken away first.
    const args = clean(dir.at("rows.jsonl"), dir.at("locked/a.parquet"))
    const ran = await (process.getuid?.() === 0
      ? start("setpriv", ["--bounding-set=-all", "--inh-caps=-all", process.execPath, bin, ...args]).ran
      : chatlm(...args))
    expectError(ran, 3, "PERMISSION_DENIED", "locked")
    expect(readdirSync(dir.at("locked"))).toEqual([])
  })

  it("port taken", async () => {
    const server = createServer()
    const port = await new Promise<number>((done) =>
      server.listen(0, "127.0.0.1", () => done((server.address() as { port: number }).port))
    )
    const ran = await chatlm("serve", "--model", dir.at("run/last"), "--port", String(port))
    server.close()
    expectError(ran, 3, "PORT_IN_USE", String(port))
  })

  it("a processor path that there is not", async () => {
    const doctor = (path: string) => chatlmUnder(`CHATLM_CPU=${path}`, "doctor", "--json")
    expectError(await doctor("sse9"), 1, "USAGE", "sse9")
    const plain = await doctor("plain")
    expect(JSON.parse(plain.out)).toMatchObject({ cpu: "plain" })
  })

  it("bf16 and recomputing train on every path that this processor has", async () => {
    const losses: Array<number> = []
    for (const path of ["twin", "plain", "avx2", "avx512", "avx512bf16"]) {
      const probe = await chatlmUnder(`CHATLM_CPU=${path}`, "doctor", "--json")
      if (probe.status === 3) continue
      const shape = "--d-model 64 --d-ff 96 --heads 4 --layers 2 --vocab 200 --source 9 --target 7"
      const step = `bench train-step ${shape} --steps 3 --precision bf16 --recompute --json`
      const ran = await chatlmUnder(`CHATLM_CPU=${path}`, ...step.split(" "))
      const { cpu, loss } = JSON.parse(ran.out) as { cpu: string; loss: Array<number> }
      expect(cpu).toBe(path)
      losses.push(loss.at(-1) ?? Number.NaN)
    }
    expect(losses.length).toBeGreaterThan(0)
    for (const loss of losses) expect(Math.abs(loss / (losses[0] ?? 0) - 1)).toBeLessThan(1e-3)
  })

  it("a precision that the device does not have", async () => {
    const generate = ["generate", "--model", dir.at("run/last"), "--prompt", "你好", "--dtype", "bf16"]
    expectError(await chatlmUnder("CHATLM_CPU=twin", ...generate), 3, "PRECISION_UNAVAILABLE")
  })
})
