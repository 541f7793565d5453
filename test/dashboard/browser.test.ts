// The page in a real browser: it draws under its policy, follows a run that grows and is cut back, and answers to
// a pointer and the choices.
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { serveDashboard } from "../../ts/dashboard/server.ts"
import { makeDashboard } from "../../ts/index.ts"
import { hasBrowser, openBrowser } from "../browser.ts"
import type { Page } from "../browser.ts"

const folder = mkdtempSync(join(tmpdir(), "chatlm-dashboard-"))

const line = (step: number) =>
  `${JSON.stringify({ step, loss: 5 - step / 20, learning_rate: 1e-3, total_steps: 50, tokens: step * 1000, seconds: step, time: 1.7e9 + step })}\n`
const metrics = (name: string) => join(folder, "runs", name, "metrics.jsonl")
const nasty = `<img src=x onerror="document.title='broken'">`

const firstSteps = `document.querySelector("#runs tbody tr td")?.textContent`

describe.skipIf(!hasBrowser)("the page in a browser", () => {
  let close: () => Promise<void>
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
    ;({ page, close } = await openBrowser())
  })

  afterAll(async () => {
    await close()
    rmSync(folder, { recursive: true, force: true })
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
