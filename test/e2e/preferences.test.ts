/** Rejected answers, reference scores and evaluation rows in the training set, by the real program. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { setTimeout } from "node:timers/promises"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, folder, ok, rows, startChatlm, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()
const before = process.env["CHATLM_CACHE"]
const cache = dir.at("cache")
const text = (path: string) => readFileSync(path, "utf8")

/** A line of a journal or an event of a run, with the fields that these tests read. */
interface Line {
  readonly [field: string]: unknown
  readonly type: string
  readonly reason: string
  readonly rows: number
  readonly computed: number
  readonly eval_loss: number
  readonly "eval_rewards/accuracies": number
}
const lines = (path: string): ReadonlyArray<Line> =>
  text(path)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line)

const train = (kind: string, out: string, more: Record<string, unknown>) => [
  kind,
  ...Object.entries({
    out,
    batchSize: 8,
    maxLength: 48,
    logEvery: 1,
    samples: 0,
    bleuRows: 0,
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
]

/** The events of a run. */
const events = async (...args: ReadonlyArray<string>): Promise<ReadonlyArray<Line>> => {
  const ran = await chatlm(...args, "--json")
  if (ran.status !== 0) throw new Error(ran.error + ran.out)
  return ran.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
}

const pairs = (count: number) =>
  rows(count).map(({ prompt, response }, n) => ({
    prompt: `${prompt}第${n}问`,
    chosen: response,
    rejected: n % 7 === 0 ? "不" : `不是${n}`
  }))

beforeAll(async () => {
  process.env["CHATLM_CACHE"] = cache
  writeJsonl(dir.at("rows.jsonl"), rows(400))
  const many = rows(2400).map(({ prompt, response }, n) => ({ prompt: `${prompt}第${n}问`, response }))
  writeJsonl(dir.at("a.jsonl"), many.slice(0, 1000))
  writeJsonl(dir.at("b.jsonl"), many.slice(1000))
  writeJsonl(dir.at("pairs.jsonl"), pairs(120))
  writeJsonl(dir.at("valid.jsonl"), pairs(160).slice(110))
  await ok(
    "tokenizer",
    "train",
    "--in",
    dir.at("rows.jsonl"),
    "--out",
    dir.at("tokenizer"),
    "--model",
    "char-bpe",
    "--vocab-size",
    "200",
    "--min-frequency",
    "1"
  )
  const model = { model: tinyModel, tokenizer: dir.at("tokenizer"), train: dir.at("rows.jsonl") }
  await ok(...train("pretrain", dir.at("base"), { ...model, maxSteps: 30, learningRate: 5e-3, dropout: 0 }))
}, 120_000)

afterAll(() => {
  if (before === undefined) delete process.env["CHATLM_CACHE"]
  else process.env["CHATLM_CACHE"] = before
  dir.remove()
})

describe("reject", () => {
  const drawn = ["--search", "sample", "--temperature", "1.3", "--max-new-tokens", "40", "--seed", "5"]
  const reject = (out: string, ...more: ReadonlyArray<string>) => [
    "reject",
    "--model",
    dir.at("base/last"),
    "--in",
    dir.at("a.jsonl"),
    dir.at("b.jsonl"),
    "--out",
    out,
    ...drawn,
    ...more
  ]
  /** Runs until it has answered more than `kept` bytes, then sends a signal; what it had answered. */
  const until = async (out: string, kept: number, signal: NodeJS.Signals, batch: string) => {
    const { child, ran } = startChatlm(...reject(dir.at(out), "--batch", batch))
    const file = dir.at(`.${out}.work/answers.jsonl`)
    while (child.exitCode === null && !(existsSync(file) && statSync(file).size > kept)) await setTimeout(5)
    child.kill(signal)
    const { status, error } = await ran
    return { status, error, size: existsSync(file) ? statSync(file).size : undefined }
  }

  it("goes on after kills and an interruption, and writes what an undisturbed one does", async () => {
    const whole = await ok(...reject(dir.at("whole.jsonl"), "--batch", "32"))
    expect(whole).toMatchObject({ rows: 2400, resumed: 0, broken: 0 })
    expect(whole.kept + whole.same + whole.empty).toBe(2400)
    // Another number of answers at a time changes none of them.
    let size = 0
    for (const batch of ["7", "64"]) {
      const killed = await until("parts.jsonl", size, "SIGKILL", batch)
      expect(killed.status).toBe(-1)
      expect(killed.size).toBeGreaterThan(size)
      size = killed.size ?? 0
    }
    const stopped = await until("parts.jsonl", size, "SIGINT", "16")
    expect(stopped.status).toBe(130)
    expect(existsSync(dir.at("parts.jsonl"))).toBe(false)
    const parts = await ok(...reject(dir.at("parts.jsonl"), "--batch", "32"))
    expect(parts.resumed).toBeGreaterThan(0)
    expect(text(dir.at("parts.jsonl"))).toBe(text(dir.at("whole.jsonl")))
    expect(existsSync(dir.at(".parts.jsonl.work"))).toBe(false)
  }, 120_000)

  it("leaves out pairs that prefer nothing, by rules of their own", async () => {
    const asked = rows(6)
    const answer = async (prompt: string) =>
      (await ok("generate", "--model", dir.at("base/last"), "--prompt", prompt, "--max-new-tokens", "12"))
        .response
    const answers = await Promise.all(asked.map(({ prompt }) => answer(prompt)))
    const [same = "", alike = ""] = answers
    const given = [
      { prompt: asked[0]?.prompt, chosen: ` ${[...same].join("\u3000")}\n` },
      { prompt: asked[1]?.prompt, chosen: `${alike}！` },
      { prompt: asked[2]?.prompt, chosen: "\u3000" },
      { prompt: asked[3]?.prompt, chosen: "完全不同的回答，与模型所写无关。" }
    ]
    writeJsonl(dir.at("given.jsonl"), given)
    const run = (out: string, ...more: ReadonlyArray<string>) =>
      ok(
        "reject",
        "--model",
        dir.at("base/last"),
        "--in",
        dir.at("given.jsonl"),
        "--out",
        dir.at(out),
        "--max-new-tokens",
        "12",
        ...more
      )
    expect(await run("plain.jsonl")).toMatchObject({ rows: 4, kept: 2, same: 1, empty: 1, similar: 0 })
    expect(lines(dir.at("plain.jsonl"))[1]).toEqual({ ...given[3], rejected: answers[3] })
    expect(await run("unlike.jsonl", "--max-similarity", "0.5")).toMatchObject({ kept: 1, similar: 1 })
    const first = [...(answers[3] ?? "")][0] ?? ""
    expect(await run("nothing.jsonl", "--stop", first)).toMatchObject({
      empty: 4 - Number(!same.startsWith(first)) - Number(!alike.startsWith(first))
    })
  }, 60_000)

  it("a row without an answer is told before the model answers any", async () => {
    writeJsonl(dir.at("broken.jsonl"), [...rows(3), { prompt: "没有回答" }])
    const ran = await chatlm(
      "reject",
      "--model",
      dir.at("base/last"),
      "--in",
      dir.at("broken.jsonl"),
      "--out",
      dir.at("never.jsonl")
    )
    expect(ran.status).toBe(2)
    expect(ran.error).toContain("row 3")
    expect(existsSync(dir.at(".never.jsonl.work"))).toBe(false)
  }, 60_000)
})

describe("dpo", () => {
  const lora = { r: 4, alpha: 8, dropout: 0 }
  const dpo = (out: string, more: Record<string, unknown> = {}) =>
    train("dpo", dir.at(out), {
      model: dir.at("base/last"),
      train: dir.at("pairs.jsonl"),
      valid: dir.at("valid.jsonl"),
      learningRate: 5e-3,
      warmupSteps: 0,
      maxSteps: 6,
      gradientAccumulation: 2,
      lora,
      ...more
    })
  const measures = [
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "nll_loss"
  ]

  it("logs what TRL logs, for steps and evaluations, and learns", async () => {
    const odds = ["log_odds_ratio", "log_odds_chosen"]
    for (const more of [
      {},
      { labelSmoothing: 0.1, rpoAlpha: 0.5 },
      { loss: "ipo" },
      { loss: "simpo", beta: 2, simpoGamma: 1, cpoAlpha: 0.2 },
      { loss: "orpo", lora: null, learningRate: 1e-3 }
    ]) {
      const out = `kinds-${JSON.stringify(more).length}`
      await ok(...dpo(out, more))
      const found = lines(dir.at(out, "metrics.jsonl"))
      const [steps, evaluations] = [
        found.filter((line) => "loss" in line),
        found.filter((line) => "eval_loss" in line)
      ]
      const names = more.loss === "orpo" ? [...measures, ...odds] : measures
      for (const name of names) {
        expect(steps.at(-1)).toHaveProperty([name])
        expect(evaluations.at(-1)).toHaveProperty([`eval_${name}`])
      }
      if (more.loss !== "orpo") expect(steps.at(-1)).not.toHaveProperty(["log_odds_ratio"])
      expect(evaluations.at(-1)?.["eval_rewards/accuracies"]).toBeGreaterThan(0.5)
      expect(evaluations.at(-1)?.eval_loss).toBeLessThan(evaluations[0]?.eval_loss ?? 0)
    }
  }, 120_000)

  it("a key of another loss is refused", async () => {
    for (const more of [
      { loss: "ipo", labelSmoothing: 0.1 },
      { cpoAlpha: 1 },
      { loss: "orpo", rpoAlpha: 1 }
    ]) {
      const ran = await chatlm(...dpo("refused", more))
      expect(ran.status).toBe(2)
      expect(ran.error).toMatch(/is no part of the loss/)
    }
  }, 60_000)

  it("reference scores are computed once, found by other runs, and computed again where they are damaged", async () => {
    const reference = (told: ReadonlyArray<Line>) =>
      told.filter(({ type }) => type === "reference").map(({ rows, computed }) => ({ rows, computed }))
    const files = () => readdirSync(`${cache}/reference`).filter((name) => name.endsWith(".scores"))
    mkdirSync(`${cache}/reference`, { recursive: true })
    const others = files()
    const first = await events(...dpo("first", { maxLength: 40, evalRows: 20 }))
    expect(reference(first)).toEqual([
      { rows: 120, computed: 120 },
      { rows: 20, computed: 20 }
    ])
    const there = files().filter((name) => !others.includes(name))
    // Another run, other losses, rates and folders: the same scores.
    const second = await events(
      ...dpo("second", { maxLength: 40, evalRows: 20, loss: "ipo", beta: 0.3, lora: null })
    )
    expect(reference(second)).toEqual([
      { rows: 120, computed: 0 },
      { rows: 20, computed: 0 }
    ])
    // Other lengths, another model: others.
    expect(reference(await events(...dpo("third", { maxLength: 32 })))[0]).toEqual({
      rows: 120,
      computed: 120
    })
    expect(files().length).toBe(others.length + there.length + 2)

    // The copy in the run folder is enough, and so is the cache.
    const whole = there.map((name) => readFileSync(`${cache}/reference/${name}`))
    const damaged = (place: string, prefix: string) => {
      for (const [index, name] of there.entries()) {
        const bytes = Buffer.from(whole[index] ?? "")
        bytes[bytes.length - 20] = (bytes[bytes.length - 20] ?? 0) ^ 1
        writeFileSync(`${place}/${prefix}${name}`, bytes)
      }
    }
    const again = () => events(...dpo("first", { maxLength: 40, evalRows: 20, maxSteps: 7 }))
    damaged(`${cache}/reference`, "")
    expect(reference(await again()).every(({ computed }) => computed === 0)).toBe(true)
    damaged(dir.at("first"), "reference-")
    const told = await again()
    expect(
      told.filter(({ type, reason }) => type === "warned" && /is damaged behind row 0/.test(reason)).length
    ).toBe(2)
    expect(reference(told)).toEqual([
      { rows: 120, computed: 120 },
      { rows: 20, computed: 20 }
    ])
    expect(there.map((name) => readFileSync(`${cache}/reference/${name}`))).toEqual(whole)
  }, 120_000)

  it("scoring that was killed goes on where it was", async () => {
    writeJsonl(dir.at("many.jsonl"), pairs(30_000))
    const args = dpo("killed", { train: dir.at("many.jsonl"), valid: null, maxSteps: 1, batchSize: 1 })
    mkdirSync(`${cache}/reference`, { recursive: true })
    const known = new Set(readdirSync(`${cache}/reference`))
    const { child, ran } = startChatlm(...args)
    const size = () =>
      readdirSync(`${cache}/reference`)
        .filter((name) => name.endsWith(".scores") && !known.has(name))
        .map((name) => statSync(`${cache}/reference/${name}`).size)[0] ?? 0
    while (child.exitCode === null && size() <= 8) await setTimeout(5)
    child.kill("SIGKILL")
    expect((await ran).status).toBe(-1)
    const stopped = startChatlm(...args)
    const had = size()
    while (stopped.child.exitCode === null && size() <= had) await setTimeout(5)
    stopped.child.kill("SIGINT")
    expect((await stopped.ran).status).toBe(130)
    const told = (await events(...args)).find(({ type }) => type === "reference")
    expect(told?.rows).toBe(30_000)
    expect(told?.computed).toBeGreaterThan(0)
    expect(told?.computed).toBeLessThan(30_000 - (had - 8) / 8 + 100)
  }, 120_000)

  it("evaluation rows that are trained on are told, or refused", async () => {
    const found = (told: ReadonlyArray<Line>) => told.filter(({ type }) => type === "contamination")
    const told = await events(...dpo("told"))
    expect(found(told)).toMatchObject([
      { rows: 50, exact: 10, same: 10, prompts: 10, first: [0, 1, 2, 3, 4] }
    ])
    // Who goes on has read it.
    expect(found(await events(...dpo("told", { maxSteps: 7 })))).toEqual([])
    expect(found(await events(...dpo("off", { contamination: "off" })))).toEqual([])
    const ran = await chatlm(...dpo("stop", { contamination: "stop" }))
    expect(ran.status).toBe(2)
    expect(ran.error).toMatch(/10 of 50 rows are trained on too/)
    expect((await chatlm(...dpo("line"))).error).toMatch(/warning: 10 of 50 rows of valid are in train/)
  }, 120_000)
})
