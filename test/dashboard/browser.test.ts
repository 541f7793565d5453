// The page in a real browser: it draws under its policy, follows a run that grows and is cut back, and answers to
// a pointer and the choices.
import { spawn } from "node:child_process"
import type { ChildProcess } from "node:child_process"
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  truncateSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { serveDashboard } from "../../ts/dashboard/server.ts"
import { makeDashboard } from "../../ts/index.ts"

const browser = process.env.CHATLM_BROWSER ?? "/usr/bin/chromium"
const isThere = existsSync(browser)
if (!isThere) process.stderr.write(`skipped: no browser at ${browser} (set CHATLM_BROWSER)\n`)

const folder = mkdtempSync(join(tmpdir(), "chatlm-browser-"))

const line = (step: number) =>
  `${JSON.stringify({ step, loss: 5 - step / 20, learning_rate: 1e-3, total_steps: 50, tokens: step * 1000, seconds: step, time: 1.7e9 + step })}\n`
const metrics = (name: string) => join(folder, "runs", name, "metrics.jsonl")
const nasty = `<img src=x onerror="document.title='broken'">`

interface Message {
  readonly id?: number
  readonly method?: string
  readonly params?: {
    readonly entry?: { readonly text: string }
    readonly args?: ReadonlyArray<{ readonly value: unknown }>
  }
  readonly result?: { readonly result?: { readonly value?: unknown }; readonly exceptionDetails?: unknown }
}

/** As much of the browser's protocol as these tests speak. */
class Page {
  readonly complaints: Array<string> = []
  private readonly socket: WebSocket
  private readonly waiting = new Map<number, (message: Message) => void>()
  private last = 0

  private constructor(socket: WebSocket) {
    this.socket = socket
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(String(data)) as Message
      if (message.id !== undefined) this.waiting.get(message.id)?.(message)
      if (message.method === "Log.entryAdded") this.complaints.push(message.params?.entry?.text ?? "")
      if (message.method === "Runtime.exceptionThrown") this.complaints.push(JSON.stringify(message.params))
    })
  }

  static async connect(address: string): Promise<Page> {
    const socket = new WebSocket(address)
    await new Promise((done, fail) => {
      socket.addEventListener("open", done)
      socket.addEventListener("error", fail)
    })
    const page = new Page(socket)
    for (const domain of ["Page", "Runtime", "Log"]) await page.call(`${domain}.enable`)
    return page
  }

  call(method: string, params: object = {}): Promise<Message> {
    this.last += 1
    const id = this.last
    return new Promise((done) => {
      this.waiting.set(id, done)
      this.socket.send(JSON.stringify({ id, method, params }))
    })
  }

  async value(expression: string): Promise<unknown> {
    const { result } = await this.call("Runtime.evaluate", { expression, returnByValue: true })
    return result?.result?.value
  }

  /** Waits until an expression says this. */
  async until(expression: string, wanted: unknown): Promise<void> {
    let found: unknown
    for (let n = 0; n < 150; n += 1) {
      found = await this.value(expression)
      if (found === wanted) return
      await new Promise((done) => setTimeout(done, 100))
    }
    expect(found, expression).toEqual(wanted)
  }
}

const firstSteps = `document.querySelector("#runs tbody tr td")?.textContent`

