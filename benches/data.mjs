// Data, ours against the peers, in turns:
// `npm run bench:data -- --rows ROWS.parquet --tokenizer DIR [--raw FILE --source KIND] [--rounds 3] [--only A,B]`.
// dedup against rensa, the loader against Hugging Face datasets, cleaning against merely reading and writing the same rows.
// `--only growth --rows A.parquet,B.parquet,…` deduplicates each alone. Prints markdown tables; the peers live in the
// Python of the other benches, with rensa and datasets.
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { findPython, peer, run, stop } from "./python.mjs"

const text = (value) => ({ type: "string", ...(value === undefined ? {} : { default: value }) })
const { values: flags } = parseArgs({
  options: {
    rows: text(),
    tokenizer: text(),
    raw: text(),
    source: text(),
    rounds: text("3"),
    threads: text("2"),
    batches: text("8000"),
    "peer-batches": text("600"),
    "max-memory": text(),
    only: text("dedup,load,clean"),
    python: text()
  }
})
const rows = (flags.rows ?? "").split(",").filter((path) => path !== "")
for (const path of [...rows, flags.raw, flags.tokenizer].filter((path) => path !== undefined)) {
  if (!existsSync(path)) stop(`${path} is not there`, "name files and folders that are")
}
const folder = mkdtempSync(join(tmpdir(), "chatlm-bench-"))
process.on("exit", () => rmSync(folder, { recursive: true, force: true }))

const chatlm = (...args) =>
  run(node, [join(root, "bin", "chatlm.mjs"), ...args, "--threads", flags.threads, "--json"])
const python = () => findPython(flags.python)
const peers = (script, ...args) => peer(python(), script, args, flags.threads)
const out = (name) => join(folder, name)
const input = () => resolve(rows[0] ?? stop("rows are wanted", "give --rows ROWS.parquet"))
const memory = flags["max-memory"] === undefined ? [] : ["--max-memory", flags["max-memory"]]
const dedup = (path) => chatlm("dedup", "--in", path, "--out", out("kept.parquet"), "--force", ...memory)

const seconds = ({ seconds }) => seconds
const measurements = {
  dedup: {
    title: "dedup against rensa, its fastest way: seconds",
    ours: () => dedup(input()),
    peers: () => peers("dedup.py", input(), out("peer.parquet"), "--way", "matrix"),
    of: seconds,
    lower: true
  },
  load: {
    title: "rows a second, against datasets + tokenizers + padding",
    ours: () =>
      chatlm("bench", "load", "--in", input(), "--tokenizer", resolve(flags.tokenizer), "--batches", flags.batches),
    peers: () =>
      peers("load.py", "--in", input(), "--tokenizer", resolve(flags.tokenizer), "--batches", flags["peer-batches"]),
    of: ({ rows_per_second }) => rows_per_second,
    lower: false
  },
  clean: {
    title: "cleaning against reading and writing (chatlm merge): seconds",
    ours: () =>
      chatlm("clean", "--source", flags.source, "--in", resolve(flags.raw), "--out", out("clean.parquet"), "--force"),
    peers: () => chatlm("merge", "--in", resolve(flags.raw), "--out", out("merged.parquet"), "--force"),
    of: seconds,
    lower: true
  }
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1]
const megabytes = (bytes) => (bytes === undefined ? "" : `${Math.round(bytes / 1e6)} MB`)
const only = flags.only.split(",")

if (only.includes("growth")) {
  console.log("| rows | seconds | peak |\n| --- | --- | --- |")
  for (const path of rows) {
    const told = dedup(resolve(path))
    console.log(`| ${told.rows} | ${told.seconds.toFixed(2)} | ${megabytes(told.peak_rss_bytes)} |`)
  }
}

const wanted = Object.entries(measurements).filter(([name]) => only.includes(name))
for (const [name, { title, ours, peers: theirs, of, lower }] of wanted) {
  if (name === "clean" && flags.raw === undefined) continue
  const rounds = Array.from({ length: Number(flags.rounds) }, () => [ours(), theirs()])
  const ratios = rounds.map(([a, b]) => (lower ? of(b) / of(a) : of(a) / of(b)))
  const each = ratios.map((ratio) => ratio.toFixed(2)).join(", ")
  const show = (side) => median(rounds.map((round) => of(round[side]))).toPrecision(3)
  const peak = (side) => megabytes(rounds[0][side].peak_rss_bytes)
  console.log(`\n${title}\n\n| ours | theirs | ours is better by | peaks |\n| --- | --- | --- | --- |`)
  console.log(`| ${show(0)} | ${show(1)} | ${median(ratios).toFixed(2)} × (${each}) | ${peak(0)}, ${peak(1)} |`)
}
