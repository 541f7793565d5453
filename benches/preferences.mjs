// Preferences learnt: `npm run bench:preferences -- [--shared DIR] [--folds 3] [--steps 300] [--only people,rejects,memory]`.
// A small model is pre-trained and fine-tuned on the real sample, then tuned by pairs with LoRA; the accuracy of the rewards
// on pairs that were held out, with the lower bound of Wilson's 95 % interval. `people`: 300 pairs whose better answer people
// chose, each held out once (of `--folds`). `rejects`: true answers against the model's own, by `chatlm reject`. `memory`:
// what a loss with a reference holds more than one without. Reads --shared (../shared), writes into a temporary folder.
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { stop } from "./python.mjs"

const text = (value) => ({ type: "string", default: value })
const { values: flags } = parseArgs({
  options: {
    shared: text(process.env.CHATLM_SHARED ?? join(root, "../shared")), folds: text("3"), steps: text("300"),
    "sft-steps": text("100"), epochs: text("3"), lr: text("5e-4"), beta: text("0.1"), loss: text("sigmoid"),
    rows: text("600"), held: text("300"), only: text("people,rejects,memory"), threads: text("2"), keep: { type: "string" }
  }
})
const data = (name) => resolve(flags.shared, "data", name)
const [rows, valid] = ["chatlm/my_train_dataset_3k.parquet", "chatlm/my_valid_dataset_1k.parquet"].map(data)
const preferences = data("llamafactory/dpo_zh_demo.json")
for (const file of [rows, valid, preferences]) if (!existsSync(file)) stop(`there is no ${file}`, "give --shared")
const folder = flags.keep ?? mkdtempSync(join(tmpdir(), "chatlm-preferences-"))
if (flags.keep === undefined) process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
const out = (name) => join(folder, name)
const began = Date.now()
const say = (line) => console.log(`[${((Date.now() - began) / 1000).toFixed(0)} s] ${line}`)

