// The server for minutes under clients that come and go: `npm run bench:serve -- --model DIR --soak 300 --clients 200`.
// A third of the requests leave in the middle: before their first token, or behind some. Afterwards no error but 429 has
// come, the server's memory is where it was after the warm-up, and nothing is left running, waiting or reserved; else
// the exit status is 1.
import { readFileSync } from "node:fs"
import { setTimeout } from "node:timers/promises"

const residentMB = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024

const at = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
const median = (values) => at(values.toSorted((a, b) => a - b), 0.5)

/** What is usual in each tenth of a row of numbers. */
const tenths = (values) =>
  Array.from({ length: 10 }, (_, tenth) =>
    median(values.slice(Math.floor((tenth * values.length) / 10), Math.max(1, Math.floor(((tenth + 1) * values.length) / 10)))))

/** Numbers that are the same each time, so that two runs ask the same. */
const drawn = (seed) => () => {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}

const metrics = async (url) => {
  const text = await (await fetch(`${url}/metrics`)).text()
  return (name) => Number(new RegExp(`^chatlm_${name} (\\S+)`, "m").exec(text)?.[1] ?? Number.NaN)
}

/** One request; with `leave` it is given up: after so many milliseconds or so many pieces, whichever is given. */
const ask = async (url, body, leave, seen) => {
  const began = performance.now()
  const away = new AbortController()
  const timer = leave?.after === undefined ? undefined : globalThis.setTimeout(() => away.abort(), leave.after)
  let first
  try {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: away.signal
    })
    if (response.status !== 200) {
      seen.statuses.set(response.status, (seen.statuses.get(response.status) ?? 0) + 1)
      await response.text()
      if (response.status === 429) await setTimeout(1000 * Number(response.headers.get("retry-after") ?? 1))
      return
    }
    let [pieces, end] = [0, ""]
    const decoder = new TextDecoder()
    for await (const chunk of response.body) {
      first ??= performance.now() - began
      pieces += 1
      end = (end + decoder.decode(chunk, { stream: true })).slice(-200)
      if (leave?.behind !== undefined && pieces >= leave.behind) away.abort()
    }
    if (!end.trimEnd().endsWith("data: [DONE]")) throw new Error(`a stream without its end: ${end}`)
    seen.firsts.push(first)
    seen.wholes.push(performance.now() - began)
  } catch (error) {
    if (away.signal.aborted) seen.left += 1
    else seen.errors.push(String(error.cause ?? error))
  } finally {
    clearTimeout(timer)
  }
}

/** Answers whether all held. */
export const soak = async ({ url, pid, content, clients, seconds, tokens }) => {
  const seen = { firsts: [], wholes: [], left: 0, errors: [], statuses: new Map() }
  const memory = []
  const began = performance.now()
  const over = () => performance.now() - began >= seconds * 1000
  const words = content.split(" ")
  const client = async (number) => {
    const random = drawn(number + 1)
    while (!over()) {
      const long = 1 + Math.floor(random() * words.length)
      const body = {
        model: "m", messages: [{ role: "user", content: words.slice(0, long).join(" ") }], temperature: 1,
        max_tokens: 1 + Math.floor(random() * tokens), seed: Math.floor(random() * 2 ** 31), stream: true
      }
      const leaves = random() < 1 / 3
      const leave = random() < 0.5 ? { after: random() * 2000 } : { behind: 1 + Math.floor(random() * 8) }
      await ask(url, body, leaves ? leave : undefined, seen)
    }
  }
  const sampling = (async () => {
    while (!over()) {
      memory.push(residentMB(pid))
      await setTimeout(Math.max(50, seconds * 5))
    }
  })()
  await Promise.all([sampling, ...Array.from({ length: clients }, (_, number) => client(number))])
  const took = (performance.now() - began) / 1000

  // Whoever left at the very end is given up within a step.
  let left
  for (let wait = 0; wait < 100; wait += 1) {
    const metric = await metrics(url)
    left = ["requests_running", "requests_waiting", "cache_bytes"].map(metric)
    if (left.every((value) => value === 0)) break
    await setTimeout(100)
  }
  const metric = await metrics(url)
  const fifth = Math.floor(memory.length / 5)
  // The first fifth is the warm-up; the next is held against the last.
  const [early, late] = [median(memory.slice(fifth, 2 * fifth)), median(memory.slice(-fifth))]
  const growth = (100 * (late - early)) / early
  const others = [...seen.statuses].filter(([status]) => status !== 429)
  const times = (values) => {
    const sorted = values.toSorted((a, b) => a - b)
    return `${at(sorted, 0.5).toFixed(0)}, ${at(sorted, 0.99).toFixed(0)} ms`
  }
  const total = seen.wholes.length + seen.left + seen.errors.length + [...seen.statuses.values()].reduce((a, b) => a + b, 0)
  console.log(`| ${clients} clients for ${seconds} s | |\n| --- | --- |`)
  const rows = [
    ["requests: all; answered whole; left in the middle; 429", `${total}; ${seen.wholes.length}; ${seen.left}; ${seen.statuses.get(429) ?? 0}`],
    ["errors besides 429", seen.errors.length + others.length === 0 ? "0" : [...others.flat(), ...seen.errors.slice(0, 5)].join(", ")],
    ["tokens a second (of whole answers)", ((metric("generated_tokens_total") ?? 0) / took).toFixed(0)],
    ["first token: median, p99", times(seen.firsts)],
    ["whole answer: median, p99", times(seen.wholes)],
    ["memory: after the warm-up, at the end, growth", `${early.toFixed(0)} MB, ${late.toFixed(0)} MB, ${growth.toFixed(1)} %`],
    ["memory, tenth by tenth", tenths(memory).map((value) => value.toFixed(0)).join(", ")],
    ["left running, waiting, reserved bytes", left.join(", ")]
  ]
  for (const [name, value] of rows) console.log(`| ${name} | ${value} |`)
  const held = [
    [seen.errors.length + others.length === 0, "there were errors"],
    [seen.left > total / 5 && seen.wholes.length > 0, "too few left, or none was answered"],
    [left.every((value) => value === 0), "something is left over"],
    // Less than a minute is all warm-up.
    [seconds < 60 || growth < 5, "memory grew by 5 % or more"]
  ]
  for (const [holds, what] of held) if (!holds) console.error(`failed: ${what}`)
  return held.every(([holds]) => holds)
}
