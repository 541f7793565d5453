// Learning, ours against plain PyTorch: `npm run bench:learn -- --train ROWS --valid ROWS [--steps 752] [--seeds 3] [--equal 200] [--itself]`.
// Both begin with the same weights and take the same batches of the same ids. Without dropout the losses of `--equal` steps
// are compared step by step (and, with `--itself`, PyTorch's with those of its own on one thread); with dropout, which both draw in their own way, validation loss and BLEU-4 of the models after
// `--steps` steps, as means over seeds. The recipe is docs/recipes.md's `chatlm` on a model of 9 M parameters.
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { findPython, run, stop } from "./python.mjs"

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
const text = (value) => ({ type: "string", ...(value === undefined ? {} : { default: value }) })
const { values: flags } = parseArgs({
  options: {
    train: text(), valid: text(), steps: text("752"), seeds: text("3"), equal: text("200"), rows: text("500"),
    batch: text("16"), "max-length": text("256"), lr: text("0.02"), warmup: text("40"), threads: text("2"), python: text(), itself: { type: "boolean" }
  }
})
for (const name of ["train", "valid"]) {
  if (flags[name] === undefined || !existsSync(flags[name])) stop(`--${name} is wanted`, "a file of prompt and response")
}
const folder = mkdtempSync(join(tmpdir(), "chatlm-learn-"))
process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
const out = (name) => join(folder, name)
const [train, valid] = [resolve(flags.train), resolve(flags.valid)]
const python = findPython(flags.python)
const env = { OMP_NUM_THREADS: flags.threads, HF_HUB_OFFLINE: "1" }
const peer = (...args) => run(python, [join(root, "benches", "peers", "learn.py"), ...args], env)
const chatlm = (...args) => {
  const all = [join(root, "bin", "chatlm.mjs"), ...args, "--threads", flags.threads, "--json", "--quiet"]
  const { status, stdout, stderr } = spawnSync(node, all, { encoding: "utf8", maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(stderr)
  return stdout.trim().split("\n").map((line) => JSON.parse(line))
}

chatlm("tokenizer", "train", "--in", train, "--out", out("tokenizer"), "--model", "char-bpe", "--vocab-size", "8000",
  "--min-frequency", "2")
peer("init", "--tokenizer", out("tokenizer"), "--out", out("init"))
// Built with the whole workspace, whose features are those of every other build.
spawnSync("cargo", ["build", "--release", "--quiet", "--workspace", "--example", "batches"], { cwd: root, stdio: "inherit" })
const { CARGO_TARGET_DIR: target, CARGO_BUILD_TARGET: host = "" } = process.env
const example = join(target, host, "release", "examples", "batches")
const batches = (count, seed, name) => {
  const { status, stdout, stderr } = spawnSync(
    example,
    [train, out("tokenizer"), flags.batch, flags["max-length"], String(seed), String(count)],
    { cwd: root, encoding: "utf8", maxBuffer: 1 << 30 }
  )
  if (status !== 0) throw new Error(stderr)
  writeFileSync(out(name), stdout)
  return out(name)
}
const ours = (name, steps, seed, dropout, extra = []) => {
  chatlm("pretrain", "--set", `out=${out(name)}`, `model=${out("init")}`, `tokenizer=${out("init")}`, `train=${train}`,
    `maxSteps=${steps}`, `batchSize=${flags.batch}`, `maxLength=${flags["max-length"]}`, `learningRate=${flags.lr}`,
    "scaleParameter=true", "weightDecay=0", "schedule=cosine", `warmupSteps=${flags.warmup}`, "precision=f32",
    `dropout=${dropout}`, `seed=${seed}`, "logEvery=1", "saveEvery=1000000", ...extra)
  const lines = readFileSync(join(out(name), "metrics.jsonl"), "utf8").trim().split("\n")
  return lines.map((line) => JSON.parse(line)).flatMap(({ loss }) => (loss === undefined ? [] : [loss]))
}
const theirs = (name, file, dropout, seed, threads = flags.threads) =>
  peer("train", "--model", out("init"), "--batches", file, "--out", out(name), "--lr", flags.lr, "--warmup",
    flags.warmup, "--weight-decay", "0", "--scale-parameter", "--dropout", String(dropout), "--seed", String(seed),
    "--threads", threads)

/** How far two curves are from each other, and from which step on by more than a thousandth. */
const apart = (a, b) => {
  const differences = a.map((loss, step) => Math.abs(loss - b[step]))
  const first = differences.findIndex((difference) => difference > 1e-3)
  return `the largest difference of a step ${Math.max(...differences).toExponential(1)}, the mean ` +
    `${mean(differences).toExponential(1)}, ${first < 0 ? "none above 1e-3" : `above 1e-3 from step ${first + 1}`}`
}

if (Number(flags.equal) > 0) {
  const file = batches(flags.equal, 23_333, "equal.jsonl")
  const [a, b] = [ours("equal", flags.equal, 23_333, 0), theirs("equal-torch", file, 0, 1).loss]
  console.log(`without dropout, ${a.length} steps: losses ${a[0].toFixed(4)} to ${a.at(-1).toFixed(4)}; ${apart(a, b)}`)
  // Sums in another order alone: what PyTorch's own curve is uncertain by.
  if (flags.itself) console.log(`PyTorch and itself on one thread: ${apart(b, theirs("itself", file, 0, 1, "1").loss)}`)
}

const measure = (model) => {
  const [{ loss }] = chatlm("eval", "perplexity", "--model", model, "--in", valid, "--max-length", flags["max-length"])
  const [{ bleu4 }] = chatlm("eval", "bleu", "--model", model, "--in", valid, "--max-new-tokens", "64", "--limit", flags.rows)
  return { loss, bleu4 }
}
const spread = (values) => `${mean(values).toFixed(4)} (${values.map((value) => value.toFixed(4)).join(", ")})`
const found = { chatlm: [], PyTorch: [] }
for (let seed = 1; seed <= Number(flags.seeds); seed += 1) {
  const file = batches(flags.steps, seed, `batches-${seed}.jsonl`)
  ours(`ours-${seed}`, flags.steps, seed, 0.1)
  theirs(`theirs-${seed}`, file, 0.1, seed)
  found.chatlm.push(measure(join(out(`ours-${seed}`), "last")))
  found.PyTorch.push(measure(out(`theirs-${seed}`)))
  console.error(`seed ${seed}: ours ${found.chatlm.at(-1).loss.toFixed(4)}, PyTorch's ${found.PyTorch.at(-1).loss.toFixed(4)}`)
}
if (Number(flags.seeds) > 0) {
  console.log("\n| with dropout 0.1 | validation loss: mean (each seed) | BLEU-4 |\n| --- | --- | --- |")
  for (const [name, all] of Object.entries(found)) {
    console.log(`| ${name} | ${spread(all.map(({ loss }) => loss))} | ${spread(all.map(({ bleu4 }) => bleu4))} |`)
  }
}
