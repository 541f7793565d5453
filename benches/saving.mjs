// What saving costs beside training: `npm run bench:saving -- [--saves 5] [--every 20] [--precision f32] [--waiting]`. The 0.2 B
// model trains on rows of 128 tokens a side, batch 4, with a checkpoint in every so many steps. What the steps of the
// first half between two saves take longer than those of the second is a save's cost, given as a share of 100 steps; the
// stall is how much longer the first step behind a save takes. `--waiting`: training waits for the disk instead.
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"

const { values: flags } = parseArgs({
  options: {
    saves: { type: "string", default: "5" }, every: { type: "string", default: "20" },
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
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
const times = readFileSync(at("out/metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line).time)
/** Seconds of a step, what came before it since the last one included. */
const took = (step) => times[step - 1] - times[step - 2]
const found = []
for (let save = 0; save < Number(flags.saves); save += 1) {
  const all = Array.from({ length: every }, (_, n) => took(warm + save * every + 1 + n))
  // While it is copied and written, and when that is long over: the same minute, the same neighbours.
  const [beside, after] = [all.slice(0, every / 2), all.slice(every / 2)]
  const usual = mean(after)
  found.push({ cost: mean(beside) * beside.length - usual * beside.length, stall: all[0] - usual, usual })
  const { cost, stall } = found.at(-1)
  console.log(`save at step ${warm + save * every}: ${cost.toFixed(2)} s over ${beside.length} steps, the first of them ${stall.toFixed(2)} s longer than the ${usual.toFixed(2)} s of a step`)
}
const of = (name) => median(found.map((each) => each[name]))
const share = mean(found.map(({ cost, usual }) => cost / usual))
console.log(`one save in 100 steps: ${share.toFixed(2)} % of training time, the mean of ${found.length}; stall ${of("stall").toFixed(2)} s, the median`)
