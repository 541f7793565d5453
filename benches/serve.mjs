// A served model under load: `npm run bench:serve -- --model DIR [--streams 1,16] [--requests 48] [--tokens 64]`. Starts
// `chatlm serve`, asks by OpenAI's streaming call (prompts of 64 tokens of make_model.py's tokenizer, drawn answers), and
// prints tokens a second and times to the first token for each number of streams at once. With --soak SECONDS
// [--clients 200]: soak.mjs. With `--against ctranslate2 [--rounds 3]`, in place of --model: 16 streams of the 0.2 B model in
// int8 (greedy, exactly --tokens each, over HTTP) and CTranslate2 on batches of 16 made by hand, in turns.
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { findPython, peer, randomModel, run, stop } from "./python.mjs"
import { soak } from "./soak.mjs"

const text = (value) => ({ type: "string", ...(value === undefined ? {} : { default: value }) })
const { values: flags } = parseArgs({
  options: {
    model: text(), streams: text("1,16"), requests: text("48"), tokens: text("64"), rounds: text("2"), soak: text(),
    clients: text("200"), against: text(), threads: text("2"), python: text()
  }
})
if (flags.against !== undefined && flags.against !== "ctranslate2") stop("--against is ctranslate2", "leave it out, or write that")
if (flags.model === undefined && flags.against === undefined) {
  stop("--model is wanted", "a folder of the bench's random model, such as its int8 export")
}
const tokens = Number(flags.tokens)

const startServer = async (model) => {
  const args = ["serve", "--model", model, "--model-name", "m", "--port", "0", "--threads", flags.threads]
  const server = spawn(node, [join(root, "bin", "chatlm.mjs"), ...args])
  process.on("exit", () => server.kill("SIGKILL"))
  const url = await new Promise((done, fail) => {
    let said = ""
    server.stderr.on("data", (chunk) => {
      said += chunk
      const address = /listening on (\S+)/.exec(said)?.[1]
      if (address !== undefined) done(address)
    })
    server.on("close", () => fail(new Error(said)))
  })
  return { url, pid: server.pid }
}

const content = Array.from({ length: 63 }, (_, place) => `t${3 + ((place * 37) % 29_000)}`).join(" ")
const ask = async (url, seed, settings) => {
  const began = performance.now()
  const body = {
    model: "m", messages: [{ role: "user", content }], max_tokens: tokens, seed, ...settings,
    stream: true, stream_options: { include_usage: true }
  }
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body)
  })
  let [first, said] = [undefined, ""]
  const decoder = new TextDecoder()
  for await (const chunk of response.body) {
    first ??= performance.now() - began
    said += decoder.decode(chunk, { stream: true })
  }
  return { first, tokens: Number(/"completion_tokens":(\d+)/.exec(said)?.[1] ?? 0) }
}

/** So many requests, `streams` at once. */
const load = async (url, streams, requests, settings) => {
  const began = performance.now()
  const found = []
  let next = 0
  await Promise.all(
    Array.from({ length: streams }, async () => {
      while (next < requests) found.push(await ask(url, (next += 1), settings))
    })
  )
  const seconds = (performance.now() - began) / 1000
  const written = found.reduce((sum, each) => sum + each.tokens, 0)
  return { rate: written / seconds, written, firsts: found.map(({ first }) => first).sort((a, b) => a - b) }
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]

/** Ours over HTTP and CTranslate2 without, in turns. */
const against = async () => {
  const python = findPython(flags.python)
  const model = randomModel(python, flags.threads)
  const folder = mkdtempSync(join(tmpdir(), "chatlm-serve-"))
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
  const [ours, theirs] = [join(folder, "int8"), `${model}-ct2-int8`]
  run(node, [join(root, "bin", "chatlm.mjs"), "export", "--int8", "--model", model, "--out", ours, "--json"])
  const settings = join(ours, "generation_config.json")
  writeFileSync(settings, JSON.stringify({ ...JSON.parse(readFileSync(settings, "utf8")), min_new_tokens: tokens }))
  const engine = ["--engine", "ctranslate2", "--dtype", "int8"]
  if (!existsSync(theirs)) peer(python, "generate.py", [...engine, "--model", model, "--convert", theirs], flags.threads)
  const { url } = await startServer(ours)
  await load(url, 16, 16, { temperature: 0 })
  const rounds = []
  for (let round = 0; round < Number(flags.rounds); round += 1) {
    const requests = Number(flags.requests)
    const { rate, written } = await load(url, 16, requests, { temperature: 0 })
    if (written !== requests * tokens) throw new Error(`${written} tokens instead of ${requests * tokens}`)
    const sizes = ["--batch", "16", "--source", "64", "--tokens", flags.tokens, "--threads", flags.threads]
    const peers = peer(python, "generate.py", [...engine, "--model", theirs, ...sizes], flags.threads).tokens_per_second
    // This process stood still meanwhile: it learns now that its connections have been closed.
    await setTimeout(200)
    rounds.push({ rate, peers, ratio: rate / peers })
    console.log(`round ${round + 1}: ${rate.toFixed(0)} tokens/s served, CTranslate2 ${peers.toFixed(0)}, ${(rate / peers).toFixed(2)} ×`)
  }
  const of = (name) => median(rounds.map((round) => round[name]))
  console.log(`median: ${of("rate").toFixed(0)} against ${of("peers").toFixed(0)} tokens/s, ${of("ratio").toFixed(2)} ×`)
}

if (flags.against !== undefined) {
  await against()
  process.exit(0)
}
const { url, pid } = await startServer(flags.model)
const drawn = { temperature: 1 }
await ask(url, 0, drawn)
if (flags.soak !== undefined) {
  const [seconds, clients] = [flags.soak, flags.clients].map(Number)
  process.exit((await soak({ url, pid, content, clients, seconds, tokens })) ? 0 : 1)
}
console.log("| streams at once | tokens a second | first token: median, p99 |\n| --- | --- | --- |")
for (let round = 0; round < Number(flags.rounds); round += 1) {
  for (const streams of flags.streams.split(",").map(Number)) {
    const requests = streams === 1 ? Math.ceil(Number(flags.requests) / 8) : Number(flags.requests)
    const { rate, firsts } = await load(url, streams, requests, drawn)
    const at = (share) => `${firsts[Math.min(firsts.length - 1, Math.floor(firsts.length * share))].toFixed(0)} ms`
    console.log(`| ${streams} | ${rate.toFixed(0)} | ${at(0.5)}, ${at(0.99)} |`)
  }
}
process.exit(0)
