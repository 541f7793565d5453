// Exact resume, shown: `npm run check:kills -- [--kills 20] [--only pretrain-f32,…] [--seed 1]`. Each kind of training runs
// undisturbed, and again killed (-9) at random moments: while it starts, steps, accumulates, evaluates, saves, across the
// ends of epochs. Weights and optimizer of the last checkpoints must be the same to the byte, and the kills as many as asked
// for. Small models of random weights on rows made here; all threads.
import { spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"

const { values: flags } = parseArgs({
  options: {
    kills: { type: "string", default: "20" },
    only: { type: "string" },
    seed: { type: "string", default: "1" }
  }
})
const folder = mkdtempSync(join(tmpdir(), "chatlm-kills-"))
process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
const path = (name) => join(folder, name)
const command = (args) => [join(root, "bin", "chatlm.mjs"), ...args]

const chatlm = (...args) => {
  const { status, stderr } = spawnSync(node, command(args), { encoding: "utf8" })
  if (status !== 0) throw new Error(`chatlm ${args[0]}: ${stderr}`)
}

/** Numbers from 0 to 1, the same for the same seed. */
const random = (seed) => {
  let count = 0
  return () => createHash("sha256").update(`${seed}/${(count += 1)}`).digest().readUInt32LE(0) / 2 ** 32
}

const draw = random(`${flags.seed}/rows`)
const characters = [..."天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"]
const text = () =>
  Array.from({ length: 3 + Math.floor(draw() * 20) }, () => characters[Math.floor(draw() * characters.length)]).join("")
const lines = (count, row) => Array.from({ length: count }, () => JSON.stringify(row())).join("\n")
writeFileSync(path("rows.jsonl"), lines(50, () => ({ prompt: text(), response: text() })))
writeFileSync(path("valid.jsonl"), lines(6, () => ({ prompt: text(), response: text() })))
writeFileSync(path("pairs.jsonl"), lines(50, () => ({ prompt: text(), chosen: text(), rejected: text() })))
chatlm("tokenizer", "train", "--in", path("rows.jsonl"), "--out", path("tokenizer"), "--model", "char-bpe",
  "--vocab-size", "200", "--min-frequency", "1")

const model = { vocab_size: 256, d_model: 64, d_kv: 16, d_ff: 128, num_layers: 2, num_decoder_layers: 2, num_heads: 4 }
const shared = {
  tokenizer: path("tokenizer"), epochs: 30, batchSize: 4, gradientAccumulation: 3, learningRate: 1e-3, maxLength: 24,
  saveEvery: 2, evalEvery: 3, logEvery: 1, keep: 2, samples: 1, bleuRows: 2
}
const lora = { r: 4, alpha: 8, dropout: 0.1, targets: ["q", "v"] }
const kinds = {
  pretrain: { ...shared, model, train: path("rows.jsonl"), valid: path("valid.jsonl") },
  sft: { ...shared, model: path("base"), train: path("rows.jsonl"), valid: path("valid.jsonl") },
  dpo: { ...shared, model: path("base"), train: path("pairs.jsonl"), lora }
}
chatlm("pretrain", "--set", `model=${JSON.stringify(model)}`, `tokenizer=${path("tokenizer")}`,
  `train=${path("rows.jsonl")}`, `out=${path("first")}`, "maxSteps=2", "maxLength=24", "samples=0")
spawnSync("cp", ["-a", join(path("first"), "last"), path("base")])

const train = (kind, config) => command([kind, "--config", config, "--quiet"])

/** What the last checkpoint holds, by file. */
const last = (out) => {
  const checkpoints = join(out, "checkpoints")
  const newest = readdirSync(checkpoints).filter((name) => /^step-\d+$/.test(name)).sort().at(-1)
  const { step, files } = JSON.parse(readFileSync(join(checkpoints, newest, "manifest.json"), "utf8"))
  const hashes = Object.entries(files).filter(([name]) => name.endsWith(".safetensors"))
  return { step, hashes: Object.fromEntries(hashes.map(([name, { sha256 }]) => [name, sha256])) }
}

/** The last step that a run has told of, in whatever it had time to write. */
const stepOf = (out) => {
  const file = join(out, "metrics.jsonl")
  if (!existsSync(file)) return 0
  return Number([...readFileSync(file, "utf8").matchAll(/"step":(\d+)/g)].at(-1)?.[1] ?? 0)
}

/** Half-written saves that lie in a run's folder, by name. */
const halves = (out) => {
  const checkpoints = join(out, "checkpoints")
  return existsSync(checkpoints) ? readdirSync(checkpoints).filter((file) => file.includes(".partial")) : []
}

/**
 * Runs until `when` says so, then kills: whether the run ended by itself. `when` is asked every two milliseconds.
 */
const run = (args, when = () => false) =>
  new Promise((done, fail) => {
    const child = spawn(node, args, { stdio: ["ignore", "ignore", "pipe"] })
    let said = ""
    child.stderr.on("data", (chunk) => { said += chunk })
    const timer = setInterval(() => { if (when()) child.kill("SIGKILL") }, 2)
    child.on("close", (status, signal) => {
      clearInterval(timer)
      if (signal === "SIGKILL") return done(false)
      if (status === 0) return done(true)
      fail(new Error(`ended with ${status}: ${said}`))
    })
  })

/** A moment to kill at: so many steps after the life began, and so long after that step; or so early that none is made. */
const moment = (draw, out, sinceStart) => {
  if (draw() < 0.15) {
    const millis = 100 + draw() * 500
    return () => sinceStart() > millis
  }
  const [first, steps, millis] = [stepOf(out), Math.floor(draw() * 6), draw() * 60]
  let reached
  return () => {
    if (reached === undefined && stepOf(out) >= first + steps && sinceStart() > 100) reached = sinceStart()
    return reached !== undefined && sinceStart() > reached + millis
  }
}

const wanted = flags.only?.split(",")
const kills = Number(flags.kills)
let failures = 0
console.log("| training | steps | killed after step | during a save | weights and optimizer |\n| --- | --- | --- | --- | --- |")
for (const kind of Object.keys(kinds)) {
  for (const precision of ["f32", "bf16"]) {
    const name = `${kind}-${precision}`
    if (wanted !== undefined && !wanted.includes(name)) continue
    const config = (out) => {
      const file = path(`${name}-${out}.json`)
      writeFileSync(file, JSON.stringify({ ...kinds[kind], precision, out: path(`${name}-${out}`) }))
      return file
    }
    await run(train(kind, config("whole")))
    const undisturbed = last(path(`${name}-whole`))
    const draw = random(`${flags.seed}/${name}`)
    const [killed, out] = [config("killed"), path(`${name}-killed`)]
    mkdirSync(out)
    const [steps, partial] = [[], new Set()]
    let over = false
    while (steps.length < kills && !over) {
      const began = performance.now()
      over = await run(train(kind, killed), moment(draw, out, () => performance.now() - began))
      if (!over) steps.push(stepOf(out))
      for (const half of halves(out)) partial.add(half)
    }
    if (!over) await run(train(kind, killed))
    const resumed = last(out)
    const equal = JSON.stringify(resumed) === JSON.stringify(undisturbed)
    // Too few kills show too little.
    const enough = steps.length === kills
    failures += equal && enough ? 0 : 1
    console.log(`| ${name} | ${undisturbed.step} | ${steps.join(", ")}${enough ? "" : ` (only ${steps.length})`} | ${partial.size} | ${equal ? "equal" : "DIFFERENT"} |`)
  }
}
process.exit(failures === 0 ? 0 : 1)
