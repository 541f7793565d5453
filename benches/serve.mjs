// A served model under load: `npm run bench:serve -- --model DIR [--streams 1,16] [--requests 48] [--tokens 64]`. Starts
// `chatlm serve`, asks by OpenAI's streaming call (prompts of 64 tokens of make_model.py's tokenizer, drawn answers), and
// prints tokens a second and times to the first token for each number of streams at once. With --soak SECONDS
// [--clients 200]: soak.mjs.
import { spawn } from "node:child_process"
import { join } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { stop } from "./python.mjs"
import { soak } from "./soak.mjs"

const text = (value) => ({ type: "string", ...(value === undefined ? {} : { default: value }) })
const { values: flags } = parseArgs({
  options: {
    model: text(), streams: text("1,16"), requests: text("48"), tokens: text("64"), rounds: text("2"), soak: text(),
    clients: text("200")
  }
})
if (flags.model === undefined) stop("--model is wanted", "a folder of the bench's random model, such as its int8 export")

const server = spawn(node, [join(root, "bin", "chatlm.mjs"), "serve", "--model", flags.model, "--model-name", "m", "--port", "0"])
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

const content = Array.from({ length: 63 }, (_, place) => `t${3 + ((place * 37) % 29_000)}`).join(" ")
const ask = async (seed) => {
  const began = performance.now()
  const body = {
    model: "m", messages: [{ role: "user", content }], max_tokens: Number(flags.tokens), temperature: 1, seed,
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

await ask(0)
if (flags.soak !== undefined) {
  const [seconds, clients, tokens] = [flags.soak, flags.clients, flags.tokens].map(Number)
  const held = await soak({ url, pid: server.pid, content, clients, seconds, tokens })
  process.exit(held ? 0 : 1)
}
console.log("| streams at once | tokens a second | first token: median, p99 |\n| --- | --- | --- |")
for (let round = 0; round < Number(flags.rounds); round += 1) {
  for (const streams of flags.streams.split(",").map(Number)) {
    const requests = streams === 1 ? Math.ceil(Number(flags.requests) / 8) : Number(flags.requests)
    const began = performance.now()
    const found = []
    let next = 0
    await Promise.all(
      Array.from({ length: streams }, async () => {
        while (next < requests) found.push(await ask((next += 1)))
      })
    )
    const seconds = (performance.now() - began) / 1000
    const tokens = found.reduce((sum, { tokens }) => sum + tokens, 0)
    const firsts = found.map(({ first }) => first).sort((a, b) => a - b)
    const at = (share) => `${firsts[Math.min(firsts.length - 1, Math.floor(firsts.length * share))].toFixed(0)} ms`
    console.log(`| ${streams} | ${(tokens / seconds).toFixed(0)} | ${at(0.5)}, ${at(0.99)} |`)
  }
}
process.exit(0)
