// What saving costs beside training: `npm run bench:saving -- [--saves 3] [--every 20] [--precision f32] [--waiting]`. The 0.2 B
// model trains on rows of 128 tokens a side, batch 4, with a checkpoint in every so many steps. The time that the steps
// from one save to the next take beyond as many median steps is that save's cost, given as a share of 100 steps; the
// stall is how much longer the first step behind a save takes. `--waiting`: training waits for the disk instead.
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"

const { values: flags } = parseArgs({
  options: {
    saves: { type: "string", default: "3" }, every: { type: "string", default: "20" },
    precision: { type: "string", default: "f32" }, threads: { type: "string", default: "2" },
    out: { type: "string" }, waiting: { type: "boolean", default: false }
  }
})
const folder = mkdtempSync(join(flags.out ?? tmpdir(), "chatlm-saving-"))
process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
const at = (name) => join(folder, name)
const chatlm = (...args) => {
  const { status, stderr } = spawnSync(node, [join(root, "bin", "chatlm.mjs"), ...args, "--quiet"], { encoding: "utf8" })
  if (status !== 0) throw new Error(stderr)
}

const digits = [..."零一二三四五六七八九百千万亿兆年月日时分秒天地人你我他它春夏秋冬"]
const text = (seed) => Array.from({ length: 127 }, (_, n) => digits[(seed * 31 + n * (seed % 7 + 1)) % digits.length]).join("")
writeFileSync(at("rows.jsonl"), Array.from({ length: 500 }, (_, n) => JSON.stringify({ prompt: text(n), response: text(n + 7) })).join("\n"))
chatlm("tokenizer", "train", "--in", at("rows.jsonl"), "--out", at("tokenizer"), "--model", "char-bpe", "--vocab-size", "100")

const every = Number(flags.every)
// The first steps still ask the system for memory.
const warm = every
const steps = warm + every * Number(flags.saves)
chatlm(
  "pretrain", "--threads", flags.threads,
  ...Object.entries({
    model: { vocab_size: 29_298 }, tokenizer: at("tokenizer"), train: at("rows.jsonl"), out: at("out"),
    precision: flags.precision, batchSize: 4, maxLength: 128, maxSteps: steps + 1, saveEvery: every, keep: 2, logEvery: 1,
    samples: 0, saveInBackground: !flags.waiting
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
)
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]
const times = readFileSync(at("out/metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line).time)
/** Seconds of a step, what came before it since the last one included. */
const took = (step) => times[step - 1] - times[step - 2]
const usual = median(Array.from({ length: Math.ceil(every / 2) }, (_, n) => took(warm - n)).concat(
  Array.from({ length: Number(flags.saves) }, (_, save) =>
    Array.from({ length: Math.floor(every / 3) }, (_, n) => took(warm + (save + 1) * every - n))).flat()
))
const costs = []
for (let save = 0; save < Number(flags.saves); save += 1) {
  const from = warm + save * every
  const all = Array.from({ length: every }, (_, n) => took(from + 1 + n))
  const cost = all.reduce((sum, seconds) => sum + seconds, 0) - every * usual
  costs.push(cost)
  console.log(`save at step ${from}: ${cost.toFixed(2)} s beyond ${every} median steps of ${usual.toFixed(3)} s; ` +
    `the first step behind it ${(all[0] - usual).toFixed(2)} s longer`)
}
const cost = median(costs)
console.log(`one save in 100 steps: ${(cost / usual).toFixed(2)} % of training time (${cost.toFixed(2)} s of ${(100 * usual).toFixed(0)} s)`)