const chatlm = (...args) => {
  const all = [join(root, "bin", "chatlm.mjs"), ...args, "--threads", flags.threads, "--json", "--quiet"]
  const env = { ...process.env, CHATLM_CACHE: out("cache") }
  const { status, stdout, stderr } = spawnSync(node, all, { encoding: "utf8", maxBuffer: 1 << 28, env })
  if (status !== 0) throw new Error(stderr)
  return stdout.trim().split("\n").map((line) => JSON.parse(line))
}
const train = (kind, name, settings) => {
  const set = Object.entries({ out: out(name), samples: 0, bleuRows: 0, ...settings })
  chatlm(kind, "--set", ...set.map(([key, value]) => `${key}=${JSON.stringify(value)}`))
  return readFileSync(join(out(name), "metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line))
}
const write = (name, values) => {
  writeFileSync(out(name), values.map((value) => `${JSON.stringify(value)}\n`).join(""))
  return out(name)
}

/** The lower bound of Wilson's interval, 95 %. */
const wilson = (right, all) => {
  const [z, p] = [1.959964, right / all]
  return (p + z ** 2 / (2 * all) - z * Math.sqrt((p * (1 - p)) / all + z ** 2 / (4 * all ** 2))) / (1 + z ** 2 / all)
}
const tell = (name, right, all, margin) =>
  say(`${name}: ${right} of ${all} held-out pairs, accuracy ${(right / all).toFixed(3)}, lower bound ` +
    `${wilson(right, all).toFixed(3)}, mean margin ${margin.toFixed(3)}`)

// The people's pairs: the turns before the answers are the prompt.
const people = JSON.parse(readFileSync(preferences, "utf8")).map(({ conversations, chosen, rejected }) => ({
  prompt: conversations.map(({ value }) => value).join("\n"), chosen: chosen.value, rejected: rejected.value
}))
const shape = { d_model: 256, d_kv: 32, d_ff: 704, num_layers: 4, num_decoder_layers: 4, num_heads: 8 }
if (!existsSync(out("sft"))) {
  chatlm("tokenizer", "train", "--in", rows, "--out", out("tokenizer"), "--model", "char-bpe", "--vocab-size", "8000",
    "--min-frequency", "2")
  const pre = train("pretrain", "pre", {
    model: shape, tokenizer: out("tokenizer"), train: rows, valid, preset: "chatlm", maxSteps: Number(flags.steps),
    warmupSteps: 20, evalEvery: Number(flags.steps), evalRows: 300
  })
  say(`pre-trained: validation loss ${pre.findLast((line) => "eval_loss" in line).eval_loss.toFixed(3)}`)
  // No answer of the pairs is in it.
  train("sft", "sft", {
    model: out("pre/last"), train: rows, freeze: [], maxSteps: Number(flags["sft-steps"]), batchSize: 16,
    gradientAccumulation: 1, learningRate: 5e-4, warmupSteps: 10, maxLength: 256, precision: "bf16"
  })
}
say("fine-tuned")

const dpo = (name, pairs, held, more = {}) => {
  const metrics = train("dpo", name, {
    model: out("sft/last"), train: pairs, valid: held, lora: { r: 16, alpha: 32, dropout: 0, targets: "all-linear" },
    loss: flags.loss, beta: Number(flags.beta), epochs: Number(flags.epochs), batchSize: 8, gradientAccumulation: 1,
    learningRate: Number(flags.lr), warmupSteps: 10, maxLength: 256, evalEvery: 1_000_000, saveEvery: 1_000_000, logEvery: 1,
    precision: "bf16", ...more
  })
  const { "eval_rewards/accuracies": accuracy, "eval_rewards/margins": margin } = metrics.at(-1)
  return { accuracy, margin, metrics }
}
const only = flags.only.split(",")
if (only.includes("people")) {
  const folds = Number(flags.folds)
  let [right, margin] = [0, 0]
  for (let fold = 0; fold < folds; fold += 1) {
    const held = people.filter((_, row) => row % folds === fold)
    const seen = people.filter((_, row) => row % folds !== fold)
    const found = dpo(`people-${fold}`, write(`seen-${fold}.jsonl`, seen), write(`held-${fold}.jsonl`, held))
    right += Math.round(found.accuracy * held.length)
    margin += found.margin * held.length
    say(`fold ${fold}: ${seen.length} seen, ${found.accuracy.toFixed(3)} of ${held.length}`)
  }
  tell("people's choices", right, people.length, margin / people.length)
  // What knowing nothing but the lengths would give.
  const longer = people.filter(({ chosen, rejected }) => chosen.length > rejected.length).length
  say(`for comparison, the longer answer: ${longer} of ${people.length}, ${(longer / people.length).toFixed(3)}`)
}
if (only.includes("rejects")) {
  const half = (from, name, count) => {
    chatlm("split", "--in", from, "--out", out(name), "--train", String(count), "--valid", "0", "--test", String(1 - count))
    const [found] = chatlm("reject", "--model", out("sft/last"), "--in", join(out(name), "train.parquet"),
      "--out", out(`${name}.parquet`), "--max-new-tokens", "128", "--batch", "64", "--force")
    const { rows: read, kept, same, empty, seconds } = found
    say(`reject: ${kept} of ${read} rows kept, ${same} the same, ${empty} empty, ${(read / seconds).toFixed(1)} rows/s`)
    return { file: out(`${name}.parquet`), kept }
  }
  const seen = half(rows, "reject-seen", Number(flags.rows) / 3000)
  const held = half(valid, "reject-held", Number(flags.held) / 1000)
  const found = dpo("rejects", seen.file, held.file, { epochs: 1 })
  tell("true answers against its own", Math.round(found.accuracy * held.kept), held.kept, found.margin)
}
if (only.includes("memory")) {
  const pairs = write("all.jsonl", people)
  for (const loss of ["sigmoid", "simpo"]) {
    for (const lora of [{ r: 16, alpha: 32, dropout: 0 }, null]) {
      const { metrics } = dpo(`memory-${loss}-${lora === null}`, pairs, null, { loss, lora, maxSteps: 20 })
      const most = Math.max(...metrics.map((line) => line.rss_bytes ?? 0))
      say(`memory, ${loss} ${lora === null ? "of all weights" : "with LoRA"}: ${(most / 2 ** 20).toFixed(0)} MiB`)
    }
  }
}
