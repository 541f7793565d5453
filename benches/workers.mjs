// What a second worker brings: `npm run bench:workers -- [--rounds 5] [--precision f32] [--json]`.
// Two processes of one thread against one, beside what two independent matrix products of one thread reach
// on the same machine, all four in turns; the bar is nine tenths of that.
import { spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    steps: { type: "string", default: "8" },
    batch: { type: "string", default: "16" },
    width: { type: "string", default: "256" },
    layers: { type: "string", default: "4" },
    precision: { type: "string", default: "f32" },
    json: { type: "boolean", default: false }
  }
})
const seconds = 4

const build = spawnSync(
  "cargo",
  ["build", "--release", "--workspace", "--example", "product", "--message-format=json"],
  { cwd: root, encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "inherit"] }
)
if (build.status !== 0) process.exit(build.status ?? 1)
const product = build.stdout
  .split("\n")
  .filter((line) => line.includes('"executable"'))
  .map((line) => JSON.parse(line))
  .find((message) => message.target?.name === "product" && message.executable)?.executable

const output = (command, args) =>
  new Promise((done, failed) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] })
    let text = ""
    child.stdout.on("data", (chunk) => (text += chunk))
    child.on("close", (status) => (status === 0 ? done(text) : failed(new Error(`${command} ended with ${status}`))))
  })

const folder = mkdtempSync(join(tmpdir(), "chatlm-bench-workers-"))
process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
const chatlm = (...args) => output(node, [join(root, "bin/chatlm.mjs"), ...args, "--quiet"])

// Rows of one length, about 64 tokens a side, so that workers have as much to do.
const digits = [..."零一二三四五六七八九百千万亿兆年月日时分秒天地人你我他它春夏秋冬"]
const text = (seed) => Array.from({ length: 64 }, (_, n) => digits[(seed * 31 + n * (seed % 7 + 1)) % digits.length]).join("")
const rows = Array.from({ length: 2000 }, (_, n) => JSON.stringify({ prompt: text(n), response: text(n + 7) }))
const at = (name) => join(folder, name)
writeFileSync(at("rows.jsonl"), `${rows.join("\n")}\n`)
await chatlm("tokenizer", "train", "--in", at("rows.jsonl"), "--out", at("tokenizer"), "--model", "char-bpe", "--vocab-size", "100", "--json")

const width = Number(flags.width)
const model = {
  d_model: width, d_kv: 64, d_ff: 4 * width, num_heads: width / 64,
  num_layers: Number(flags.layers), num_decoder_layers: Number(flags.layers)
}
/** Tokens a second of the median step but the first two, which still ask the system for memory. */
const train = async (workers) => {
  const told = await chatlm(
    "pretrain", "--fresh", "--force", "--workers", String(workers), "--threads", String(workers), "--json",
    ...Object.entries({
      tokenizer: at("tokenizer"), train: at("rows.jsonl"), out: at("out"), model, precision: flags.precision,
      batchSize: Number(flags.batch), maxLength: 80, maxSteps: Number(flags.steps), saveEvery: 1_000_000, logEvery: 1, samples: 0
    }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
  )
  const rates = told.split("\n").filter(Boolean).map((line) => JSON.parse(line))
    .filter((event) => event.type === "step").map((event) => event.tokens_per_second)
  return median(rates.slice(2))
}
const products = async (count) => {
  const rates = await Promise.all(Array.from({ length: count }, () => output(product, [String(seconds)])))
  return rates.map(Number).reduce((sum, rate) => sum + rate, 0)
}
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]

const rounds = []
for (let round = 0; round < Number(flags.rounds); round++) {
  const [one, two] = [await products(1), await products(2)]
  const [alone, together] = [await train(1), await train(2)]
  rounds.push({ products: two / one, workers: together / alone, alone, together })
  if (!flags.json) {
    const last = rounds.at(-1)
    console.log(`round ${round + 1}: workers ×${last.workers.toFixed(3)} (${alone.toFixed(0)} → ${together.toFixed(0)} tokens/s), products ×${last.products.toFixed(3)}`)
  }
}
const result = {
  workers: median(rounds.map((round) => round.workers)),
  products: median(rounds.map((round) => round.products)),
  share: median(rounds.map((round) => round.workers / round.products)),
  rounds
}
if (flags.json) console.log(JSON.stringify(result, null, 2))
else console.log(`two workers: ×${result.workers.toFixed(3)} of one; two products ×${result.products.toFixed(3)}; ${result.share.toFixed(3)} of that (bar 0.9)`)
