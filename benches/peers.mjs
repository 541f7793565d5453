// Ours against PyTorch and CTranslate2, in turns:
// `npm run bench:peers -- [--rounds 3] [--only A,B] [--rows FILE --tokenizer DIR]`. Each round runs our half and then the peers' half of a measurement, so that both meet the same neighbours; the
// result is the median of the rounds' ratios. Prints a markdown table. No dependency beyond Node's own; the peers
// live in a virtual environment in the user's cache, made at the first call.
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { loadavg, tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { generation } from "./generation.mjs"
import { findPython, peer, run, shapes, stop } from "./python.mjs"

const usage = `npm run bench:peers -- [flags], after npm run build
  --rounds N       rounds a measurement (3)
  --steps N        counted steps a run (5)
  --row-steps N    counted steps a run over rows (10)
  --tokens N       tokens of a generated answer (96)
  --threads N      of both halves (2)
  --only A,B       these rows of the table
  --rows FILE      jsonl or parquet with prompt and response, for the rows of mixed length
  --tokenizer DIR  folder of tokenizer.json, for the same
  --python FILE    a Python with torch, transformers and ctranslate2, instead of the one in the cache
  --d-model N --d-ff N --heads N --layers N --vocab N --batch N --source N --target N
                   another model or batch than the 0.2 B model with 4 × (128 + 128) tokens`

const sizes = { ...shapes, vocab: "29298", batch: "4", source: "128", target: "128" }
const text = (value) => ({ type: "string", ...(value === undefined ? {} : { default: value }) })
const read = () => {
  try {
    return parseArgs({
      options: {
        rounds: text("3"),
        steps: text("5"),
        "row-steps": text("10"),
        tokens: text("96"),
        threads: text("2"),
        only: text(),
        rows: text(),
        tokenizer: text(),
        python: text(),
        help: { type: "boolean", short: "h" },
        ...Object.fromEntries(Object.entries(sizes).map(([name, value]) => [name, text(value)]))
      }
    }).values
  } catch (error) {
    return stop(error.message, usage)
  }
}
const flags = read()
if (flags.help) {
  console.log(usage)
  process.exit(0)
}
for (const name of ["rounds", "steps", "row-steps", "tokens", "threads", ...Object.keys(sizes)]) {
  if (!/^[1-9]\d*$/.test(flags[name]))
    stop(`--${name} ${flags[name]} is no count`, "give a whole number from 1")
}
const rounds = Number(flags.rounds)

// ── one run of one half

const given = (names) => names.flatMap((name) => [`--${name}`, flags[name]])
const chatlm = (...args) =>
  run(node, [join(root, "bin", "chatlm.mjs"), ...args, "--threads", flags.threads, "--json"])
let found
const python = () => (found ??= findPython(flags.python))
const peers = (script, ...args) =>
  peer(python(), script, [...args, "--threads", flags.threads], flags.threads)

const median = (values) => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

// ── measurements: two halves that answer JSON

const step = (shared, peersOnly = []) => {
  const own = Object.keys(sizes).filter((name) => !shared.includes(`--${name}`))
  const args = [...given(own), "--steps", flags.steps, ...shared]
  return {
    ours: () => chatlm("bench", "train-step", ...args),
    peers: () => peers("train_step.py", ...args, ...peersOnly)
  }
}

/** Our trainer over real rows; its rate is the median of `metrics.jsonl`, the first step left out. */
const pretrain = (precision) => {
  const folder = mkdtempSync(join(tmpdir(), "chatlm-bench-"))
  try {
    const out = join(folder, "run")
    const [dModel, dFf, heads, layers] = Object.keys(shapes).map((name) => Number(flags[name]))
    const other = Object.keys(shapes).some((name) => flags[name] !== shapes[name])
    const model = {
      d_model: dModel,
      d_kv: dModel / heads,
      d_ff: dFf,
      num_heads: heads,
      num_layers: layers,
      num_decoder_layers: layers
    }
    const config = {
      ...(other ? { model } : {}),
      train: [resolve(flags.rows)],
      tokenizer: resolve(flags.tokenizer),
      out,
      precision,
      optimizer: "adamw",
      batchSize: 16,
      maxLength: 256,
      epochs: 1000,
      maxSteps: Number(flags["row-steps"]) + 1,
      schedule: "constant",
      logEvery: 1,
      saveEvery: 1_000_000,
      samples: 0
    }
    chatlm(
      "pretrain",
      "--set",
      ...Object.entries(config).map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    )
    const steps = readFileSync(join(out, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).tokens_per_second)
      .filter((rate) => rate !== undefined)
    return { tokens_per_second: median(steps.slice(1)) }
  } finally {
    // A checkpoint of the 0.2 B model is 2 GB.
    rmSync(folder, { recursive: true, force: true })
  }
}

const rowsHalf = (precision) => ({
  ours: () => pretrain(precision),
  peers: () =>
    peers(
      "train_rows.py",
      "--in",
      resolve(flags.rows),
      "--tokenizer",
      resolve(flags.tokenizer),
      "--precision",
      precision,
      "--batch",
      "16",
      "--max-length",
      "256",
      "--steps",
      flags["row-steps"],
      ...given(Object.keys(shapes))
    )
})

const seconds = { show: (value) => `${value.toPrecision(3)} s`, ratio: (ours, theirs) => theirs / ours }
const bytes = { show: (value) => `${(value / 1e9).toFixed(2)} GB`, ratio: (ours, theirs) => theirs / ours }
const rate = {
  show: (value) => `${value < 100 ? value.toPrecision(3) : Math.round(value)}/s`,
  ratio: (ours, theirs) => ours / theirs
}

const answers = generation({ flags, python, chatlm, peers, units: { bytes, rate, seconds } })

const long = ["--batch", "1", "--source", "320", "--target", "320"]
const measurements = {
  f32: step(["--precision", "f32"]),
  "f32-compile": step(["--precision", "f32"], ["--compile"]),
  bf16: step(["--precision", "bf16"]),
  "bf16-compile": step(["--precision", "bf16"], ["--compile"]),
  long: step([...long, "--precision", "bf16", "--optimizer", "adafactor", "--recompute"]),
  "rows-f32": rowsHalf("f32"),
  "rows-bf16": rowsHalf("bf16"),
  ...answers.measurements
}

// ── the table

const rows = [
  { name: "f32", title: "step, f32, eager", of: "f32", field: "seconds_per_step", unit: seconds },
  {
    name: "f32-compile",
    title: "step, f32, compiled",
    of: "f32-compile",
    field: "seconds_per_step",
    unit: seconds
  },
  { name: "bf16", title: "step, bf16 autocast, eager", of: "bf16", field: "seconds_per_step", unit: seconds },
  {
    name: "bf16-compile",
    title: "step, bf16 autocast, compiled",
    of: "bf16-compile",
    field: "seconds_per_step",
    unit: seconds
  },
  { name: "memory", title: "peak memory, f32, eager", of: "f32", field: "peak_rss_bytes", unit: bytes },
  {
    name: "long-memory",
    title: "peak memory, batch 1 × (320 + 320), bf16, Adafactor, recompute",
    of: "long",
    field: "peak_rss_bytes",
    unit: bytes
  },
  { name: "update", title: "update alone, AdamW, f32", of: "f32", field: "update", unit: seconds },
  {
    name: "rows",
    title: "rows of mixed length, batch 16, f32: real tokens",
    of: "rows-f32",
    field: "tokens_per_second",
    unit: rate
  },
  {
    name: "rows-bf16",
    title: "rows of mixed length, batch 16, bf16: real tokens",
    of: "rows-bf16",
    field: "tokens_per_second",
    unit: rate
  },
  ...answers.rows
]

const only = flags.only?.split(",")
const unknown = only?.find((name) => !rows.some((row) => row.name === name))
if (unknown !== undefined) {
  stop(`there is no row ${unknown}`, `one of ${rows.map(({ name }) => name).join(", ")}`)
}
const hasRows = flags.rows !== undefined && flags.tokenizer !== undefined
const howToRows = "rows of mixed length want --rows FILE (prompt, response) and --tokenizer DIR"
if (only?.some((name) => name.startsWith("rows")) && !hasRows)
  stop(`--only ${flags.only} has no rows`, howToRows)
const wanted = rows.filter(({ name, of }) =>
  only === undefined ? hasRows || !of.startsWith("rows") : only.includes(name)
)

const processor = /^model name\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "unknown"
const load = loadavg()[0].toFixed(1)

/** Measurement → its rounds, or why it failed. */
const results = new Map()
for (const name of new Set(wanted.map(({ of }) => of))) {
  const taken = []
  results.set(name, { taken })
  let half = "ours"
  try {
    for (let round = 1; round <= rounds; round += 1) {
      const pair = {}
      for (half of ["ours", "peers"]) {
        console.error(`${name}, round ${round} of ${rounds}: ${half} …`)
        pair[half] = measurements[name][half]()
      }
      taken.push(pair)
    }
  } catch (error) {
    console.error(`${name}: ${half} failed: ${error.message}`)
    results.set(name, { taken: [], failed: `${half} failed: ${error.message}` })
  }
}

const line = ({ name, title, of, field, unit }) => {
  const { taken, failed } = results.get(of)
  if (failed !== undefined) return `| ${name} | ${title} | – | – | ${failed.replaceAll("|", "/")} |`
  const ours = taken.map((pair) => pair.ours[field])
  const theirs = taken.map((pair) => pair.peers[field])
  const ratios = taken.map((_, round) => unit.ratio(ours[round], theirs[round]))
  const each = ratios.map((ratio) => ratio.toFixed(2)).join(", ")
  const values = [ours, theirs].map((half) => unit.show(median(half)))
  return `| ${name} | ${title} | ${values.join(" | ")} | ${median(ratios).toFixed(2)} × (${each}) |`
}

const pairs = [...results.values()].flatMap(({ taken }) => taken)
const paths = [...new Set(pairs.flatMap(({ ours }) => ours.cpu ?? []))]
const list = (names) => names.map((name) => `${name} ${flags[name]}`).join(", ")

console.log(`Processor: ${processor}, load ${load} before the first run`)
const described = pairs.map(({ peers: { configuration: c } }) =>
  c.ctranslate2 === undefined
    ? `PyTorch ${c.torch}, transformers ${c.transformers}: ${c.cpu_capability}, attention ${c.attention}`
    : `CTranslate2 ${c.ctranslate2}: ${c.compute_type}`
)
for (const text of new Set(described)) console.log(text)
if (paths.length > 0) console.log(`Ours: ${paths.join(", ")}`)
console.log(
  `Both: ${flags.threads} threads, ${list(Object.keys(shapes))}; one step or call of warm-up is not counted`
)
const any = (start) => wanted.some(({ of }) => of.startsWith(start))
if (wanted.some(({ of }) => !/^(rows|generate)/.test(of))) {
  console.log(
    `Steps: ${list(["vocab", "batch", "source", "target"])} unless the row says otherwise; ${flags.steps} a run`
  )
}
if (any("rows")) {
  console.log(
    `Rows: ${flags.rows}, batch 16, at most 256 tokens (ours) or characters (the reference); ${flags["row-steps"]} steps a run`
  )
}
if (any("generate")) {
  console.log(
    `Answers: prompts of 64 tokens, exactly ${flags.tokens} new ones, random weights, loading not counted`
  )
}
console.log("")
console.log(
  `| name | what | ours | the peer's | ours is better by (median of ${rounds} rounds; each round) |`
)
console.log("| --- | --- | --- | --- | --- |")
for (const row of wanted) console.log(line(row))
/** What a peer's memory is before it has a model, where the table has memory of it. */
const imported = wanted
  .filter(({ unit }) => unit === bytes)
  .flatMap(({ of }) => results.get(of).taken.slice(0, 1))
  .map(({ peers: { configuration, imported_rss_bytes: rss } }) => {
    const torch = configuration.ctranslate2 === undefined
    const [name, note] = torch ? ["PyTorch", " (builds with CUDA take more)"] : ["CTranslate2", ""]
    return [name, `Of ${name}'s memory, importing it takes ${bytes.show(rss)}${note}.`]
  })
if (imported.length > 0) console.log(`\n${[...new Map(imported).values()].join(" ")}`)
if (flags.only === undefined && !hasRows) console.log(`\nLeft out: ${howToRows}.`)
process.exitCode = [...results.values()].some(({ failed }) => failed !== undefined) ? 1 : 0
