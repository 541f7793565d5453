// Runs as a page: what is read, what is drawn, that text stays text, and that a cut-back run is told anew.
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync
} from "node:fs"
import { request } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { script } from "../../ts/dashboard/bundle.ts"
import { lighten } from "../../ts/dashboard/dashboard.ts"
import { findRuns } from "../../ts/dashboard/find.ts"
import { serveDashboard } from "../../ts/dashboard/server.ts"
import { Tail } from "../../ts/dashboard/tail.ts"
import { byteTicks, chart, ticks } from "../../ts/dashboard/view/chart.ts"
import { pointsOf, smooth, thin } from "../../ts/dashboard/view/data.ts"
import type { Axis, Metrics, Point } from "../../ts/dashboard/view/data.ts"
import { chartsOf } from "../../ts/dashboard/view/view.ts"
import { bytes, duration, figure, short } from "../../ts/dashboard/view/format.ts"
import { makeDashboard, readRun, watch } from "../../ts/index.ts"
import type { RunEvent } from "../../ts/index.ts"
import { chatlm } from "../cli/support.ts"

const nasty = `</script><img src=x onerror="alert(1)"><b>`
const folder = mkdtempSync(join(tmpdir(), "chatlm-dashboard-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const line = (step: number, more: object = {}) =>
  `${JSON.stringify({
    step,
    epoch: step / 10,
    loss: 5 - step / 10,
    learning_rate: 1e-3,
    grad_norm: 1,
    tokens_per_second: 1000,
    rss_bytes: 2 ** 30,
    padding_share: 0,
    total_steps: 20,
    tokens: step * 100,
    seconds: step,
    time: 1_700_000_000 + step,
    ...more
  })}\n`

const makeRun = (name: string, steps: number) => {
  const run = join(folder, "runs", name)
  mkdirSync(run, { recursive: true })
  writeFileSync(join(run, "config.json"), JSON.stringify({ out: name, learningRate: steps, [nasty]: nasty }))
  const lines = Array.from({ length: steps }, (_, step) => line(step + 1))
  writeFileSync(join(run, "metrics.jsonl"), lines.join(""))
  appendFileSync(
    join(run, "metrics.jsonl"),
    `${JSON.stringify({ step: steps, epoch: 1, eval_loss: 3.5, eval_bleu4: 0.25, tokens: 1, seconds: 1 })}\n`
  )
  const sample = { step: steps, prompt: nasty, response: `好${nasty}`, label: "对" }
  writeFileSync(join(run, "samples.jsonl"), `${JSON.stringify(sample)}\n`)
  return run
}

let first = ""
beforeAll(() => {
  first = makeRun("a", 10)
  makeRun("b<i>", 20)
  mkdirSync(join(folder, "runs", "a", "checkpoints", "x"), { recursive: true })
  writeFileSync(join(folder, "runs", "a", "checkpoints", "x", "metrics.jsonl"), "")
})

describe("figures", () => {
  it("are short, and say how large they are", () => {
    expect([950, 1234, 3_450_000, 0].map(short)).toEqual(["950", "1.23k", "3.45M", "0"])
    expect([1023, 2 ** 30 * 1.5].map(bytes)).toEqual(["1023 B", "1.5 GiB"])
    expect([0, 2.34567, 4.8e-9].map(figure)).toEqual(["0", "2.346", "4.80e-9"])
    expect([0.5, 45, 600, 12_000, 190_000].map(duration)).toEqual([
      "0.5 s",
      "45 s",
      "10 min",
      "3 h 20",
      "2 d 5 h"
    ])
  })

  it("smoothing owes nothing to the first value, thinning keeps the extremes, ticks are round", () => {
    const flat = Array.from({ length: 50 }, (_, x): Point => [x, 3])
    for (const [, y] of smooth(flat, 0.9)) expect(y).toBeCloseTo(3, 12)
    const spiky = Array.from({ length: 100_000 }, (_, x): Point => [x, x === 54_321 ? 9 : x === 7 ? -9 : 0])
    const thinned = thin(spiky)
    expect(thinned.length).toBeLessThanOrEqual(1300)
    expect(thinned).toContainEqual([54_321, 9])
    expect(thinned).toContainEqual([7, -9])
    expect(thinned.at(-1)).toEqual([99_999, 0])
    expect(ticks(0, 9.4, 4)).toEqual([0, 2.5, 5, 7.5])
    expect(ticks(3, 3, 4)).toEqual([3])
    expect(byteTicks(0, 3.1 * 2 ** 30, 4).map(bytes)).toEqual(["0 B", "1 GiB", "2 GiB", "3 GiB"])
  })

  it("a file holds every so many of very many lines, and all evaluations", () => {
    const lines = Array.from({ length: 20_000 }, (_, step): Metrics =>
      step % 1000 === 500 ? { step, eval_loss: 1 } : { step, loss: 1 }
    )
    const light = lighten({ name: "a", config: {}, samples: [], lines })
    expect(light.lines.length).toBeLessThan(4100)
    expect(light.lines.filter(({ eval_loss }) => eval_loss !== undefined)).toHaveLength(20)
    expect(light.lines.at(-1)?.step).toBe(19_999)
  })
})

describe("charts", () => {
  const run = (name: string, lines: ReadonlyArray<Metrics>) => ({ name, lines, config: {}, samples: [] })
  const view = { axis: "step", smoothing: 0, log: false, hidden: new Set<string>() } as const

  it("rewards of dpo have theirs, and so has a measure that nobody knows; what is always 0 has none", () => {
    const lines = [1, 2].map((step) => ({
      step,
      "rewards/chosen": 0.1,
      "rewards/rejected": -0.1,
      "rewards/accuracies": 0.75,
      "eval_rewards/margins": 0.2,
      padding_share: 0,
      something: step
    }))
    const charts = chartsOf([run("a", lines), run("b", lines)], view)
    expect(charts.map(({ title, series }) => `${title}: ${series.length}`)).toEqual([
      "Reward accuracy: 2",
      "Rewards: 4",
      "Reward margin, evaluation: 2",
      "something: 2"
    ])
    expect(charts[1]?.series.map(({ name, look }) => `${name} ${look}`)).toEqual([
      "a line",
      "a (rejected) dashed",
      "b line",
      "b (rejected) dashed"
    ])
    const padded = lines.map((line) => ({ ...line, padding_share: 0.25 }))
    expect(chartsOf([run("a", padded)], view).map(({ title }) => title)).toContain("Padding")
    expect(chartsOf([run("a", lines)], { ...view, hidden: new Set(["a"]) })[0]?.series).toEqual([])
  })

  it("runs lie over each other by steps, tokens or time; a line without that place is left out", () => {
    const lines = [
      { step: 1, loss: 3, tokens: 10, seconds: 2, time: 100 },
      { step: 2, loss: 2 }
    ]
    const at = (axis: Axis) => chartsOf([run("a", lines)], { ...view, axis })[0]?.series[0]?.points
    expect(at("step")).toEqual([
      [1, 3],
      [2, 2]
    ])
    expect(at("tokens")).toEqual([[10, 3]])
    expect(at("time")).toEqual([[100, 3]])
  })

  it("a value that is far off, and one that no logarithm has, spoil nothing", () => {
    const points = Array.from({ length: 500 }, (_, x): Point => [x, x === 250 ? 1e9 : x === 3 ? 0 : 2])
    for (const log of [false, true]) {
      const { text } = chart({
        id: "c",
        title: "t",
        axis: "step",
        log,
        format: figure,
        series: [
          { name: "a", colour: 0, look: "faint", points },
          {
            name: "a",
            colour: 0,
            look: "line",
            points: [
              [0, 2],
              [499, 2.5]
            ]
          }
        ]
      })
      expect(text).not.toMatch(/NaN|Infinity|undefined/)
      expect(text).not.toContain("1G")
    }
  })
})

describe("reading", () => {
  it("finds runs at any depth, and calls each by what tells it apart", async () => {
    expect((await findRuns([join(folder, "runs")])).map(({ name }) => name)).toEqual(["a", "b<i>"])
    expect((await findRuns([first, join(folder, "runs")])).map(({ name }) => name)).toEqual(["a", "b<i>"])
    expect(await findRuns([join(folder, "nowhere")])).toEqual([])
  })

  it("a tail gives whole lines once, and says when the file was cut back, also where it has grown again", async () => {
    const file = join(folder, "tail")
    const tail = new Tail(file)
    expect(await tail.read()).toEqual({ cut: false, lines: [] })
    writeFileSync(file, "one\ntwo\nthr")
    expect(await tail.read()).toEqual({ cut: false, lines: ["one", "two"] })
    appendFileSync(file, "ee\n")
    expect(await tail.read()).toEqual({ cut: false, lines: ["three"] })
    truncateSync(file, 4)
    expect(await tail.read()).toEqual({ cut: true, lines: ["one"] })
    appendFileSync(file, "2\n")
    expect(await tail.read()).toEqual({ cut: false, lines: ["2"] })
    truncateSync(file, 4)
    appendFileSync(file, "another two\nthree again\n")
    expect(await tail.read()).toEqual({ cut: true, lines: ["one", "another two", "three again"] })
  })

  it("reads a run whole; what is torn is passed over", async () => {
    const run = join(folder, "torn")
    mkdirSync(run)
    writeFileSync(join(run, "metrics.jsonl"), `${line(1)}{"step": 2, "lo\nnull\n${line(2)}{"step": 3`)
    const read = await Effect.runPromise(readRun(run, "torn"))
    expect(read.lines.map(({ step }) => step)).toEqual([1, 2])
    expect(read.config).toEqual({})
    expect(pointsOf(read, "loss", "tokens")).toEqual([
      [100, 4.9],
      [200, 4.8]
    ])
    const missing = await Effect.runPromise(Effect.flip(readRun(join(folder, "nowhere"))))
    expect(missing.code).toBe("INPUT_NOT_FOUND")
  })

  it("watch tells what comes, and everything anew after a cut", async () => {
    const run = join(folder, "watched")
    mkdirSync(run)
    writeFileSync(join(run, "metrics.jsonl"), line(1) + line(2))
    const told: Array<RunEvent> = []
    const until = async (count: number) => {
      for (let n = 0; told.length < count && n < 500; n += 1)
        await new Promise((done) => setTimeout(done, 10))
      expect(told).toHaveLength(count)
    }
    const fiber = Effect.runFork(
      Stream.runForEach(watch(run, { every: 10 }), (event) => Effect.sync(() => told.push(event)))
    )
    await until(3)
    writeFileSync(
      join(run, "samples.jsonl"),
      `${JSON.stringify({ step: 2, prompt: "问", response: "答" })}\n`
    )
    await until(4)
    truncateSync(join(run, "metrics.jsonl"), line(1).length)
    await until(7)
    await Effect.runPromise(Fiber.interrupt(fiber))
    expect(told.map((event) => (event.type === "metrics" ? event.metrics.step : event.type))).toEqual([
      "begin",
      1,
      2,
      "sample",
      "begin",
      1,
      "sample"
    ])
  })
})

describe("the file", () => {
  it("shows every run without its script, asks for nothing, and holds text as text", async () => {
    const output = join(folder, "page.html")
    const made = await Effect.runPromise(makeDashboard({ inputs: [join(folder, "runs")], output }))
    expect(made).toMatchObject({ runs: ["a", "b<i>"], output })
    const text = readFileSync(output, "utf8")
    for (const title of [
      "Training loss",
      "Evaluation loss",
      "BLEU-4",
      "Learning rate",
      "Gradient norm",
      "Memory"
    ]) {
      expect(text).toContain(title)
    }
    expect(text).not.toContain("<img")
    expect(text).not.toContain("b<i>")
    expect(text).toContain("b&lt;i&gt;")
    expect(text.match(/<\/script>/g)).toHaveLength(2)
    // Nothing is padded: said in the table, not drawn.
    expect(text).toContain("none")
    expect(text).not.toContain(`aria-label="Padding"`)
    expect(text.replaceAll("http://www.w3.org/2000/svg", "")).not.toMatch(/https?:\/\//)
    expect(text).not.toMatch(/ (style|on\w+)="/)
    const taken = await Effect.runPromise(Effect.flip(makeDashboard({ inputs: [folder], output })))
    expect(taken.code).toBe("TARGET_EXISTS")
    const none = makeDashboard({ inputs: [join(folder, "nowhere")], output: join(folder, "n") })
    expect((await Effect.runPromise(Effect.flip(none))).code).toBe("INPUT_NOT_FOUND")
  })

  it("chatlm dashboard --out tells what it has written", async () => {
    const output = join(folder, "cli.html")
    const ran = await chatlm(["dashboard", first, "--out", output, "--json"])
    expect(ran.status).toBe(0)
    expect(JSON.parse(ran.out)).toMatchObject({ runs: ["a"], output })
  })
})

describe("the script", () => {
  it("is whole: no module, no type, nothing that Node alone has", () => {
    const text = script()
    expect(text).not.toMatch(/^(import|export) /m)
    expect(text).not.toContain("node:")
    // The compiler of JavaScript itself is asked whether this is JavaScript.
    // oxlint-disable-next-line no-new-func -- compiled, never run
    expect(() => new Function(text)).not.toThrow()
  })
})

interface Answer {
  readonly status: number
  readonly headers: Record<string, unknown>
  readonly body: string
}

/** A request under any Host; `until` ends one that never ends itself. */
const ask = (
  address: string,
  path: string,
  host?: string,
  until?: (body: string) => boolean
): Promise<Answer> =>
  new Promise((done, fail) => {
    const asked = request(
      `${address}${path}`,
      host === undefined ? {} : { headers: { host } },
      (response) => {
        let body = ""
        const end = () => done({ status: response.statusCode ?? 0, headers: response.headers, body })
        response.setEncoding("utf8").on("data", (text: string) => {
          body += text
          if (until?.(body) === true) {
            end()
            asked.destroy()
          }
        })
        response.on("close", end)
      }
    )
    asked.on("error", fail)
    asked.end()
  })

describe("the server", () => {
  it("gives the page under a strict policy, tells runs as they grow, and answers this machine's names alone", async () => {
    let address = ""
    const ready = Promise.withResolvers<void>()
    const fiber = Effect.runFork(
      serveDashboard({
        inputs: [join(folder, "runs")],
        host: "127.0.0.1",
        port: 0,
        onReady: (at) =>
          Effect.sync(() => {
            address = at
            ready.resolve()
          })
      })
    )
    await ready.promise
    const page = await ask(address, "/")
    expect(page.status).toBe(200)
    expect(String(page.headers["content-security-policy"])).toMatch(/^default-src 'none'; script-src 'self';/)
    expect(page.body).not.toMatch(/<script>|<style>|<img/)
    for (const path of ["/style.css", "/app.js", "/icon.svg"])
      expect((await ask(address, path)).status).toBe(200)
    expect((await ask(address, "/", "evil.example:8813")).status).toBe(403)
    expect((await ask(address, "/events", "evil.example")).status).toBe(403)
    expect((await ask(address, "/", "localhost:1")).status).toBe(200)
    const growing = ask(address, "/events", undefined, (body) => body.includes(`"step":21,`))
    setTimeout(() => appendFileSync(join(first, "metrics.jsonl"), line(21)), 200)
    const events = await growing
    expect(events.headers["content-type"]).toBe("text/event-stream")
    const told = events.body
      .split("\n\n")
      .filter((text) => text.startsWith("data: "))
      .flatMap((text) => JSON.parse(text.slice(6)) as ReadonlyArray<{ type: string; run: string }>)
    expect(told.slice(0, 3).map(({ type, run }) => `${type} ${run}`)).toEqual([
      "begin a",
      "metrics a",
      "samples a"
    ])
    const began = performance.now()
    const open = ask(address, "/events", undefined, () => false).catch(() => undefined)
    await new Promise((done) => setTimeout(done, 300))
    await Effect.runPromise(Fiber.interrupt(fiber))
    await open
    expect(performance.now() - began).toBeLessThan(5000)
  })

  it("says which port is taken", async () => {
    const ran = await chatlm(["dashboard", folder, "--port", "0", "--host", "192.0.2.1"])
    expect(ran.status).toBe(3)
    expect(ran.error).toContain("192.0.2.1")
  })
})
