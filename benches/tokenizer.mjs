// Tokenizers, ours against the tokenizers package, in turns:
// `node benches/tokenizer.mjs --in TEXT.txt [--rounds 3] [--growth 10,100,1000] [--only train|encode|growth]`.
// Training and encoding on the same text and threads; the result is the median of the rounds' ratios. Growth trains ours
// alone on the first so many MB of the text. Prints markdown tables. The package lives in the Python of the other
// benches.
import { createReadStream, createWriteStream, existsSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { pipeline } from "node:stream/promises"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { findPython, peer, run, stop } from "./python.mjs"

const text = (value) => ({ type: "string", ...(value === undefined ? {} : { default: value }) })
const { values: flags } = parseArgs({
  options: {
    in: text(),
    rounds: text("3"),
    growth: text("10,100,1000"),
    "vocab-size": text("40960"),
    "min-frequency": text("100"),
    "max-memory": text(),
    megabytes: text("40"),
    threads: text("2"),
    only: text(),
    python: text()
  }
})
if (flags.in === undefined || !existsSync(flags.in)) stop("a text file is wanted", "give --in TEXT.txt")
const input = resolve(flags.in)
const folder = mkdtempSync(join(tmpdir(), "chatlm-bench-"))
process.on("exit", () => rmSync(folder, { recursive: true, force: true }))

/** The first so many MB of the text; what follows the last whole line is half a line, or half a character. */
const cut = async (megabytes) => {
  const out = join(folder, `${megabytes}.txt`)
  if (!existsSync(out)) {
    const size = Math.min(statSync(input).size, megabytes * 1e6)
    let end = size
    for await (const chunk of createReadStream(input, { start: Math.max(0, size - 65_536), end: size - 1 })) {
      const last = chunk.lastIndexOf(10)
      if (last >= 0) end = Math.max(0, size - 65_536) + last + 1
    }
    await pipeline(createReadStream(input, { end: end - 1 }), createWriteStream(out))
  }
  return out
}

const settings = (model) => [
  "--model",
  model,
  "--vocab-size",
  flags["vocab-size"],
  "--min-frequency",
  flags["min-frequency"]
]
const chatlm = (...args) =>
  run(node, [join(root, "bin", "chatlm.mjs"), ...args, "--threads", flags.threads, "--json"])
const python = flags.only === "growth" ? "" : findPython(flags.python)
const theirs = (...args) => peer(python, "tokenizer.py", [...args, "--threads", flags.threads], flags.threads)
const train = (model, file, more = []) =>
  chatlm(
    "tokenizer",
    "train",
    "--in",
    file,
    "--out",
    join(folder, model),
    "--force",
    ...settings(model),
    ...more
  )

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1]
const seconds = (value) => `${value.toFixed(1)} s`
const megabytes = (value) => `${Math.round(value / 1e6)} MB`
const rate = (value) => `${(value / 1e6).toFixed(2)} M/s`
const each = (values) => values.map((value) => value.toFixed(2)).join(", ")

const models = ["char-bpe", "byte-bpe"]
const wants = (what) => flags.only === undefined || flags.only === what

const compare = async () => {
  const file = await cut(Number(flags.megabytes))
  const { size } = statSync(file)
  console.log(`${(size / 1e6).toFixed(1)} MB, vocabulary ${flags["vocab-size"]}, ${flags.threads} threads\n`)
  console.log("| what | ours | the package | ratio (each round) |\n| --- | --- | --- | --- |")
  for (const model of models) {
    const rounds = { time: [], memory: [], encode: [], fast: [] }
    const more = flags["max-memory"] === undefined ? [] : ["--max-memory", flags["max-memory"]]
    for (let round = 0; round < Number(flags.rounds); round += 1) {
      const ours = train(model, file, more)
      if (wants("train")) {
        const other = theirs("train", "--in", file, ...settings(model))
        rounds.time.push([ours.seconds, other.seconds])
        rounds.memory.push([ours.peak_rss_bytes, other.peak_rss_bytes])
      }
      if (wants("encode")) {
        const args = ["--tokenizer", join(folder, model), "--in", file]
        const own = chatlm("bench", "encode", ...args).tokens_per_second
        rounds.encode.push([own, theirs("encode", ...args).tokens_per_second])
        rounds.fast.push([own, theirs("encode", ...args, "--fast").tokens_per_second])
      }
    }
    const line = (what, pairs, show) => {
      if (pairs.length === 0) return
      const [ours, other] = [0, 1].map((side) => show(median(pairs.map((pair) => pair[side]))))
      const ratios = pairs.map(([a, b]) => a / b)
      console.log(
        `| ${model}: ${what} | ${ours} | ${other} | ${median(ratios).toFixed(2)} (${each(ratios)}) |`
      )
    }
    line("training", rounds.time, seconds)
    line("its peak memory", rounds.memory, megabytes)
    line("tokens encoded, encode_batch", rounds.encode, rate)
    line("tokens encoded, encode_batch_fast", rounds.fast, rate)
  }
}

const grow = async () => {
  const more = flags["max-memory"] === undefined ? [] : ["--max-memory", flags["max-memory"]]
  console.log("\n| text | char-bpe | | byte-bpe | |\n| --- | --- | --- | --- | --- |")
  for (const size of flags.growth.split(",").map(Number)) {
    const file = await cut(size)
    const cells = models.flatMap((model) => {
      const { seconds: taken, peak_rss_bytes: peak } = train(model, file, more)
      return [seconds(taken), megabytes(peak)]
    })
    console.log(`| ${size} MB | ${cells.join(" | ")} |`)
  }
}

if (wants("train") || wants("encode")) await compare()
if (wants("growth")) await grow()