describe.skipIf(!isThere)("the page in a browser", () => {
  let child: ChildProcess
  let page: Page

  beforeAll(async () => {
    for (const name of ["a", "b"]) {
      mkdirSync(join(folder, "runs", name), { recursive: true })
      writeFileSync(metrics(name), Array.from({ length: 30 }, (_, step) => line(step + 1)).join(""))
    }
    writeFileSync(
      join(folder, "runs", "a", "samples.jsonl"),
      `${JSON.stringify({ step: 1, prompt: nasty, response: nasty, label: nasty })}\n`
    )
    const args = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--remote-debugging-port=0",
      "--window-size=1400,1000",
      `--user-data-dir=${join(folder, "profile")}`,
      "about:blank"
    ]
    child = spawn(browser, args, { stdio: ["ignore", "ignore", "pipe"] })
    const port = await new Promise<string>((done) => {
      let said = ""
      child.stderr?.on("data", (text) => {
        said += text
        const found = /listening on ws:\/\/[^:]+:(\d+)/.exec(said)
        if (found?.[1] !== undefined) done(found[1])
      })
    })
    const targets = (await (await fetch(`http://127.0.0.1:${port}/json`)).json()) as ReadonlyArray<{
      type: string
      webSocketDebuggerUrl: string
    }>
    page = await Page.connect(targets.find(({ type }) => type === "page")?.webSocketDebuggerUrl ?? "")
  })

  afterAll(async () => {
    const ended = new Promise((done) => child.once("close", done))
    child.kill()
    await ended
    rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })
  })

  it("live: draws, follows, is cut back, hides, and tells what lies under the pointer", async () => {
    const ready = Promise.withResolvers<string>()
    const fiber = Effect.runFork(
      serveDashboard({
        inputs: [join(folder, "runs")],
        host: "127.0.0.1",
        port: 0,
        onReady: (address) => Effect.sync(() => ready.resolve(address))
      })
    )
    await page.call("Page.navigate", { url: await ready.promise })
    await page.until(`document.querySelector("#live")?.textContent`, "live")
    await page.until(firstSteps, "30 of 50")
    await page.until(`document.querySelectorAll("figure.chart").length`, 2)
    expect(await page.value(`getComputedStyle(document.querySelector("polyline")).fill`)).toBe("none")
    expect(await page.value(`document.querySelector(".sample h3").textContent`)).toBe(nasty)
    expect(await page.value(`document.querySelectorAll("img").length`)).toBe(0)

    appendFileSync(metrics("a"), line(31) + line(32))
    await page.until(firstSteps, "32 of 50")
    truncateSync(metrics("a"), Array.from({ length: 20 }, (_, step) => line(step + 1)).join("").length)
    await page.until(firstSteps, "20 of 50")
    mkdirSync(join(folder, "runs", "c"))
    writeFileSync(metrics("c"), line(1))
    await page.until(`document.querySelectorAll("#runs tbody tr").length`, 3)

    const lines = `document.querySelectorAll("#chart-0 polyline").length`
    const before = Number(await page.value(lines))
    await page.value(`document.querySelector('input[data-run="b"]').click()`)
    expect(Number(await page.value(lines))).toBe(before - 2)
    await page.value(`document.querySelector('input[value="tokens"]').click()`)
    expect(await page.value(`document.querySelector("#chart-0 svg").textContent`)).toContain("20k")
    const box = (await page.value(
      `(() => { const { x, y, width, height } = document.querySelector("#chart-0 svg").getBoundingClientRect(); return { x, y, width, height } })()`
    )) as { x: number; y: number; width: number; height: number }
    await page.call("Input.dispatchMouseEvent", {
      type: "mouseMoved",
      x: box.x + box.width * 0.9,
      y: box.y + box.height / 2
    })
    await page.until(`document.querySelector(".tip")?.textContent.startsWith("1")`, true)
    expect(await page.value(`document.querySelector(".tip").textContent`)).toMatch(/k.*a.*4\./)

    await Effect.runPromise(Fiber.interrupt(fiber))
    await page.until(`document.querySelector("#live").className`, "off")
    expect(
      page.complaints.filter((text) => !/ERR_CONNECTION|Failed to load|ERR_INCOMPLETE/.test(text))
    ).toEqual([])
    expect(await page.value("document.title")).not.toBe("broken")
  })

  it("as a file: the same, under a policy that allows its own script and style alone", async () => {
    const output = join(folder, "page.html")
    await Effect.runPromise(makeDashboard({ inputs: [join(folder, "runs")], output }))
    page.complaints.length = 0
    await page.call("Page.navigate", { url: `file://${output}` })
    await page.until(`document.documentElement.className`, "js")
    expect(await page.value(`document.querySelectorAll("figure.chart").length`)).toBe(2)
    expect(await page.value(`getComputedStyle(document.querySelector("polyline")).fill`)).toBe("none")
    await page.value(`document.querySelector('input[value="seconds"]').click()`)
    expect(await page.value(`document.querySelector("#chart-0 svg").textContent`)).toContain("20 s")
    expect(await page.value(`document.querySelectorAll("img").length`)).toBe(0)
    expect(page.complaints).toEqual([])
  })
})
